"""Guards the real command against signals, dead workers and reloads: no open request is lost, and nothing is left."""

import asyncio
import os
import re
import shutil
import signal
import sys
import time
from asyncio.subprocess import PIPE
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from index.bundle.bundle import default_bundle_directory
from proxy.api.auth import new_key
from proxy.core.metrics import FOLDER_VARIABLE
from tests.faults.process import ROOT, Command, children, command
from tests.faults.scripted import Received, Reply, Script, completion, completion_events, scripted_backend
from tests.proxy.serving import until

PATIENT = ("--drain-timeout", "3600")  # a busy machine must not end a drain


async def answer(reply: Reply, request: Received) -> None:
    await asyncio.sleep(request.json.get("wait", 0))
    await reply.whole(completion("Yes."))


async def drip(reply: Reply, request: Received) -> None:
    """Stream for at least the seconds that the request names."""
    await reply.begin()
    for event in completion_events(["Be", "cause"] * 5 * request.json["wait"]):
        await asyncio.sleep(0.1)
        await reply.chunk(event)
    await reply.end()


def held_until(gate: asyncio.Event) -> Script:
    """Return a script that completes streams, and requests with `held`, after the gate opens, and others at once."""

    async def script(reply: Reply, request: Received) -> None:
        if not request.json.get("stream"):
            if request.json.get("held"):
                await gate.wait()
            return await reply.whole(completion("Yes."))
        first, *rest = completion_events(["Be", "cause"])
        await reply.begin()
        await reply.chunk(first)
        await gate.wait()
        for event in rest:
            await reply.chunk(event)
        return await reply.end()

    return script


async def stream(server: Command) -> bytes:
    body = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{server.url}/chat/completions", json=body) as response:
            return await response.read()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_sigterm_refuses_new_requests_and_completes_open_streams(workers: str) -> None:
    gate = asyncio.Event()
    async with (
        scripted_backend(held_until(gate)) as backend,
        command("--backend", backend.url, "--workers", workers, *PATIENT) as server,
    ):
        open_streams = [asyncio.create_task(stream(server)) for _ in range(6)]
        await until(lambda: len(backend.generating) == 6)
        server.process.send_signal(signal.SIGTERM)
        await _refuses(server)
        gate.set()
        streams = await asyncio.gather(*open_streams)
        assert all(one.endswith(b"data: [DONE]\n\n") for one in streams)
        assert await server.ended() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_sigterm_completes_an_open_answer_on_the_operator_page(workers: str) -> None:
    # This is longer than the second for which a closing listener keeps open connections.
    asked = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], "stream": True, "wait": 4}
    async with (
        scripted_backend(drip) as backend,
        command("--backend", backend.url, "--workers", workers, *PATIENT) as server,
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
        asking = asyncio.create_task(server.chat(wait=3600))
        await until(lambda: backend.generating)
        server.process.send_signal(signal.SIGTERM)
        assert await server.ended() == 0
        with pytest.raises(aiohttp.ClientError):
            await asking


async def test_second_interrupt_ends_the_server_at_once() -> None:
    flags = ("--workers", "2", *PATIENT)
    async with scripted_backend(answer) as backend, command("--backend", backend.url, *flags) as server:
        asking = asyncio.create_task(server.chat(wait=3600))
        await until(lambda: backend.generating)
        server.process.send_signal(signal.SIGINT)
        await _refuses(server)  # the first signal has arrived; the kernel could merge the two
        assert server.process.returncode is None
        server.process.send_signal(signal.SIGINT)
        assert await server.ended() == 0
        with pytest.raises(aiohttp.ClientError):
            await asking


async def test_killed_worker_is_replaced_while_the_others_serve() -> None:
    # The kernel chooses the worker of each connection. All 20 get the same worker in two of a million runs.
    requests, gate = 20, asyncio.Event()
    arguments = ("--workers", "2", "--max-in-flight", str(requests))
    async with scripted_backend(held_until(gate)) as backend, command("--backend", backend.url, *arguments) as server:
        first, second = server.workers()
        held = [asyncio.create_task(server.chat(f"number {n}", held=True)) for n in range(requests)]
        await until(lambda: len(backend.generating) == requests)
        os.kill(first, signal.SIGKILL)
        await until(lambda: any(request.done() for request in held))
        gate.set()
        outcomes = await asyncio.gather(*held, return_exceptions=True)
        lost = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert 0 < len(lost) < requests, "the other worker's requests were not lost"
        await server.logged('"worker died"')
        assert {(await server.chat())[0] for _ in range(10)} == {200}, "the dead worker's seats were given back"
        await server.logged('"worker restarted"')
        assert second in server.workers()
        assert len(server.workers()) == 2
        assert {(await server.chat())[0] for _ in range(10)} == {200}
        # A client has its reply before the worker gives the seat back and counts the request.
        await _counted(server, "drpo_requests_in_flight", 0)
        await _counted(server, "drpo_requests_total", 20 + requests - len(lost))


async def test_killed_server_leaves_no_worker_and_no_file() -> None:
    async with scripted_backend(answer) as backend, command("--backend", backend.url, "--workers", "2") as server:
        workers = server.workers()
        assert len(workers) == 2
        environment = Path(f"/proc/{workers[0]}/environ").read_text(encoding="utf-8").split("\0")
        folder = Path(next(one for one in environment if one.startswith(FOLDER_VARIABLE)).partition("=")[2])
        assert (folder / "seats").exists()
        server.process.kill()
        await server.ended()
        async with asyncio.timeout(60):
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
        async with asyncio.timeout(60):
            while len(workers := children(process.pid)) < 2:
                await asyncio.sleep(0.01)
        await asyncio.sleep(after)
        process.kill()
        output = await process.communicate()  # until the last worker ends, because it shares the standard error
        async with asyncio.timeout(60):
            while any(_alive(pid) for pid in workers):
                await asyncio.sleep(0.05)
        assert b"Traceback" not in b"".join(output)
        assert not list(tmp_path.glob("drpo-*"))


async def test_server_killed_during_its_drain_completes_open_streams() -> None:
    gate = asyncio.Event()
    async with (
        scripted_backend(held_until(gate)) as backend,
        command("--backend", backend.url, "--workers", "2", *PATIENT) as server,
    ):
        open_streams = [asyncio.create_task(stream(server)) for _ in range(4)]
        await until(lambda: len(backend.generating) == 4)
        server.process.send_signal(signal.SIGTERM)
        await _refuses(server)
        server.process.kill()
        await until(lambda: not _alive(server.process.pid))
        await asyncio.sleep(2)  # longer than the second for which a closing listener keeps open connections
        gate.set()
        assert all(one.endswith(b"data: [DONE]\n\n") for one in await asyncio.gather(*open_streams))


@pytest.mark.parametrize("signals", [1, 2])
async def test_first_signal_after_the_end_of_the_supervisor_completes_open_streams(signals: int) -> None:
    """The second one ends the workers at once, as in a server whose supervisor lives."""
    gate = asyncio.Event()
    async with (
        scripted_backend(held_until(gate)) as backend,
        command("--backend", backend.url, "--workers", "2", *PATIENT) as server,
    ):
        workers = server.workers()
        open_streams = [asyncio.create_task(stream(server)) for _ in range(4)]
        await until(lambda: len(backend.generating) == 4)
        server.process.kill()
        await _refuses(server)
        for _ in range(signals):
            for pid in workers:
                with suppress(ProcessLookupError):  # a worker without an open stream has ended
                    os.kill(pid, signal.SIGTERM)
            await asyncio.sleep(1)  # two pending signals of the same number would be one
        if signals == 1:
            await asyncio.sleep(5)  # longer than a worker that does not wait keeps open connections
            gate.set()
        read = await asyncio.gather(*open_streams, return_exceptions=True)
        complete = [isinstance(one, bytes) and one.endswith(b"data: [DONE]\n\n") for one in read]
        assert complete == [signals == 1] * 4


async def test_limits_apply_to_all_workers_together(tmp_path: Path) -> None:
    key, line = new_key("alice")
    keys = tmp_path / "keys"
    keys.write_text(f"{line} requests_per_minute=10\n", encoding="utf-8")
    mine, gate = {"Authorization": f"Bearer {key}"}, asyncio.Event()
    arguments = ("--workers", "2", "--api-keys-file", str(keys), "--max-in-flight", "3", "--max-queue", "0")
    async with scripted_backend(held_until(gate)) as backend, command("--backend", backend.url, *arguments) as server:
        began = time.monotonic()
        together = [asyncio.create_task(server.chat(f"number {n}", mine, held=True)) for n in range(8)]
        await until(lambda: sum(request.done() for request in together) == 5)
        gate.set()
        statuses = [status for status, _, _ in await asyncio.gather(*together)]
        assert sorted(statuses) == [200] * 3 + [503] * 5
        async with asyncio.timeout(60):
            while _refusing(server.log) != {0, 1}:
                statuses.append((await server.chat(headers=mine))[0])
        gained = (time.monotonic() - began) * 10 / 60
        allowed = len(statuses) - statuses.count(429)
        assert 10 <= allowed <= 10 + gained, "both workers count the requests of a key together"


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


def _refusing(log: list[str]) -> set[int]:
    """Return the workers that have refused a request, because its key has no requests left."""
    return {line["worker"] for one in log if '"request"' in one and (line := orjson.loads(one))["status"] == 429}


async def _refuses(server: Command) -> None:
    """Wait until all workers drain or no longer listen: until twenty new connections in turn are refused."""
    refused = 0
    async with asyncio.timeout(60):
        while refused < 20:
            refused = refused + 1 if await _outcome(server) in (503, "refused") else 0


async def _counted(server: Command, metric: str, value: float) -> None:
    """Wait until a metric of all workers together has this value."""
    async with asyncio.timeout(60):
        while _total((await server.get("/metrics"))[1], metric) != value:
            await asyncio.sleep(0.02)


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
