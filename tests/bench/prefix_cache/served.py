"""Streams of token requests against a real vLLM on CPU: what it found in its cache, and when the first token came.

Knows servers and their counters; knows no policy.
"""

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import openai
from openai.types import CompletionUsage
from rich.table import Table

from tests.bench.prefix_cache.block_cache import Asked
from tests.vllm.environment import environment
from tests.vllm.models import BASE, model_folder
from tests.vllm.server import vllm_server

TIMED: Final = 60  # requests of each policy
PREFILLS: Final = (16, 64, 128, 256, 512)  # tokens, whose time is measured by themselves
REPEATS: Final = 8


@contextmanager
def served(block: int, blocks: int | None = None, cores: Sequence[int] = ()) -> Iterator[str]:
    """The base URL of a server with this block size, whose layers share a cache, of `blocks` blocks if that is said;
    cores: see vllm_server."""
    few = ("--num-gpu-blocks-override", str(blocks)) if blocks else ()
    model = replace(BASE, serving=("--disable-hybrid-kv-cache-manager", "--block-size", str(block), *few))
    place = environment(print)
    with tempfile.TemporaryDirectory() as logs:
        log = Path(logs) / "vllm.log"
        with vllm_server(place, model, model_folder(BASE, place, print), log, lambda _: None, cores) as url:
            yield url


async def measure_stream(url: str, requests: Sequence[Asked], concurrency: int) -> list[int]:
    """How many tokens of each prompt the server says it found, of requests that are sent `concurrency` at a time."""
    turns = asyncio.Semaphore(concurrency)  # first come, first served
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600) as client:

        async def ask(one: Asked) -> int:
            async with turns:
                reply = await client.completions.create(
                    model=BASE.name,
                    prompt=list(one.tokens),
                    max_tokens=one.outputs,
                    temperature=0,
                    extra_body={"ignore_eos": True},
                )
            return cached_tokens(reply.usage)

        return list(await asyncio.gather(*map(ask, requests)))


def cached_tokens(usage: CompletionUsage | None) -> int:
    """How many tokens of a prompt its server says it found; 0 where it says nothing."""
    details = usage.prompt_tokens_details if usage else None
    return (details.cached_tokens if details else None) or 0


def first_token(client: openai.OpenAI, tokens: Sequence[int]) -> tuple[float, int]:
    """Seconds to the first token of a request that is alone, and how many of its tokens were found."""
    started, first, cached = time.perf_counter(), 0.0, 0
    with client.completions.create(
        model=BASE.name,
        prompt=list(tokens),
        max_tokens=1,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ) as chunks:
        for chunk in chunks:
            first = first or time.perf_counter() - started
            cached = cached_tokens(chunk.usage) or cached
    return first, cached


def measure_time(policies: Mapping[str, Sequence[tuple[Asked, int]]], raw: Sequence[Asked], block: int) -> Table:
    """Time to the first token, one request at a time, policy by policy in turn: each request right after the same
    query asked raw. A policy's requests are given with their injected tokens. Beside it the time that its uncached
    injected tokens take by themselves: a prompt of so many more tokens, all of them new."""
    table = Table(
        "policy", "uncached injected", "first token, ms", "more than raw, ms", "prefill of uncached, ms", "ratio"
    )
    with served(block) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        cost = _prefill(client)
        for requests in policies.values():  # what stays in the cache is in it before anything is timed
            for one, _ in requests[TIMED:]:
                first_token(client, one.tokens)
        for name, requests in policies.items():
            pairs = [
                (first_token(client, plain.tokens)[0], *first_token(client, one.tokens), injected)
                for plain, (one, injected) in zip(raw[:TIMED], requests[:TIMED], strict=True)
            ]
            more = statistics.mean(whole - plain for plain, whole, _, _ in pairs)
            left = statistics.mean(max(0, injected - cached) for _, _, cached, injected in pairs)
            alone = left * cost
            whole = statistics.mean(whole for _, whole, _, _ in pairs)
            table.add_row(name, f"{left:.0f}", *(f"{1e3 * t:.1f}" for t in (whole, more, alone)), f"{more / alone:.2f}")
    return table


def _prefill(client: openai.OpenAI) -> float:
    """Seconds for each token of a prompt that is new: the slope over prompts of some lengths, of their medians."""
    draw = random.Random(0)
    took = {
        length: statistics.median(
            first_token(client, [draw.randrange(1_000, 200_000) for _ in range(length)])[0] for _ in range(REPEATS)
        )
        for length in PREFILLS
    }
    return statistics.linear_regression(list(took), list(took.values())).slope
