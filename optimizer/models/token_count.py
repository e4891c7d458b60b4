"""Reads or estimates the token counts of a call, and asks a server how many tokens a text has, which is free."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from index.token_estimate import estimated_tokens
from optimizer.core.errors import RefusedRequestError
from optimizer.models.http_client import Client

NO_USAGE: Final = (
    "the server reports no token counts, so that tokens and money are estimated with one token for three bytes, which "
    "is usually too high"
)
"""Says what a missing `usage` in replies means for the budget."""
_NO_TEXT: Final = ("role", "type")
"""The fields of a message that are not text."""
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


def call_tokens(body: Mapping[str, Any], reply: Any) -> tuple[tuple[int, int], bool]:
    """Return the numbers of prompt and completion tokens of a call, and whether a number is an estimate.

    A number that the reply does not report is estimated, so that a server without `usage` does not make the budget
    unlimited.

    Args:
        body: The body of the request.
        reply: The parsed reply.
    """
    prompt, completion = token_usage(reply)
    if prompt and completion:
        return (prompt, completion), False
    asked = "".join(_texts(body.get("messages") or body.get("prompt")))
    answered = "".join(_texts([_written(choice) for choice in _choices(reply)]))
    counts = prompt or estimated_tokens(asked), completion or (estimated_tokens(answered) if answered else 0)
    return counts, counts != (prompt, completion)


def _choices(reply: Any) -> list[Any]:
    choices = reply.get("choices") if isinstance(reply, dict) else None
    return choices if isinstance(choices, list) else []


def _written(choice: Any) -> Any:
    """Return the parts of a choice that the model wrote, without its log-probabilities."""
    return [choice.get("message"), choice.get("text")] if isinstance(choice, dict) else None


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in messages, prompts or choices."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, dict):
        yield from _texts([one for name, one in value.items() if name not in _NO_TEXT])


def _whole_number(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and 0 < value <= _MAX_TOKENS else 0
