"""Holds the arithmetic of the token budget: how many tokens a model's context leaves for prompt and examples.

The module does not choose or cache examples. index/retrieval/selection.py selects the examples that fit the budget, and
proxy/inference/injection/injector.py calls both and caches selections. The module does not depend on tokenizers.
"""

from typing import Final

HYSTERESIS: Final = 256
"""The client's tokens are rounded up to a multiple of this number before the budget is computed.

So the examples of a growing conversation change only when its tokens pass a multiple. Between two multiples the
preamble stays the same, and the backend finds it in its prefix cache.
"""
DEFAULT_ANSWER_TOKENS: Final = 256
"""Tokens of the context that are left for the answer if the client sets no max_tokens."""


def room_for_injection(context: int, client_tokens: int, answer_tokens: int) -> int:
    """Return the tokens that the context leaves for prompt and examples. It may be negative.

    Args:
        context: Tokens of the model's context.
        client_tokens: Tokens of the client's text. They are rounded up to a multiple of HYSTERESIS.
        answer_tokens: Tokens that are left for the answer.
    """
    stepped = -(-client_tokens // HYSTERESIS) * HYSTERESIS
    return context - stepped - answer_tokens


def max_token_count(text: str) -> int:
    """Return an upper bound of the tokens of a text: its bytes, because every token has at least one byte."""
    return len(text.encode("utf-8", "replace"))
