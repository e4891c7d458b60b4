"""Tests of rules and dashboards: promtool tests the rules, and a real Prometheus answers each query of each dashboard.

Prometheus scrapes a real proxy that gets requests of all kinds, and each query must have numbers. A stand-in serves the
metrics of vLLM, under the names that vLLM gives them. The model server is scripted, so that it fails in the ways that
the dashboards show.
"""

import asyncio
import json
import math
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from proxy.core.metrics import create_metrics
from tests.deploy import dashboards, rules
from tests.deploy.parts import DEPLOY, program
from tests.faults.process import command
from tests.faults.scripted import Received, Reply, completion, completion_events, scripted_backend
from tests.ports import free_port
from tests.proxy.experiments.test_shadow_judge import chat

PROMETHEUS = DEPLOY / "prometheus"
OF_EXPERIMENTS = {"drpo_experiment_requests", "drpo_exposures", "drpo_feedback", "drpo_judgements", "drpo_store_up"}
WITHIN = 60.0  # seconds for every query to be answered
VLLM = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")


def test_dashboards_and_rules_for_kubernetes_are_as_written_here() -> None:
    for dashboard in dashboards.DASHBOARDS:
        file = dashboards.FOLDER / f"{dashboard.name}.json"
        assert file.read_text(encoding="utf-8") == dashboards.written(dashboard), (
            "run `python -m tests.deploy.dashboards`"
        )
    assert rules.FILE.read_text(encoding="utf-8") == rules.written(), "run `python -m tests.deploy.rules`"


def test_every_metric_of_the_proxy_is_on_a_dashboard() -> None:
    """A metric that nobody looks at costs time and has no use."""
    shown = "".join(expression for _, expression in _every_query())
    named = {metric.name for metric in create_metrics().registry.collect() if metric.name.startswith("drpo_")}
    recorded = (PROMETHEUS / "rules" / "recording.yml").read_text(encoding="utf-8")
    assert {name for name in named if name not in shown + recorded} == set()


def test_every_metric_on_a_dashboard_is_one_of_the_proxys() -> None:
    assert {name for _, query in _every_query() for name in _strange(query)} <= OF_EXPERIMENTS


def _strange(query: str) -> set[str]:
    """Return the metrics in a query that the proxy does not have."""
    ours = {metric.name for metric in create_metrics().registry.collect()}
    named = re.findall(r"(?<!job:)(?<!job_variant:)\bdrpo_\w+?(?=(?:_total|_bucket|_sum|_count)?\b)", query)
    return {name for name in named if name not in ours}


def _every_query() -> list[tuple[str, str]]:
    files = sorted(dashboards.FOLDER.glob("*.json"))
    return [query for file in files for query in dashboards.queries(file.read_text(encoding="utf-8"))]


@pytest.mark.deploy
@pytest.mark.slow
def test_promtool_takes_the_rules_and_their_tests_pass() -> None:
    tool = program("promtool", "prometheus")
    for arguments in (["check", "rules", *rules.RULES], ["check", "config", "prometheus.yml"]):
        checked = subprocess.run([tool, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = subprocess.run([tool, "test", "rules", "rules_test.yml"], cwd=PROMETHEUS, capture_output=True, check=False)
    assert tested.returncode == 0, tested.stdout.decode() + tested.stderr.decode()


def test_every_alert_has_a_test() -> None:
    alerts = re.findall(r"- alert: (\w+)", (PROMETHEUS / "rules" / "alerts.yml").read_text(encoding="utf-8"))
    tests = (PROMETHEUS / "rules_test.yml").read_text(encoding="utf-8")
    fired = set(re.findall(r"- alertname: (\w+)\n\s+eval_time: \w+\n\s+exp_alerts:", tests))
    assert set(alerts) == fired


@pytest.mark.deploy
@pytest.mark.slow
async def test_every_query_of_every_dashboard_is_answered_with_numbers(tmp_path: Path) -> None:
    async with _scripted() as backends, scripted_backend(_judge) as judge, _vllm_page() as vllm:
        told = [word for url in backends for word in ("--backend", url)]
        told += ["--bundle", "scripted=default", "--kind", "scripted=completion", "--retrieval-timeout", "0.001"]
        told += ["--health-interval", "0.5", *_experiment(tmp_path), "--judge", judge.url]
        async with command(*told) as proxy, _prometheus(tmp_path, proxy.url.split("/")[2], vllm) as prometheus:
            asking = asyncio.create_task(_ask(proxy.url))
            try:
                left = {title: query for title, query in _every_query() if not _strange(query)}
                async with asyncio.timeout(WITHIN):
                    while left := {title: query for title, query in left.items() if not await prometheus(query)}:
                        await asyncio.sleep(1)
            except TimeoutError:
                pytest.fail(f"not answered within {WITHIN:.0f} s: {json.dumps(left, indent=1)}")
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)


def _experiment(folder: Path) -> list[str]:
    """Return flags for an experiment in which each request is judged."""
    file = folder / "experiment.toml"
    arms = "".join(
        f'[[arms]]\nname = "{name}"\nvariant = "{name}"\nweight = 1\n' for name in ("raw-matched", "aligned")
    )
    text = f'name = "one"\nmetrics = ["thumbs_up"]\n{arms}[judge]\nmodel = "critic"\nshare = 1.0\ncalls = 10000\n'
    file.write_text(text, encoding="utf-8")
    return ["--experiment", str(file), "--store", f"sqlite:{folder}/store.db"]


async def _judge(reply: Reply, _request: Received) -> None:
    await reply.whole(chat("A"))


@asynccontextmanager
async def _scripted() -> AsyncIterator[list[str]]:
    """Yield the URLs of two model servers that by turns answer, break off, are too busy, or close without a reply."""
    turn = count()

    async def script(reply: Reply, request: Received) -> None:
        which = next(turn) % 40
        if which < 12:  # so many in succession that one of the two servers has broken off three in succession
            reply.reset()
        elif which % 10 == 5:
            await reply.whole({}, "503 Service Unavailable")
        elif b'"stream":true' in request.body:
            await reply.begin()
            for event in completion_events(["a ", "word"])[: 2 if which % 5 == 4 else None]:
                await reply.chunk(event)
            await reply.end()
        else:
            await reply.whole(completion("An answer."))

    async with scripted_backend(script) as one, scripted_backend(script) as two:
        yield [one.url, two.url]


@asynccontextmanager
async def _vllm_page() -> AsyncIterator[str]:
    """Serve a page of vLLM's metrics whose counters grow, and yield its address."""
    turn = count(1)

    async def page(_request: web.Request) -> web.Response:
        now = next(turn)
        lines = [f"vllm:{name} 0.5" for name in VLLM]
        lines += [f"vllm:prefix_cache_queries_total {now * 1000}", f"vllm:prefix_cache_hits_total {now * 600}"]
        return web.Response(text="\n".join([*lines, ""]))

    app = web.Application()
    app.router.add_get("/metrics", page)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _ask(url: str) -> None:
    """Send requests for ever: streams and whole answers, both variants, known and new queries, short and long ones."""
    async with aiohttp.ClientSession() as session:
        for turn in count():
            content = ["What is DNA?", f"And what is {turn}?", f"{turn} " + "a long question about words " * 60][
                turn % 3
            ]
            model = "scripted@raw" if turn % 4 == 0 else "scripted"
            body = {"model": model, "messages": [{"role": "user", "content": content}], "stream": turn % 2 == 0}
            try:
                async with session.post(f"{url}/chat/completions", json=body) as response:
                    await response.read()
                await _praise(session, url, response)
            except aiohttp.ClientError:
                pass  # the script broke this stream off on purpose
            await asyncio.sleep(0.05)


async def _praise(session: aiohttp.ClientSession, url: str, response: aiohttp.ClientResponse) -> None:
    """Send feedback on an answer. A proxy without a store answers 404."""
    said = {"request_id": response.headers["X-Request-Id"], "metric": "thumbs_up", "value": True}
    async with session.post(f"{url}/feedback", json=said) as taken:
        await taken.read()


@asynccontextmanager
async def _prometheus(folder: Path, proxy: str, vllm: str) -> AsyncIterator[Any]:
    """Run Prometheus with our rules, scraping twice a second.

    Yield a function that says whether a query has numbers.
    """
    text = (PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8")
    text = text.replace("proxy:8080", proxy).replace("vllm:8000", vllm).replace("interval: 15s", "interval: 500ms")
    (folder / "prometheus.yml").write_text(text.replace("rules/", f"{PROMETHEUS}/rules/"), encoding="utf-8")
    port = free_port()
    words = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    words += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    process = await asyncio.create_subprocess_exec(program("prometheus", "prometheus"), *words)

    async def answered(query: str) -> bool:
        query = query.replace("$__rate_interval", "20s").replace("$job", ".*")
        try:
            async with session.get("/api/v1/query", params={"query": query}) as response:
                if response.status == 503:
                    return False  # Prometheus is still reading its configuration
                found = await response.json()
        except aiohttp.ClientConnectionError:
            return False
        assert found["status"] == "success", f"{query}: {found}"
        return any(not math.isnan(float(one["value"][1])) for one in found["data"]["result"])

    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            yield answered
    finally:
        process.terminate()
        await process.wait()
