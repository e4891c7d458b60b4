"""Computes the token budget: how many tokens a model's context leaves for prompt and examples.

This module does not choose or cache examples. index/retrieval/selection.py selects the examples that fit the budget.
proxy/inference/injection/injector.py calls both modules, and caches selections. This module does not depend on
tokenizers.
"""

from typing import Final

HYSTERESIS: Final = 256
"""The number of the client's tokens is rounded up to a multiple of this number before the budget is computed.

So the budget of a growing conversation changes only when the client's tokens pass such a multiple. Until then its
examples stay the same, and the backend finds them in its prefix cache.
"""
DEFAULT_ANSWER_TOKENS: Final = 256
"""The number of tokens of the context that are reserved for the answer if the client sets no max_tokens."""
MIN_ANSWER_TOKENS: Final = 16
"""The system prompt and the pinned refusals leave at least this number of tokens for the answer."""


def room_for_injection(context: int, client_tokens: int, answer_tokens: int) -> int:
    """Return how many tokens the context leaves for prompt and examples. The number may be negative.

    Args:
        context: The length of the model's context, in tokens.
        client_tokens: The number of tokens of the client's text. It is rounded up to a multiple of HYSTERESIS.
        answer_tokens: The number of tokens that are reserved for the answer.
    """
    stepped = -(-client_tokens // HYSTERESIS) * HYSTERESIS
    return context - stepped - answer_tokens


def room_for_essentials(context: int, client_tokens: int, answer_tokens: int) -> int:
    """Return how many tokens the context leaves for system prompt and pinned refusals. The number may be negative.

    The prompt and the pinned refusals may use more of the context than other examples, because a model without them is
    less safe.

    Args:
        context: The length of the model's context, in tokens.
        client_tokens: The number of tokens of the client's text.
        answer_tokens: The number of tokens that are reserved for the answer if the request also gets other examples.
    """
    return context - client_tokens - min(answer_tokens, MIN_ANSWER_TOKENS)


def max_token_count(text: str) -> int:
    """Return an upper bound of a text's number of tokens: its number of bytes. Every token has at least one byte."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
