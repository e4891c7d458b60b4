"""Tests of a conversation on real vLLM: it keeps its examples, and the prefix cache has most of its later turns."""

from collections.abc import Callable

import openai
import pytest

from tests.vllm.models import BASE
from tests.vllm.queries import asking

_TURNS = (
    "How do I keep a basil plant alive on a windowsill?",
    "And how much light does it need?",
    "What can I cook with its leaves?",
)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_conversation_keeps_its_examples_and_reuses_the_prefix(
    client: openai.OpenAI, figure: Callable[[str], None], streaming: bool
) -> None:
    turns: list[str] = []
    shown, shares = [], []
    for turn in _TURNS:
        turns.append(turn)
        answer, examples, usage = _ask(client, turns, streaming)
        turns.append(answer)
        shown.append(examples)
        shares.append(_cached_share(usage))
    counts = ", ".join(f"{cached} of {total}" for cached, total in shares)
    figure(f"prompt tokens from the prefix cache, turn by turn ({'streamed' if streaming else 'whole'}): {counts}")
    assert shown[0]
    assert shown == [shown[0]] * len(_TURNS)
    assert all(2 * cached >= total for cached, total in shares[1:])


def _ask(client: openai.OpenAI, turns: list[str], streaming: bool) -> tuple[str, str, openai.types.CompletionUsage]:
    """Return the next answer, the ids of the examples that were shown, and the usage."""
    create = client.chat.completions.with_raw_response.create
    if not streaming:
        raw = create(model=BASE.name, messages=asking(*turns), max_tokens=64, temperature=0)
        reply = raw.parse()
        assert reply.usage is not None
        return reply.choices[0].message.content or "", raw.headers["x-drpo-examples"], reply.usage
    raw_stream = create(
        model=BASE.name,
        messages=asking(*turns),
        max_tokens=64,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(raw_stream.parse())
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    usage = chunks[-1].usage
    assert usage is not None
    return text, raw_stream.headers["x-drpo-examples"], usage


def _cached_share(usage: openai.types.CompletionUsage) -> tuple[int, int]:
    assert usage.prompt_tokens_details is not None
    return usage.prompt_tokens_details.cached_tokens or 0, usage.prompt_tokens
