"""Computes how many tokens a model's context leaves for prompt and examples.

This module is arithmetic over token counts. It does not depend on tokenizers; index/retrieval/selection.py selects the
examples.
"""

from typing import Final

HYSTERESIS: Final = 256
"""A growing conversation loses examples in steps of this many tokens, so that its prefix stays cached in between."""
DEFAULT_ANSWER_TOKENS: Final = 256
"""Tokens that examples leave for an answer whose length the client does not cap."""


def room_for_injection(context: int, client_tokens: int, answer_tokens: int) -> int:
    """Tokens left for prompt and examples, with the client's tokens rounded up to a multiple of HYSTERESIS."""
    stepped = -(-client_tokens // HYSTERESIS) * HYSTERESIS
    return context - stepped - answer_tokens


def max_token_count(text: str) -> int:
    """An upper bound of a text's tokens with any tokenizer: one for each byte."""
    return len(text.encode("utf-8", "replace"))
