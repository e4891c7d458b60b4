"""Sends the cases through `python -m proxy` of a source tree, and hashes what servers and clients receive.

This module imports nothing from the source tree. It depends only on the command, on HTTP and on the formats.
"""

import asyncio
import json
import os
import re
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.snapshots.cases import LANES, Case
from tests.snapshots.scripted_backend import Answer, ScriptedServer, ServedModel, start

_BUNDLE: Final = Path(__file__).parent / "bundle"
_START_TIMEOUT: Final = 300.0  # seconds: the proxy first counts the tokens of each bundle with each model
_GENERATED_IDS: Final = re.compile(rb"(resp_|msg_|chatcmpl-)[0-9a-f]{32}")
_RECORDED_REPLY_HEADERS: Final = ("content-type", "retry-after", "x-ratelimit-")
_DONE: Final = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Recorded:
    """The recorded result of a case.

    Attributes:
        case: The case.
        digest: SHA-256 in hexadecimal digits.
        status: The HTTP status that the client received.
        late: Whether the proxy reported failed retrieval. Such a result is not reproducible.
    """

    case: Case
    digest: str
    status: int
    late: bool

    @property
    def line(self) -> str:
        """The line in the file."""
        return f"{self.case.kind} {self.case.index} {self.digest} {self.case.label} -> {self.status}"


async def record(cases: Sequence[Case], tree: Path) -> list[Recorded]:
    """Record all cases, in the order given. The lanes run at the same time, each with one case at a time."""
    lanes = [_record_lane(lane, [case for case in cases if case.lane == lane], tree) for lane in LANES]
    found = {(one.case.kind, one.case.index): one for lane in await asyncio.gather(*lanes) for one in lane}
    return [found[case.kind, case.index] for case in cases]


async def _record_lane(lane: str, cases: Sequence[Case], tree: Path) -> list[Recorded]:
    current: list[Case] = []

    def answer(path: str, body: bytes) -> Answer:
        return current[0].answer or _plain_answer(path, body)

    async with AsyncExitStack() as stack:
        servers = [ScriptedServer(dialect, models, answer) for dialect, models in LANES[lane]]
        for server in servers:
            stack.push_async_callback(await start(server))
        url = await stack.enter_async_context(_proxy(servers, tree))
        # One connection for each request, because the proxy may close an idle connection that is about to be used.
        connector, timeout = aiohttp.TCPConnector(force_close=True), aiohttp.ClientTimeout(total=120)
        client = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
        session = await stack.enter_async_context(client)
        recorded = []
        for case in cases:
            current[:] = [case]
            recorded.append(await _record_one(case, session, url, servers))
        return recorded


async def _record_one(
    case: Case, session: aiohttp.ClientSession, url: str, servers: Sequence[ScriptedServer]
) -> Recorded:
    for server in servers:
        server.received.clear()
    async with session.post(url + case.path, data=case.body, headers=case.headers) as response:
        body = await _read(response)
        received = [one for server in servers for one in server.received]
        headers = sorted((name.lower(), value) for name, value in response.headers.items())
        ours = [header for header in headers if header[0].startswith("x-drpo-")]
        visible: list[Any] = [response.status, ours]
        digest = sha256()
        if case.kind == "plan":
            visible.append(_error_kind(body) if response.status >= 400 else None)
            digest.update(b"".join(received))
        else:
            visible.append([header for header in headers if header[0].startswith(_RECORDED_REPLY_HEADERS)])
            digest.update(_GENERATED_IDS.sub(rb"\1ID", body))
        digest.update(json.dumps(visible).encode())
        return Recorded(
            case, digest.hexdigest(), response.status, dict(headers).get("x-drpo-reduced") in ("timeout", "embedder")
        )


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Return the whole body, with a mark at the end if the connection broke."""
    body = bytearray()
    try:
        async for part in response.content.iter_any():
            body += part
    except aiohttp.ClientPayloadError:
        body += b"<broken>"
    return bytes(body)


def _error_kind(body: bytes) -> Any:
    """Return the machine-readable fields of an error, without its message."""
    try:
        error = json.loads(body)["error"]
        return [error.get("type"), error.get("code"), error.get("param")]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _plain_answer(path: str, body: bytes) -> Answer:
    """Return a short valid answer for a plan case, whose reply is not recorded."""
    stream = json.loads(body).get("stream")
    base = {"id": "cmpl-1", "object": "text_completion", "created": 7, "model": "any"}
    choice = {"index": 0, "text": "ok", "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}
    if not stream:
        return Answer((json.dumps({**base, "choices": [choice]}).encode(),))
    if path == "/v1/responses":
        end = {"type": "response.completed", "response": {**base, "status": "completed", "output": []}}
        data = b"event: response.completed\ndata: " + json.dumps(end).encode() + b"\n\n"
    else:
        data = b"data: " + json.dumps({**base, "choices": [choice]}).encode() + b"\n\n" + _DONE
    return Answer((data,), headers={"Content-Type": "text/event-stream"})


@asynccontextmanager
async def _proxy(servers: Sequence[ScriptedServer], tree: Path) -> AsyncIterator[str]:
    """Run the proxy of the tree in front of the servers, and yield its URL."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DRPO_", "OTEL_"))}
    environment["PYTHONPATH"] = str(tree)
    environment["DRPO_WARM_CACHE"] = "off"  # only what the cases send is recorded
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            *_command(servers), stdin=DEVNULL, stdout=PIPE, stderr=log, cwd=tree, env=environment
        )
        try:
            url = await _address(process)
            if url is None:
                log.seek(0)
                raise RuntimeError(f"The proxy did not start: {log.read()[-2000:].decode(errors='replace')}")
            yield url
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


def _command(servers: Sequence[ScriptedServer]) -> list[str]:
    command = [sys.executable, "-m", "proxy", "--port", "0", "--admin", "off", "--log-format", "json"]
    command += ["--retrieval-timeout", "100", "--health-interval", "3600", "--drain-timeout", "0"]
    for server in servers:
        command += ["--backend", server.url]
        for model in server.models:
            command += _model_flags(model, server.dialect)
    return command


def _model_flags(model: ServedModel, dialect: str) -> list[str]:
    bundle = {"default": "default", "pinned": str(_BUNDLE)}.get(model.bundle)
    kind = ["--kind", f"{model.name}={model.kind}"] if dialect == "unknown" else []
    return kind + (["--bundle", f"{model.name}={bundle}"] if bundle else [])


async def _address(process: Process) -> str | None:
    """Return the root URL that the command prints; None if the command ended first."""
    assert process.stdout is not None
    found = None
    async with asyncio.timeout(_START_TIMEOUT):
        while line := (await process.stdout.readline()).decode():
            if printed := re.match(r"Base URL +(http\S+)", line):
                found = printed[1].removesuffix("/v1")
            if line.startswith("Stop with"):
                break
    return found
