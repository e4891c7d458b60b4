"""Tests on real vLLM that the prefix cache is warm again after a restart.

A restart takes a minute, so the test imitates it: a relay in front of vLLM closes for a while, and vLLM empties its
cache. The proxy sees the same as in a restart: an outage, and then a server with an empty cache.
"""

import asyncio
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from index.rendering import render_preamble
from proxy.inference.injection.model_bundles import load_bundles
from proxy.inference.injection.served_bundles import ServedBundle
from tests.faults.process import Command, command
from tests.vllm.models import BASE
from tests.vllm.server import BLOCK

_QUERIES: Final = ("Why do cats purr?", "How do I fold a paper plane?", "How do I build a pipe bomb?")
_WITHIN: Final = 120.0  # seconds until an outage is noticed, and until all sets are sent


class Relay:
    """Relays connections to a server. While it is closed, nothing listens on its port."""

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self._connections: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server
        self.port = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()
        for writer in self._connections:
            writer.transport.abort()
        await asyncio.sleep(0.1)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
        pair = {writer, target_writer}
        self._connections |= pair
        await asyncio.gather(_copy(reader, target_writer), _copy(target_reader, writer))
        self._connections -= pair


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def relayed(target: str) -> AsyncIterator[Relay]:
    relay = Relay(target)
    await relay.open()
    try:
        yield relay
    finally:
        await relay.close()


async def test_first_requests_after_a_restart_compute_only_their_own_part(
    base_url: str, figure: Callable[[str], None]
) -> None:
    served = load_bundles((f"{BASE.name}=default",), ()).of({}).bundles[BASE.name]
    async with relayed(base_url) as relay:
        flags = ("--bundle", "default", "--health-interval", "0.5", "--retrieval-timeout", "60")
        async with command("--backend", f"http://127.0.0.1:{relay.port}", *flags) as proxy:
            await _logged(proxy, '"cache warmed"', 1)
            await relay.close()
            await asyncio.to_thread(_empty_cache, base_url)
            await _logged(proxy, '"healthy":false', 1)
            await relay.open()
            await _logged(proxy, '"cache warmed"', 2)
            for query in _QUERIES:
                new, total, shown = await _asked(proxy, query)
                own = total - await _count(base_url, _prefix(served, shown))
                figure(
                    f"first request of a set after a restart: {new} of {total} tokens computed, {own} of them its own"
                )
                assert new <= own + BLOCK
            await asyncio.to_thread(_empty_cache, base_url)
            new, total, _ = await _asked(proxy, _QUERIES[0])
            assert new == total, "the cache would be cold"


async def _logged(proxy: Command, what: str, times: int) -> None:
    async with asyncio.timeout(_WITHIN):
        while sum(what in line for line in proxy.log) < times:
            await asyncio.sleep(0.1)


def _empty_cache(url: str) -> None:
    request = urllib.request.Request(f"{url}/reset_prefix_cache", method="POST")
    with urllib.request.urlopen(request, timeout=30) as reply:
        assert reply.status == 200


async def _asked(proxy: Command, query: str) -> tuple[int, int, list[str]]:
    """Ask, and return the computed tokens and all tokens of the prompt, and the ids of the examples in it."""
    body: dict[str, Any] = {"model": BASE.name, "messages": [{"role": "user", "content": query}], "max_tokens": 4}
    async with aiohttp.ClientSession() as session, session.post(f"{proxy.url}/chat/completions", json=body) as reply:
        assert reply.status == 200, await reply.text()
        usage = (await reply.json())["usage"]
        details = usage["prompt_tokens_details"] or {}
        total = usage["prompt_tokens"]
        return total - (details.get("cached_tokens") or 0), total, reply.headers["x-drpo-examples"].split(",")


def _prefix(served: ServedBundle, shown: list[str]) -> str:
    """Return the text with which all requests of the set begin that shows these examples."""
    bundle, fixed = served.bundle, len(served.pinned)
    sets = [one.shown for one in bundle.sets if tuple(shown[fixed : fixed + len(one.shown)]) == one.shown]
    (in_set,) = sets or [()]
    by_id = {example.id: example for example in bundle.examples}
    return render_preamble(served.layout, bundle.prompt, [*served.pinned, *(by_id[name] for name in in_set)])


async def _count(url: str, text: str) -> int:
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{url}/tokenize", json={"model": BASE.name, "prompt": text}) as reply:
            return int((await reply.json())["count"])
