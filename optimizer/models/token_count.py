"""Reads the token counts that a reply reports, and asks a server for the number of tokens of a text, which is free."""

from typing import Any, Final

import orjson

from optimizer.core.errors import RefusedRequestError
from optimizer.models.http_client import Client

_MAX_TOKENS: Final = 1e9
"""The largest number of tokens that a reply can have. A larger one is malformed."""


async def server_token_count(client: Client, text: str) -> int | None:
    """Request a token count at the path /tokenize, first in vLLM's format, then in llama.cpp's format.

    Return None if the server supports neither format.
    """
    model = {"model": client.endpoint.model}
    for body in ({"prompt": text, "add_special_tokens": True}, {"content": text, "add_special": True}):
        try:
            raw, _ = await client.post("/tokenize", orjson.dumps({**model, **body}))
            reply = orjson.loads(raw)
        except (RefusedRequestError, orjson.JSONDecodeError):
            continue
        if isinstance(reply, dict) and isinstance(reply.get("count"), int):
            return int(reply["count"])
        if isinstance(reply, dict) and isinstance(reply.get("tokens"), list) and reply["tokens"]:
            return len(reply["tokens"])
    return None


def token_usage(reply: Any) -> tuple[int, int]:
    """Return the numbers of prompt and completion tokens that a reply reports. A missing or malformed number is 0."""
    usage = reply.get("usage") if isinstance(reply, dict) else None
    if not isinstance(usage, dict):
        return 0, 0
    prompt, completion = (usage.get(name) for name in ("prompt_tokens", "completion_tokens"))
    return _whole_number(prompt), _whole_number(completion)


def _whole_number(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and 0 < value <= _MAX_TOKENS else 0
