"""Sends conversations through the proxy to two real vLLM servers. The proxy or vllm-router chooses the server.

For comparison, one server with the cache room of both servers is measured. The caches are empty at first and are not
warmed, so the table also shows the figures of only the later conversations. This module reads the counters of the
servers. It does not depend on the retrieval policy.
"""

import asyncio
import re
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Final

import openai

from index.types import Example
from tests.bench.peers.gateways import router
from tests.bench.prefix_cache.served import cached_tokens, served
from tests.vllm.models import BASE
from tests.vllm.server import proxy_server

SERVERS: Final = 2
OUTPUTS: Final = 8  # tokens of an answer
MORE: Final = "Can you say more about that?"
ONE_SERVER: Final = "nobody: one server with twice the room"
ROUTER_POLICIES: Final = ("consistent_hash", "cache_aware", "round_robin")

HEADINGS: Final = (
    *("who chooses", "requests at the busier server", "first turns: uncached", "the same, after the first third"),
    "second turns: uncached",
    *("whole blocks among them", "cached share of all tokens", "took, s"),
)

Cost = Callable[[tuple[str, ...]], int]
"""The number of injected tokens of a request with the examples of these ids, in this order."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The result of one request.

    Attributes:
        injected: The number of tokens of prompt and examples.
        found: The number of cached tokens in the whole prompt.
    """

    injected: int
    found: int

    @property
    def uncached(self) -> int:
        """The number of injected tokens that were not cached."""
        return max(0, self.injected - self.found)


def measure_routed(
    wanted: Sequence[str], bundle: Path, queries: Sequence[str], cost: Cost, block: int, blocks: int, concurrency: int
) -> Iterator[Sequence[str]]:
    """Measure each way to choose a server, and yield a row of HEADINGS for it.

    Each query begins a conversation of two turns. `concurrency` conversations run at a time. Only ways whose name
    begins with one of the texts in `wanted` are measured.
    """
    if ONE_SERVER.startswith(tuple(wanted)):
        with served(block, SERVERS * blocks) as url:
            way = partial(_proxied, bundle, [url])
            yield _measure(ONE_SERVER, way, [url], queries, cost, block, concurrency)
    with ExitStack() as stack:
        urls = [stack.enter_context(served(block, blocks, [core])) for core in range(SERVERS)]
        for name, way in ways(bundle, urls):
            if name.startswith(tuple(wanted)):
                yield _measure(name, way, urls, queries, cost, block, concurrency)


def _measure(
    name: str,
    way: Callable[[], AbstractContextManager[str]],
    urls: Sequence[str],
    queries: Sequence[str],
    cost: Cost,
    block: int,
    concurrency: int,
) -> Sequence[str]:
    for url in urls:
        _post(f"{url}/reset_prefix_cache")
    before = [_counters(url) for url in urls]
    started = time.perf_counter()
    with way() as proxy:
        talks = asyncio.run(_converse(proxy, queries, cost, concurrency))
    took = time.perf_counter() - started
    return name, *_cells(talks, before, [_counters(url) for url in urls], block), f"{took:.0f}"


def ways(bundle: Path, urls: Sequence[str]) -> Iterator[tuple[str, Callable[[], AbstractContextManager[str]]]]:
    """Yield the ways to choose a server, by name, and how to start each: it yields the base URL of a proxy."""
    yield "nobody: one server", partial(_proxied, bundle, urls[:1])
    yield "the proxy", partial(_proxied, bundle, urls)
    for policy in ROUTER_POLICIES:
        yield f"vllm-router, {policy}", partial(_routed, bundle, urls, policy)


@contextmanager
def _proxied(bundle: Path, backends: Sequence[str]) -> Iterator[str]:
    more = [word for url in backends[1:] for word in ("--backend", f"{url}/v1")]
    with tempfile.TemporaryDirectory() as logs:
        flags = [*more, "--kind", f"{BASE.name}=completion", "--bundle", f"{BASE.name}={bundle}"]
        # The servers use every core. With a short timeout, retrieval would be late, and requests would get no examples.
        flags += ["--no-warm-cache", "--retrieval-timeout", "30"]
        with proxy_server(f"{backends[0]}/v1", flags, Path(logs) / "proxy.log", lambda _: None) as url:
            yield url


@contextmanager
def _routed(bundle: Path, urls: Sequence[str], policy: str) -> Iterator[str]:
    with router(urls, policy, None, print) as gateway, _proxied(bundle, [gateway.url]) as proxy:
        yield proxy


async def _converse(url: str, queries: Sequence[str], cost: Cost, concurrency: int) -> list[tuple[Turn, Turn]]:
    slots = asyncio.Semaphore(concurrency)
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600) as client:

        async def talk(query: str) -> tuple[Turn, Turn]:
            async with slots:
                messages = [{"role": "user", "content": query}]
                first, answer = await _ask(client, messages, cost)
                messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": MORE}]
                second, _ = await _ask(client, messages, cost)
                return first, second

        return list(await asyncio.gather(*map(talk, queries)))


async def _ask(client: openai.AsyncOpenAI, messages: Sequence[Mapping[str, str]], cost: Cost) -> tuple[Turn, str]:
    reply = await client.chat.completions.with_raw_response.create(
        model=BASE.name,
        messages=messages,  # type: ignore[arg-type]
        max_tokens=OUTPUTS,
        temperature=0,
    )
    shown = tuple(one for one in reply.headers["x-drpo-examples"].split(",") if one)
    completion = reply.parse()
    answer = completion.choices[0].message.content or "Yes."
    return Turn(cost(shown), cached_tokens(completion.usage)), answer


def _cells(
    talks: Sequence[tuple[Turn, Turn]], before: Sequence[Mapping[str, float]], after: Sequence[Mapping[str, float]],
    block: int,
) -> Iterator[str]:  # fmt: skip
    grown = [{name: now[name] - then[name] for name in now} for then, now in zip(before, after, strict=True)]
    asked = [one["requests"] for one in grown]
    yield f"{max(asked) / sum(asked):.0%}"
    for turn, some in ((0, talks), (0, talks[len(talks) // 3 :]), (1, talks)):
        yield f"{sum(talk[turn].uncached for talk in some) / len(some):.1f}"
    yield f"{sum(talk[1].uncached // block for talk in talks) / len(talks):.2f}"
    yield f"{sum(one['hits'] for one in grown) / sum(one['queries'] for one in grown):.3f}"


def _counters(url: str) -> Mapping[str, float]:
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as reply:
        page = reply.read().decode()
    names = {"hits": "prefix_cache_hits", "queries": "prefix_cache_queries", "requests": "request_success"}
    return {
        name: sum(float(value) for value in re.findall(rf"^vllm:{counter}_total{{.*}} (\S+)$", page, re.MULTILINE))
        for name, counter in names.items()
    }


def _post(url: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=60):
        pass


def cost_of(bundle_examples: Sequence[Example], tokens: Callable[[Sequence[Example]], int]) -> Cost:
    """Return the cost of a request from the ids of its examples."""
    known = {one.id: one for one in bundle_examples}
    return cache(lambda shown: tokens([known[one] for one in shown]))
