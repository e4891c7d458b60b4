"""A relay between Open WebUI and the proxy that keeps each request and the headers of its reply.

It runs in a thread of its own, because a browser occupies the thread of the tests.
"""

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
from aiohttp import web

_OF_CONNECTION: Final = frozenset({"host", "content-length", "transfer-encoding", "connection", "date", "server"})
_START_TIMEOUT: Final = 30.0  # seconds
_STOP_TIMEOUT: Final = 1.0  # seconds for open connections


@dataclass(frozen=True, slots=True)
class Exchange:
    """A chat request of Open WebUI.

    Attributes:
        headers: The headers of the request.
        body: The body of the request.
        status: The status of the reply.
        replied: The headers of the reply.
        reply: The body of the reply.
    """

    headers: Mapping[str, str]
    body: dict[str, Any]
    status: int
    replied: Mapping[str, str]
    reply: str

    @property
    def is_chat(self) -> bool:
        """Whether the user sees the answer as a message: Open WebUI streams no other answers."""
        return bool(self.body["stream"])

    @property
    def object(self) -> dict[str, Any]:
        """The JSON object in the answer to a background request."""
        found: dict[str, Any] = json.loads(json.loads(self.reply)["choices"][0]["message"]["content"])
        return found


@dataclass(slots=True)
class Recorder:
    """The relay. `exchanges` grows by each chat request whose reply has ended.

    Attributes:
        target: The URL of the proxy, without a path.
        exchanges: The chat requests.
        url: The URL of the relay, without a path.
    """

    target: str
    exchanges: list[Exchange] = field(default_factory=list)
    url: str = ""

    async def relay(self, request: web.Request) -> web.StreamResponse:
        """Send a request to the proxy, and pass on each part of the reply at once."""
        body, headers = await request.read(), _kept(request.headers)
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(request.method, self.target + request.path_qs, data=body, headers=headers) as reply,
        ):
            relayed = web.StreamResponse(status=reply.status, headers=_kept(reply.headers))
            await relayed.prepare(request)
            received = bytearray()
            try:
                async for piece in reply.content.iter_any():
                    received += piece
                    await relayed.write(piece)
            finally:
                if request.path.endswith("/chat/completions"):
                    text = received.decode(errors="replace")
                    self.exchanges.append(Exchange(headers, json.loads(body), reply.status, _kept(reply.headers), text))
            return relayed

    async def run(self, stop: threading.Event, started: threading.Event) -> None:
        """Serve until `stop` is set."""
        app = web.Application(client_max_size=10**8)
        app.router.add_route("*", "/{path:.*}", self.relay)
        runner = web.AppRunner(app, shutdown_timeout=_STOP_TIMEOUT)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = "http://{}:{}".format(*runner.addresses[0])
        started.set()
        await asyncio.to_thread(stop.wait)
        await runner.cleanup()


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items() if name.lower() not in _OF_CONNECTION}


@contextmanager
def recording(target: str) -> Iterator[Recorder]:
    """Run a recorder in front of the proxy at `target`."""
    recorder, stop, started = Recorder(target), threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(recorder.run(stop, started)), daemon=True)
    thread.start()
    assert started.wait(_START_TIMEOUT)
    try:
        yield recorder
    finally:
        stop.set()
        thread.join()
