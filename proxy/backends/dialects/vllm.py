"""The dialect of vLLM."""

from typing import Any, Final

from proxy.backends.dialects.base import Dialect, Fetch, ModelFacts
from proxy.core.json_types import Json

_TEST_MESSAGES: Final = ({"role": "user", "content": "hi"},)
_TEMPLATE_FIELDS: Final = (
    "messages",
    "tools",
    "chat_template",
    "chat_template_kwargs",
    "add_generation_prompt",
    "continue_final_message",
)
"""The fields of a chat request that its prompt depends on."""


async def _detect(model_id: str, fetch: Fetch) -> ModelFacts | None:
    """Detect vLLM and the kind of a model by sending chat messages to /tokenize.

    For a chat model, vLLM counts the tokens of the messages. For a model without a chat template, it answers with an
    error.
    """
    status, reply = await fetch("/tokenize", {"model": model_id, "messages": _TEST_MESSAGES})
    if status == 200 and isinstance(reply, dict) and "count" in reply:
        return ModelFacts("chat")
    if status == 400 and "chat template" in str(reply).lower():
        return ModelFacts("completion")
    return None


async def _count_tokens(model_id: str, text: str, fetch: Fetch) -> int | None:
    status, reply = await fetch("/tokenize", {"model": model_id, "prompt": text, "add_special_tokens": True})
    return _count(reply) if status == 200 else None


async def _count_chat_tokens(model_id: str, body: Json, fetch: Fetch) -> int | None:
    fields = {name: body[name] for name in _TEMPLATE_FIELDS if body.get(name) is not None}
    status, reply = await fetch("/tokenize", {"model": model_id, **fields})
    return _count(reply) if status == 200 else None


def _count(reply: Any) -> int | None:
    count = reply.get("count") if isinstance(reply, dict) else None
    return count if isinstance(count, int) else None


VLLM: Final = Dialect(
    "vllm",
    detect=_detect,
    count_tokens=_count_tokens,
    count_chat_tokens=_count_chat_tokens,
    takes_cache_salt=True,
    enforces_json=True,
    cache_advice="Start vLLM with --enable-prefix-caching, and without --no-enable-prefix-caching",
)
