"""Guards when, in which form and how gently the prefix caches of backends are warmed, on scripted backends."""

import asyncio
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from index.types import ExampleSet
from proxy.core.log import log_lines
from proxy.inference.injection.model_bundles import named_bundles
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.server import cache_warming
from proxy.server.cache_warming import warming
from proxy.server.reload import Loaded, serve_loaded
from proxy.server.service import drain
from tests.faults.scripted import (
    Received,
    Reply,
    Script,
    ScriptedBackend,
    say_yes,
    scripted_backend,
    stopped_backend,
)
from tests.proxy.serving import Serving, make_settings, served_bundle, serving, until

SETS = (ExampleSet("nature", ("sky",), ("sky",)), ExampleSet("daily", ("tea", "sum"), ("tea", "sum")))
FAST = 0.05  # seconds


def bundle_with_sets(id_letter: str = "b", sets: tuple[ExampleSet, ...] = SETS, **policy: Any) -> ServedBundle:
    return served_bundle(sets=sets, id_letter=id_letter, **{"policy": "set", **policy})


def warming_requests(backend: ScriptedBackend) -> list[Received]:
    """Return the requests that warm the cache: those for one token."""
    return [one for one in backend.generating if one.json.get("max_tokens") == 1]


def counts(proxy: Serving) -> dict[str, float]:
    """Return the metric of warmed prefixes, by result."""
    page = proxy.gateway.metrics.exposition().decode()
    lines = [line for line in page.splitlines() if line.startswith("drpo_warmed_prefixes_total")]
    return {line.split('"')[1]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.endswith(" 0.0")}


@contextmanager
def logged(folder: Path) -> Iterator[list[Mapping[str, Any]]]:
    """Collect the lines of the log about the cache. They are in the list when the block has ended."""
    lines: list[Mapping[str, Any]] = []
    with (folder / "log").open("w") as file, log_lines("json", file):
        yield lines
    lines += [orjson.loads(line) for line in (folder / "log").read_bytes().splitlines() if b'"cache ' in line]


@asynccontextmanager
async def warm_proxy(
    *backends: str, bundles: Mapping[str, ServedBundle] | None = None, **values: Any
) -> AsyncIterator[Serving]:
    """Run a proxy that warms its backends, with a short health interval."""
    bundles = {"scripted": bundle_with_sets()} if bundles is None else bundles
    values = {"health_interval": FAST, **values}
    async with serving(*backends, bundles=bundles, **values) as proxy:
        async with warming(proxy.gateway, make_settings(**values), proxy.shared):
            yield proxy


@pytest.mark.parametrize("kind", ["completion", "chat"])
@pytest.mark.parametrize(
    ("query", "shown"), [("Why is the sky blue?", "refuse,sky"), ("How do I make tea?", "refuse,tea,sum")]
)
async def test_requests_of_a_set_begin_with_what_was_warmed(kind: str, query: str, shown: str) -> None:
    async with scripted_backend(say_yes, kind=kind) as backend, warm_proxy(backend.url) as proxy:
        await until(lambda: counts(proxy) == {"sent": 2.0})
        warmed = [one.json for one in warming_requests(backend)]
        _, headers, _ = await proxy.chat(query, max_tokens=50)
        assert headers["x-drpo-examples"] == shown
        sent = backend.generating[-1].json
    if kind == "completion":
        (prefix,) = [one["prompt"] for one in warmed if sent["prompt"].startswith(one["prompt"])]
        assert sent["prompt"].removeprefix(prefix) == f"# Query:\n{query}\n\n# Answer:\n"
    else:
        ((*prefix, last),) = [one["messages"] for one in warmed if one["messages"][:-1] == sent["messages"][:-1]]
        assert last["role"] == "user", "a template may write an example at the end in another way"
        assert len(prefix) == 1 + 2 * len(shown.split(","))


@pytest.mark.parametrize("query", ["Why is the sky blue?", "How do I make tea?", "Zebra", "What is two and two?"])
@pytest.mark.parametrize(
    "policy",
    [{"policy": "set_and_nearest", "k": 2}, {"policy": "set", "similarity_floor": 0.9, "neutral_set": "nature"}],
    ids=["nearest examples behind the set", "neutral set below a floor"],
)
async def test_every_request_begins_with_what_was_warmed(policy: dict[str, Any], query: str) -> None:
    bundles = {"scripted": bundle_with_sets(**policy)}
    async with scripted_backend(say_yes) as backend, warm_proxy(backend.url, bundles=bundles) as proxy:
        await until(lambda: counts(proxy) == {"sent": 2.0})
        warmed = [one.json["prompt"] for one in warming_requests(backend)]
        await proxy.chat(query, max_tokens=50)
        assert [one for one in warmed if backend.generating[-1].json["prompt"].startswith(one)]


@pytest.mark.parametrize("kind", ["completion", "chat"])
async def test_bundle_without_sets_is_warmed_with_prompt_and_pinned_examples(kind: str) -> None:
    bundles = {"scripted": served_bundle()}
    async with scripted_backend(say_yes, kind=kind) as backend, warm_proxy(backend.url, bundles=bundles) as proxy:
        await until(lambda: counts(proxy) == {"sent": 1.0})
        (warmed,) = [one.json for one in warming_requests(backend)]
        await proxy.chat("Why is the sky blue?", max_tokens=50)
        sent = backend.generating[-1].json
    if kind == "completion":
        assert sent["prompt"].startswith(warmed["prompt"])
        assert warmed["prompt"].endswith("I can't help with that.\n\n")
    else:
        assert sent["messages"][:3] == warmed["messages"][:3]
        assert len(warmed["messages"]) == 4


@pytest.mark.parametrize(
    ("context", "limit"),
    [(4096, 10_000), (None, 10_000), (512, 10_000), (400, 10_000), (300, 10_000), (4096, 50), (4096, 30)],
)
async def test_prefix_has_only_the_examples_that_requests_get(context: int | None, limit: int) -> None:
    bundles = {"scripted": bundle_with_sets(max_injected_tokens=limit)}
    async with scripted_backend(say_yes, context=context) as backend:
        async with warm_proxy(backend.url, bundles=bundles) as proxy:
            await until(lambda: counts(proxy) == {"sent": 2.0})
            for one, query in zip(
                warming_requests(backend), ("Why is the sky blue?", "How do I make tea?"), strict=True
            ):
                await proxy.chat(query, max_tokens=200)
                assert backend.generating[-1].json["prompt"].startswith(one.json["prompt"])


@pytest.mark.parametrize("bundles", [{}, {"other": bundle_with_sets()}], ids=["no bundle", "bundle of another model"])
async def test_nothing_is_sent_without_a_bundle_of_a_listed_model(bundles: Mapping[str, ServedBundle]) -> None:
    async with scripted_backend(say_yes) as backend, warm_proxy(backend.url, bundles=bundles):
        await asyncio.sleep(4 * FAST)
        assert backend.generating == []


@pytest.mark.parametrize(("told", "worker"), [({"warm_cache": False}, 0), ({}, 1)], ids=["off", "second worker"])
async def test_nothing_is_sent_if_it_is_off_or_another_worker_does_it(told: dict[str, Any], worker: int) -> None:
    async with (
        scripted_backend(say_yes) as backend,
        serving(backend.url, bundles={"scripted": bundle_with_sets()}) as proxy,
    ):
        proxy.shared.worker = worker
        async with warming(proxy.gateway, make_settings(health_interval=FAST, **told), proxy.shared):
            await asyncio.sleep(4 * FAST)
        assert backend.generating == []


async def test_warming_is_no_traffic_of_users() -> None:
    async with scripted_backend(say_yes) as backend, warm_proxy(backend.url) as proxy:
        before = proxy.gateway.pool.backends[0].load
        await until(lambda: counts(proxy) == {"sent": 2.0})
        page = proxy.gateway.metrics.exposition().decode()
        for name in (
            "drpo_requests_total",
            "drpo_injected_tokens_count",
            "drpo_tokens_total",
            "drpo_retrieval_seconds",
        ):
            assert not [line for line in page.splitlines() if line.startswith(name) and not line.endswith(" 0.0")]
        assert proxy.gateway.pool.backends[0].load == before


@asynccontextmanager
async def switched(script: Script) -> AsyncIterator[tuple[ScriptedBackend, Callable[[bool], Awaitable[None]]]]:
    """Run a backend. The function that is yielded stops it (False), or starts it again (True)."""
    with stopped_backend(script) as backend:
        async with AsyncExitStack() as running:

            async def turn(on: bool) -> None:
                await (running.enter_async_context(scripted_backend(backend)) if on else running.aclose())

            await turn(True)
            yield backend, turn


async def test_every_backend_is_warmed_once_and_again_after_its_outage() -> None:
    async with (
        scripted_backend(say_yes) as other,
        switched(say_yes) as (backend, turn),
        warm_proxy(other.url, backend.url) as proxy,
    ):
        await until(lambda: counts(proxy) == {"sent": 4.0})
        await asyncio.sleep(4 * FAST)
        assert counts(proxy) == {"sent": 4.0}, "once"
        await turn(False)
        await until(lambda: not proxy.gateway.pool.backends[1].healthy)
        await turn(True)
        await until(lambda: counts(proxy) == {"sent": 6.0})
        assert (len(warming_requests(other)), len(warming_requests(backend))) == (2, 4)


async def test_outage_that_only_a_request_noticed_is_an_outage() -> None:
    async with switched(say_yes) as (backend, turn), warm_proxy(backend.url, health_interval=1.0) as proxy:
        await until(lambda: counts(proxy) == {"sent": 2.0})
        await turn(False)
        assert (await proxy.chat())[0] == 503
        await turn(True)
        await until(lambda: counts(proxy) == {"sent": 4.0})


async def test_backend_that_is_down_at_the_start_is_warmed_when_it_comes() -> None:
    async with switched(say_yes) as (backend, turn):
        await turn(False)
        async with warm_proxy(backend.url) as proxy:
            await asyncio.sleep(4 * FAST)
            assert counts(proxy) == {}
            await turn(True)
            await until(lambda: counts(proxy) == {"sent": 2.0})


async def test_new_kind_of_a_model_is_warmed_in_its_form() -> None:
    async with scripted_backend(say_yes) as backend, warm_proxy(backend.url) as proxy:
        await until(lambda: counts(proxy) == {"sent": 2.0})
        for check in proxy.gateway.pool._health_checks:
            check.cancel()  # a check that has begun would restore the old kind
        (state,) = proxy.gateway.pool.backends
        state.models = {name: replace(model, kind="chat") for name, model in state.models.items()}
        await until(lambda: counts(proxy) == {"sent": 4.0})
        assert [one.path for one in warming_requests(backend)] == ["/v1/completions"] * 2 + ["/v1/chat/completions"] * 2


@pytest.mark.parametrize("letter", ["b", "c"], ids=["same bundle", "new bundle"])
async def test_reload_warms_what_is_served_then(letter: str) -> None:
    async with scripted_backend(say_yes) as backend, warm_proxy(backend.url) as proxy:
        await until(lambda: counts(proxy) == {"sent": 2.0})
        serve_loaded(proxy.gateway, Loaded(named_bundles({"scripted": bundle_with_sets(letter, SETS[:1])}), None, None))
        await until(lambda: counts(proxy) == {"sent": 3.0})
        await asyncio.sleep(4 * FAST)
        assert len(warming_requests(backend)) == 3


async def test_reload_ends_the_warming_of_the_old_bundle() -> None:
    release = asyncio.Event()

    async def held(reply: Reply, request: Received) -> None:
        await release.wait()
        await say_yes(reply, request)

    many = tuple(replace(SETS[0], name=str(n), members=()) for n in range(9))
    async with scripted_backend(held) as backend:
        async with warm_proxy(backend.url, bundles={"scripted": bundle_with_sets(sets=many)}) as proxy:
            await until(lambda: warming_requests(backend))
            serve_loaded(proxy.gateway, Loaded(named_bundles({"scripted": bundle_with_sets("c")}), None, None))
            release.set()
            await until(lambda: counts(proxy) == {"sent": 3.0, "skipped": 8.0})


async def _status(reply: Reply, status: str) -> None:
    await reply.whole({"error": {"message": "a SECRET of the backend"}}, status)


async def _reset(reply: Reply) -> None:
    reply.reset()


async def _silence(reply: Reply) -> None:
    await asyncio.sleep(3600)


@pytest.mark.parametrize("failing_at", [0, 1])
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda reply: _status(reply, "500 Internal Server Error"), "/v1/completions answered 500"),
        (lambda reply: _status(reply, "503 Service Unavailable"), "/v1/completions answered 503"),
        (lambda reply: _status(reply, "400 Bad Request"), "/v1/completions answered 400"),
        (lambda reply: _status(reply, "401 Unauthorized"), "/v1/completions answered 401"),
        (_reset, "closed"),
        (_silence, "was not answered within 1 s"),
    ],
    ids=["500", "503", "400", "401", "reset", "silence"],
)
async def test_failure_ends_the_warming_with_one_line_in_the_log(
    fault: Callable[[Reply], Awaitable[None]],
    reason: str,
    failing_at: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(cache_warming, "_PREFIX_TIMEOUT", 1.0 if fault is _silence else 60.0)
    asked: list[Received] = []

    async def fails(reply: Reply, request: Received) -> None:
        asked.append(request)
        await (fault(reply) if len(asked) > failing_at else say_yes(reply, request))

    with logged(tmp_path) as log:
        async with scripted_backend(fails) as backend, warm_proxy(backend.url) as proxy:
            before = {"sent": 1.0} if failing_at else {"skipped": 1.0}
            await until(lambda: counts(proxy) == {"failed": 1.0, **before})
            seen = len(asked)
            assert seen <= failing_at + 2, "a connection that breaks is tried once more"
            await asyncio.sleep(4 * FAST)
            assert len(asked) == seen, "nothing is sent again before the backend comes back"
            assert proxy.gateway.pool.backends[0].healthy
            assert proxy.gateway.pool.backends[0].health.available
    (line,) = log
    assert (line["event"], line["prefixes"]) == ("cache not warmed", failing_at)
    assert reason in line["reason"]
    assert "SECRET" not in str(line)


async def test_total_time_is_limited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cache_warming, "_WARMING_TIMEOUT", 2.0)
    asked: list[Received] = []

    async def silent_at_last(reply: Reply, request: Received) -> None:
        asked.append(request)
        await (_silence(reply) if len(asked) > 1 else say_yes(reply, request))

    with logged(tmp_path) as log:
        async with scripted_backend(silent_at_last) as backend, warm_proxy(backend.url) as proxy:
            await until(lambda: counts(proxy) == {"sent": 1.0, "skipped": 1.0})
    assert [(line["event"], line["reason"]) for line in log] == [("cache not warmed", "not done after 2 s")]


async def test_number_of_prefixes_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_warming, "_MAX_PREFIXES", 1)
    async with scripted_backend(say_yes) as backend, warm_proxy(backend.url) as proxy:
        await until(lambda: counts(proxy) == {"sent": 1.0, "skipped": 1.0})
        assert len(warming_requests(backend)) == 1


async def test_one_prefix_at_a_time_and_a_pause_after_each() -> None:
    times: list[float] = []

    async def slow(reply: Reply, request: Received) -> None:
        times.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.2)
        times.append(asyncio.get_running_loop().time())
        await say_yes(reply, request)

    async with scripted_backend(slow) as backend, warm_proxy(backend.url) as proxy:
        await until(lambda: counts(proxy) == {"sent": 2.0})
    assert times == sorted(times)
    assert times[2] - times[1] >= 0.2, "at most half of the backend's time"


@pytest.mark.parametrize("where", ["this worker", "other workers"])
async def test_warming_waits_while_users_are_served(where: str) -> None:
    async with scripted_backend(say_yes) as backend:
        bundles = {"scripted": bundle_with_sets()}
        async with serving(backend.url, bundles=bundles, health_interval=FAST) as proxy:
            (state,) = proxy.gateway.pool.backends
            proxy.shared.in_flight = memoryview(array("q", [0, 3 if where == "other workers" else 0]))
            state.in_flight.value = 3 if where == "this worker" else 0
            async with warming(proxy.gateway, make_settings(health_interval=FAST), proxy.shared):
                await asyncio.sleep(0.3)
                assert backend.generating == []
                proxy.shared.in_flight[1] = state.in_flight.value = 1
                await until(lambda: len(warming_requests(backend)) == 2)


async def test_drain_ends_the_warming_at_once() -> None:
    async with scripted_backend(lambda reply, _: _silence(reply)) as backend, warm_proxy(backend.url) as proxy:
        await until(lambda: warming_requests(backend))
        await drain(proxy.gateway, 60.0, asyncio.Event(), lambda _: None)
        await until(backend.aborted.is_set)
        await until(lambda: counts(proxy) == {"skipped": 2.0})
        await asyncio.sleep(4 * FAST)
        assert len(warming_requests(backend)) == 1
