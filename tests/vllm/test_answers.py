"""Tests of the base model behind the proxy: aligned answers end, raw answers do not, and streams have the same text."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import openai
import pytest

from tests.vllm.models import BASE
from tests.vllm.queries import QUERIES, asking
from tests.vllm.server import wide_terminal

_CONCURRENCY = 4

Answer = tuple[str, str]
Ask = Callable[[openai.AsyncOpenAI, str, str, int], Awaitable[Answer]]


@pytest.fixture
async def many(proxy_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{proxy_url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def _whole(client: openai.AsyncOpenAI, model: str, query: str, length: int) -> Answer:
    """Return the text and the finish reason of a greedy answer."""
    reply = await client.chat.completions.create(model=model, messages=asking(query), max_tokens=length, temperature=0)
    return reply.choices[0].message.content or "", reply.choices[0].finish_reason


async def _streamed(client: openai.AsyncOpenAI, model: str, query: str, length: int) -> Answer:
    """Return the text and the finish reason of a greedy streamed answer. Check the form of the stream."""
    stream = await client.chat.completions.create(
        model=model, messages=asking(query), max_tokens=length, temperature=0, stream=True
    )
    chunks = [chunk async for chunk in stream]
    assert [len(chunk.choices) for chunk in chunks] == [1] * len(chunks)
    choices = [chunk.choices[0] for chunk in chunks]
    assert [choice.delta.role for choice in choices] == ["assistant"] + [None] * (len(choices) - 1)
    assert [choice.finish_reason is None for choice in choices] == [True] * (len(choices) - 1) + [False]
    assert {chunk.usage for chunk in chunks} == {None}
    return "".join(choice.delta.content or "" for choice in choices), str(choices[-1].finish_reason)


async def _all(ask: Ask, client: openai.AsyncOpenAI, model: str, queries: Sequence[str], length: int) -> list[Answer]:
    gate = asyncio.Semaphore(_CONCURRENCY)

    async def one(query: str) -> Answer:
        async with gate:
            return await ask(client, model, query, length)

    return await asyncio.gather(*(one(query) for query in queries))


async def test_aligned_answers_end_by_themselves(many: openai.AsyncOpenAI, figure: Callable[[str], None]) -> None:
    answers = await _all(_whole, many, BASE.name, QUERIES, 256)
    ended = [reason for _, reason in answers].count("stop")
    figure(f"aligned answers that end by themselves within 256 tokens: {ended} of {len(QUERIES)}")
    assert all(text.strip() for text, _ in answers)
    assert ended >= 0.9 * len(QUERIES)


async def test_most_raw_answers_reach_the_token_limit(many: openai.AsyncOpenAI, figure: Callable[[str], None]) -> None:
    answers = await _all(_whole, many, f"{BASE.name}@raw", QUERIES[:8], 128)
    ended = [reason for _, reason in answers].count("stop")
    figure(f"raw answers that end by themselves within 128 tokens: {ended} of {len(answers)}")
    assert ended <= len(answers) // 4


async def test_streamed_answer_equals_unstreamed_answer(
    many: openai.AsyncOpenAI, figure: Callable[[str], None]
) -> None:
    """Some answers may differ, because batch size and cached prefix change rounding in the model."""
    whole = await _all(_whole, many, BASE.name, QUERIES, 48)
    streamed = await _all(_streamed, many, BASE.name, QUERIES, 48)
    equal = sum(one == other for one, other in zip(whole, streamed, strict=True))
    figure(f"greedy answers that are the same streamed and whole: {equal} of {len(QUERIES)}")
    assert equal >= 0.75 * len(QUERIES)


def test_models_endpoint_lists_each_variant(client: openai.OpenAI) -> None:
    listed = {model.id for model in client.models.list()}
    assert {BASE.name, f"{BASE.name}@aligned", f"{BASE.name}@raw"} <= listed
    assert client.models.retrieve(BASE.name).id == BASE.name


def test_headers_name_variant_and_examples(client: openai.OpenAI) -> None:
    ask = client.chat.completions.with_raw_response.create
    aligned = ask(model=BASE.name, messages=asking("Why do cats purr?"), max_tokens=1).headers
    raw = ask(model=f"{BASE.name}@raw", messages=asking("Why do cats purr?"), max_tokens=1).headers
    assert (aligned["x-drpo-variant"], raw["x-drpo-variant"]) == ("aligned", "raw")
    assert aligned["x-drpo-examples"]
    assert "x-drpo-bundle" not in raw


def test_check_detects_a_model_without_template_as_completion(base_url: str) -> None:
    command = [sys.executable, "-m", "proxy", "check", "--backend", base_url, "--bundle", "default"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=wide_terminal())
    assert found.returncode == 0, found.stdout + found.stderr
    row = next(line for line in found.stdout.splitlines() if base_url in line)
    assert "completion" in row
    assert "4096" in row
    assert f"the prefix cache of {base_url} for {BASE.name} works: " in found.stdout
