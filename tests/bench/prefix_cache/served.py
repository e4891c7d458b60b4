"""Sends requests of tokens to a real vLLM on CPU, and measures cached tokens and the time to the first token.

This module depends on servers and their counters, and not on the retrieval policy.
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

from tests.bench.prefix_cache.block_cache import TokenRequest
from tests.vllm.environment import environment
from tests.vllm.models import BASE, model_folder
from tests.vllm.server import vllm_server

TIMED: Final = 60  # requests of each policy
PREFILLS: Final = (16, 64, 128, 256, 512)  # lengths in tokens at which the time of prefill is measured
REPEATS: Final = 8
NEW: Final = (2, 34, 70, 128)  # numbers of tokens that are computed after each number of cached tokens
CACHED: Final = (0, 256, 512)  # tokens of a prompt that are in the cache: whole blocks of every usual size


@contextmanager
def served(block: int, blocks: int | None = None, cores: Sequence[int] = ()) -> Iterator[str]:
    """Run a server whose layers share one cache, and yield its base URL.

    Args:
        block: Tokens in a cache block.
        blocks: The number of cache blocks; None for vLLM's default.
        cores: As for `vllm_server`.
    """
    few = ("--num-gpu-blocks-override", str(blocks)) if blocks else ()
    model = replace(BASE, serving=("--disable-hybrid-kv-cache-manager", "--block-size", str(block), *few))
    vllm = environment(print)
    with tempfile.TemporaryDirectory() as logs:
        log = Path(logs) / "vllm.log"
        with vllm_server(vllm, model, model_folder(BASE, vllm, print), log, lambda _: None, cores) as url:
            yield url


async def measure_stream(url: str, requests: Sequence[TokenRequest], concurrency: int) -> list[int]:
    """Return the number of cached tokens of each prompt, as the server reports them.

    Up to `concurrency` requests are sent at the same time.
    """
    turns = asyncio.Semaphore(concurrency)  # first come, first served
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600) as client:

        async def ask(one: TokenRequest) -> int:
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
    """Return the number of cached tokens that a server reports; 0 if it reports none."""
    details = usage.prompt_tokens_details if usage else None
    return (details.cached_tokens if details else None) or 0


def first_token(client: openai.OpenAI, tokens: Sequence[int]) -> tuple[float, int]:
    """Return the seconds to the first token of a single request, and the number of its cached tokens."""
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


def measure_parts(client: openai.OpenAI) -> Table:
    """Measure the time to the first token of prompts with few new tokens, after no and after many cached tokens.

    The prompts are random tokens. Each repeat measures all prompts in turn, so that a slow phase of the machine affects
    all of them.
    """
    draw = random.Random(1)
    prefix = [draw.randrange(1_000, 200_000) for _ in range(max(CACHED))]
    first_token(client, prefix)
    took: dict[tuple[int, int], list[float]] = {(new, cached): [] for new in NEW for cached in CACHED}
    for _ in range(TIMED // 2):
        for (new, cached), times in took.items():
            tokens = [*prefix[:cached], *(draw.randrange(1_000, 200_000) for _ in range(new))]
            times.append(first_token(client, tokens)[0])
    table = Table("new tokens", *(f"behind {cached} cached, ms" for cached in CACHED))
    for new in NEW:
        table.add_row(str(new), *(f"{1e3 * statistics.median(took[new, cached]):.1f}" for cached in CACHED))
    return table


def measure_time(
    policies: Mapping[str, Sequence[tuple[TokenRequest, int]]], raw: Sequence[TokenRequest], block: int
) -> tuple[Table, Table]:
    """Measure the time to the first token, one request at a time, and what it consists of.

    Each request of a policy follows the same query without injection. The table also shows the time of prefill for as
    many new tokens as the uncached injected tokens.

    Args:
        policies: The requests of each policy with their numbers of injected tokens.
        raw: The same queries without injection.
        block: Tokens in a cache block.
    """
    table = Table(
        "policy", "uncached injected", "first token, ms", "more than raw, ms", "prefill of uncached, ms", "ratio"
    )
    with served(block) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        cost, parts = _prefill(client), measure_parts(client)
        for requests in policies.values():  # fills the cache before anything is timed
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
    return table, parts


def _prefill(client: openai.OpenAI) -> float:
    """Return the seconds of prefill for each new token: the slope of the median time over several lengths."""
    draw = random.Random(0)
    took = {
        length: statistics.median(
            first_token(client, [draw.randrange(1_000, 200_000) for _ in range(length)])[0] for _ in range(REPEATS)
        )
        for length in PREFILLS
    }
    return statistics.linear_regression(list(took), list(took.values())).slope
