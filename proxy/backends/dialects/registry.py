"""The dialects that the proxy can detect. To add one, write its module here and add it to DIALECTS."""

from collections.abc import Sequence
from typing import Final

from proxy.backends.dialects.base import Dialect, Fetch, ModelFacts
from proxy.backends.dialects.llama_cpp import LLAMA_CPP
from proxy.backends.dialects.unknown import UNKNOWN
from proxy.backends.dialects.vllm import VLLM

DIALECTS: Final = (VLLM, LLAMA_CPP)
"""In the order in which a backend is asked."""


async def detect_dialect(
    model_id: str, fetch: Fetch, dialects: Sequence[Dialect] = DIALECTS
) -> tuple[Dialect, ModelFacts]:
    """Return the first dialect that a backend answers to, and what the backend reports about a model."""
    for dialect in dialects:
        facts = await dialect.detect(model_id, fetch)
        if facts is not None:
            return dialect, facts
    return UNKNOWN, ModelFacts()
