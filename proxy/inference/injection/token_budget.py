"""Computes how many tokens a model's context leaves for prompt and examples.

This module is arithmetic over token counts. It does not depend on tokenizers; index/retrieval/selection.py selects the
examples.
"""

from typing import Final

HYSTERESIS: Final = (
    256  # a growing conversation loses examples in steps of this many tokens, so its prefix stays cached
)
ANSWER_ROOM: Final = 256  # what examples leave for an answer whose length the client did not cap


def room_for_injection(context: int, client_tokens: int, answer_tokens: int) -> int:
    """Tokens left for prompt and examples, the client's part rounded up to the next step of HYSTERESIS."""
    stepped = -(-client_tokens // HYSTERESIS) * HYSTERESIS
    return context - stepped - answer_tokens


def token_bound(text: str) -> int:
    """At least as many tokens as any tokenizer makes of `text`: one for each byte."""
    return len(text.encode("utf-8", "replace"))
