"""Guards the real command against signals, dead workers and reloads: no open request is lost, and nothing is left."""

import asyncio
import os
import re
import shutil
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from index.bundle.bundle import default_bundle_directory
from proxy.api.auth import new_key
from proxy.core.metrics import FOLDER_VARIABLE
from tests.faults.process import ROOT, Command, children, command
from tests.faults.scripted import Received, Reply, completion, completion_events, scripted_backend


async def answer(reply: Reply, request: Received) -> None:
    await asyncio.sleep(request.json.get("wait", 0))
    await reply.whole(completion("Yes."))


async def drip(reply: Reply, request: Received) -> None:
    """Stream for about one second, or for the seconds that the request names."""
    await reply.begin()
    for event in completion_events(["Be", "cause"] * 5 * request.json.get("wait", 1)):
        await asyncio.sleep(0.1)
        await reply.chunk(event)
    await reply.end()


async def stream(server: Command) -> bytes:
    body = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{server.url}/chat/completions", json=body) as response:
            return await response.read()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_sigterm_refuses_new_requests_and_completes_open_streams(workers: str) -> None:
    async with scripted_backend(drip) as backend, command("--backend", backend.url, "--workers", workers) as server:
        open_streams = [asyncio.create_task(stream(server)) for _ in range(6)]
        while len(backend.generating) < 6:
            await asyncio.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        with_refusal = await _outcome(server)
        assert with_refusal in (503, "refused"), "draining, or no longer listening"
        streams = await asyncio.gather(*open_streams)
        assert all(one.endswith(b"data: [DONE]\n\n") for one in streams)
        assert await server.ended() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_sigterm_completes_an_open_answer_on_the_operator_page(workers: str) -> None:
    # Longer than the second that a listener being closed gives what is open.
    asked = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], "stream": True, "wait": 4}
    async with (
        scripted_backend(drip) as backend,
        command("--backend", backend.url, "--workers", workers) as server,
        aiohttp.ClientSession(server.admin_url) as session,
    ):
        async with session.post("/ui/api/chat", json=asked) as reply:
            await reply.content.readany()
            server.process.send_signal(signal.SIGTERM)
            assert (await reply.read()).endswith(b"data: [DONE]\n\n")
        assert await server.ended() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_drain_ends_at_its_timeout(workers: str) -> None:
    arguments = ("--workers", workers, "--drain-timeout", "0.5")
    async with scripted_backend(answer) as backend, command("--backend", backend.url, *arguments) as server:
        asking = asyncio.create_task(server.chat(wait=60))
        while not backend.generating:
            await asyncio.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        assert await server.ended() == 0
        with pytest.raises(aiohttp.ClientError):
            await asking


async def test_second_interrupt_ends_the_server_at_once() -> None:
    async with scripted_backend(answer) as backend, command("--backend", backend.url, "--workers", "2") as server:
        asking = asyncio.create_task(server.chat(wait=60))
        while not backend.generating:
            await asyncio.sleep(0.01)
        server.process.send_signal(signal.SIGINT)
        await asyncio.sleep(0.5)
        assert server.process.returncode is None
        server.process.send_signal(signal.SIGINT)
        assert await server.ended() == 0
        with pytest.raises(aiohttp.ClientError):
            await asking


async def test_killed_worker_is_replaced_while_the_others_serve() -> None:
    # The kernel draws the worker of each connection: of 20, all on one worker is once in a million runs.
    requests = 20
    arguments = ("--workers", "2", "--max-in-flight", str(requests))
    async with scripted_backend(answer) as backend, command("--backend", backend.url, *arguments) as server:
        first, second = server.workers()
        held = [asyncio.create_task(server.chat(f"number {n}", wait=1.5)) for n in range(requests)]
        while len(backend.generating) < requests:
            await asyncio.sleep(0.01)
        os.kill(first, signal.SIGKILL)
        outcomes = await asyncio.gather(*held, return_exceptions=True)
        lost = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert 0 < len(lost) < requests, "the other worker's requests were not lost"
        await server.logged('"worker died"')
        assert {(await server.chat())[0] for _ in range(10)} == {200}, "the dead worker's seats were given back"
        await server.logged('"worker restarted"')
        assert second in server.workers()
        assert len(server.workers()) == 2
        assert {(await server.chat())[0] for _ in range(10)} == {200}
        page = (await server.get("/metrics"))[1]
        assert _total(page, "drpo_requests_in_flight") == 0
        assert _total(page, "drpo_requests_total") >= 20 + requests - len(lost)


async def test_killed_server_leaves_no_worker_and_no_file() -> None:
    async with scripted_backend(answer) as backend, command("--backend", backend.url, "--workers", "2") as server:
        workers = server.workers()
        assert len(workers) == 2
        environment = Path(f"/proc/{workers[0]}/environ").read_text(encoding="utf-8").split("\0")
        folder = Path(next(one for one in environment if one.startswith(FOLDER_VARIABLE)).partition("=")[2])
        assert (folder / "seats").exists()
        server.process.kill()
        await server.ended()
        async with asyncio.timeout(10):
            while any(_alive(pid) for pid in workers):
                await asyncio.sleep(0.05)
        assert not folder.exists()


@pytest.mark.parametrize("after", [0.0, 0.5])
async def test_server_killed_during_its_start_leaves_no_worker_and_no_file(after: float, tmp_path: Path) -> None:
    start = [sys.executable, "-m", "proxy", "--port", "0", "--workers", "2"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    async with scripted_backend(answer) as backend:
        command = (*start, "--backend", backend.url)
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment, stdout=PIPE, stderr=PIPE)
        async with asyncio.timeout(30):
            while len(workers := children(process.pid)) < 2:
                await asyncio.sleep(0.01)
        await asyncio.sleep(after)
        process.kill()
        output = await process.communicate()  # to the end of the last worker, which has the same standard error
        async with asyncio.timeout(10):
            while any(_alive(pid) for pid in workers):
                await asyncio.sleep(0.05)
        assert b"Traceback" not in b"".join(output)
        assert not list(tmp_path.glob("drpo-*"))


async def test_server_killed_during_its_drain_completes_open_streams() -> None:
    async with scripted_backend(drip) as backend, command("--backend", backend.url, "--workers", "2") as server:
        open_streams = [asyncio.create_task(stream(server)) for _ in range(4)]
        while len(backend.generating) < 4:
            await asyncio.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        server.process.kill()
        assert all(one.endswith(b"data: [DONE]\n\n") for one in await asyncio.gather(*open_streams))


async def test_limits_apply_to_all_workers_together(tmp_path: Path) -> None:
    key, line = new_key("alice")
    keys = tmp_path / "keys"
    keys.write_text(f"{line} requests_per_minute=10\n", encoding="utf-8")
    mine = {"Authorization": f"Bearer {key}"}
    arguments = ("--workers", "2", "--api-keys-file", str(keys), "--max-in-flight", "3", "--max-queue", "0")
    async with scripted_backend(answer) as backend, command("--backend", backend.url, *arguments) as server:
        together = [server.chat(f"number {n}", mine, wait=1) for n in range(8)]
        statuses = [status for status, _, _ in await asyncio.gather(*together)]
        assert sorted(statuses) == [200] * 3 + [503] * 5
        more = [(await server.chat(headers=mine))[0] for _ in range(6)]
        assert more == [200, 200, 429, 429, 429, 429], "eight of ten were used, whichever worker saw them"
        workers = set()
        async with asyncio.timeout(20):  # the log's lines come after the answers
            while workers != {0, 1}:
                workers = {orjson.loads(one)["worker"] for one in server.log if '"request"' in one}
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_reload_from_the_admin_listener_is_atomic(workers: str, tmp_path: Path) -> None:
    copy = shutil.copytree(default_bundle_directory(), tmp_path / "bundle")
    keys = tmp_path / "keys"
    old, line = new_key("alice")
    keys.write_text(line, encoding="utf-8")
    arguments = ("--bundle", f"scripted={copy}", "--workers", workers, "--api-keys-file", str(keys))
    async with scripted_backend(answer) as backend, command("--backend", backend.url, *arguments) as server:
        assert await _statuses(server, old) == {200}
        new, line = new_key("bob")
        keys.write_text(line, encoding="utf-8")
        (copy / "prompt.txt").write_text("tampered with", encoding="utf-8")
        status, body = await _reload(server)
        assert (status, body["error"]["code"]) == (409, "reload_refused")
        assert "prompt.txt" in body["error"]["message"]
        assert (await _statuses(server, old), await _statuses(server, new)) == ({200}, {401})
        shutil.rmtree(copy)
        shutil.copytree(default_bundle_directory(), copy)
        assert await _reload(server) == (200, {"bundles": 1, "keys": 1, "experiments": 0})
        assert (await _statuses(server, old), await _statuses(server, new)) == ({401}, {200})


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Host": "evil.example:80"}])
async def test_admin_listener_refuses_a_foreign_origin_or_host(headers: dict[str, str]) -> None:
    async with scripted_backend(answer) as backend, command("--backend", backend.url) as server:
        status, body = await _reload(server, headers)
        assert (status, body["error"]["code"]) == (403, "forbidden")
        assert (await _reload(server, {"Origin": server.admin_url}))[0] == 200


async def test_worker_that_cannot_start_is_reported_in_one_line(tmp_path: Path) -> None:
    copy = shutil.copytree(default_bundle_directory(), tmp_path / "bundle")
    (copy / "prompt.txt").write_text("tampered with", encoding="utf-8")
    with pytest.raises(AssertionError, match=r"prompt\.txt"):
        async with command("--backend", "http://127.0.0.1:9", "--workers", "2", "--bundle", f"m={copy}"):
            pass


async def test_port_shared_by_other_workers_is_reported_as_in_use() -> None:
    async with scripted_backend(answer) as backend, command("--backend", backend.url, "--workers", "2") as server:
        port = re.search(r":(\d+)/", server.url)
        assert port
        for workers in ("1", "2"):
            with pytest.raises(AssertionError, match="in use"):
                async with command("--backend", backend.url, "--port", port[1], "--workers", workers):
                    pass


async def _outcome(server: Command) -> Any:
    try:
        return (await server.chat())[0]
    except aiohttp.ClientError:
        return "refused"


async def _statuses(server: Command, key: str) -> set[int]:
    """Return the statuses of ten requests, which the kernel distributes over the workers."""
    return {(await server.chat(headers={"Authorization": f"Bearer {key}"}))[0] for _ in range(10)}


async def _reload(server: Command, headers: Any = None) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{server.admin_url}/admin/reload", headers=headers) as response:
            return response.status, await response.json()


def _total(page: str, name: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if re.match(rf"{name}[ {{]", line))


def _alive(pid: int) -> bool:
    """Return whether a process runs. A zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
