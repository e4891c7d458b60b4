"""The dialects that the proxy can detect.

To add a dialect, write a module in this package and list the dialect in DIALECTS.
"""

from collections.abc import Sequence
from typing import Final

from proxy.backends.dialects.base import Dialect, Fetch, ModelFacts
from proxy.backends.dialects.llama_cpp import LLAMA_CPP
from proxy.backends.dialects.unknown import UNKNOWN
from proxy.backends.dialects.vllm import VLLM

DIALECTS: Final = (VLLM, LLAMA_CPP)
"""The dialects that can be detected, in the order in which they are tried."""


async def detect_dialect(
    model_id: str, fetch: Fetch, dialects: Sequence[Dialect] = DIALECTS
) -> tuple[Dialect, ModelFacts]:
    """Return the first dialect that recognizes a backend, and what the backend reports about a model.

    If no dialect recognizes the backend, the result is the dialect UNKNOWN and no facts.
    """
    for dialect in dialects:
        facts = await dialect.detect(model_id, fetch)
        if facts is not None:
            return dialect, facts
    return UNKNOWN, ModelFacts()
