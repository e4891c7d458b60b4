"""Tests of a conversation that grows to the context length: examples are dropped, and then vLLM returns an error."""

import json
from collections.abc import Callable

import openai
import pytest

from index.bundle.bundle import default_bundle_directory
from tests.vllm.models import BASE
from tests.vllm.queries import asking
from tests.vllm.server import CONTEXT

_QUERY = "How do I keep a basil plant alive on a windowsill?"
_ANSWER = 16  # tokens
_LENGTHS = (0, 2800, 3100, 3300, 3500, 3700, 3900)  # words of the assistant's turn; each word is one token


def _conversation(words: int) -> list[str]:
    return [_QUERY, " ".join(["word"] * words) or "Yes.", "And in winter?"]


@pytest.fixture(scope="module")
def served(proxy_url: str) -> list[tuple[int, list[str]]]:
    """Prompt tokens and example ids for each length."""
    with openai.OpenAI(base_url=f"{proxy_url}/v1", api_key="none", max_retries=0) as client:
        return [_serve(client, words) for words in _LENGTHS]


def _serve(client: openai.OpenAI, words: int) -> tuple[int, list[str]]:
    raw = client.chat.completions.with_raw_response.create(
        model=BASE.name, messages=asking(*_conversation(words)), max_tokens=_ANSWER, temperature=0
    )
    usage = raw.parse().usage
    assert usage is not None
    return usage.prompt_tokens, [name for name in raw.headers["x-drpo-examples"].split(",") if name]


def test_examples_are_dropped_before_text_of_the_client(
    served: list[tuple[int, list[str]]], figure: Callable[[str], None]
) -> None:
    figure(
        "prompt tokens (examples shown) as a conversation grows: "
        + ", ".join(f"{tokens} ({len(names)})" for tokens, names in served)
    )
    shown = [names for _, names in served]
    counts = [len(names) for names in shown]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < counts[0]
    for fewer, more in zip(shown[1:], shown, strict=False):
        assert set(fewer) <= set(more)
    for (tokens, _), words in zip(served, _LENGTHS, strict=True):
        assert words < tokens <= CONTEXT - _ANSWER


def test_pinned_examples_are_dropped_last(served: list[tuple[int, list[str]]]) -> None:
    pinned = _pinned()
    for _, names in served:
        assert set(names) <= pinned or pinned <= set(names)


def test_conversation_over_the_context_gets_the_error_of_vllm(client: openai.OpenAI, direct: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as ours:
        client.chat.completions.create(model=BASE.name, messages=asking(*_conversation(CONTEXT)), max_tokens=_ANSWER)
    with pytest.raises(openai.BadRequestError) as own:
        direct.completions.create(model=BASE.name, prompt=" ".join(["word"] * CONTEXT), max_tokens=_ANSWER)
    assert "maximum context length is 4096 tokens" in ours.value.message
    assert ours.value.response.content == own.value.response.content


def _pinned() -> set[str]:
    lines = (default_bundle_directory() / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    return {example["id"] for example in map(json.loads, lines) if example.get("pinned")}
