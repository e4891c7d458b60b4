"""How many examples fit: pure arithmetic over token counts. Knows no text and no tokenizer.

Retrieved examples leave first, the least similar first, then pinned ones, whole; never a word of the client's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from index.types import Example, Hit

HYSTERESIS: Final = (
    256  # a growing conversation loses examples in steps of this many tokens, so its prefix stays cached
)
ANSWER_ROOM: Final = 256  # what examples leave for an answer whose length the client did not cap


@dataclass(frozen=True, slots=True)
class Selection:
    """What fits: retrieved hits (most similar first) and pinned examples; `tokens` of prompt and examples together."""

    hits: tuple[Hit, ...]
    pinned: tuple[Example, ...]
    tokens: int


def select(
    prompt_tokens: int, costs: Mapping[str, int], pinned: Sequence[Example], hits: Sequence[Hit], room: int
) -> Selection:
    """The most that fits into `room` tokens: whole examples, left out least similar hit first, then last pinned first.

    The prompt itself always stays.
    """
    kept_pinned, kept_hits = list(pinned), list(hits)
    tokens = (
        prompt_tokens + sum([costs[example.id] for example in pinned]) + sum([costs[hit.example.id] for hit in hits])
    )
    while kept_hits and tokens > room:
        tokens -= costs[kept_hits.pop().example.id]
    while kept_pinned and tokens > room:
        tokens -= costs[kept_pinned.pop().id]
    return Selection(tuple(kept_hits), tuple(kept_pinned), tokens)


def room_for_injection(context: int, client_tokens: int, answer_tokens: int) -> int:
    """Tokens left for prompt and examples, the client's part rounded up to the next step of HYSTERESIS."""
    stepped = -(-client_tokens // HYSTERESIS) * HYSTERESIS
    return context - stepped - answer_tokens


def token_bound(text: str) -> int:
    """At least as many tokens as any tokenizer makes of `text`: one for each byte."""
    return len(text.encode("utf-8", "replace"))
