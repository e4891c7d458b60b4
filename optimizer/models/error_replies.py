"""Reads what a server's error reply says. This module does not send requests."""

from collections.abc import Iterator
from typing import Any, Final

import orjson

_MAX_EXPLANATION_CHARACTERS: Final = 4000
_EXPLANATION_FIELDS: Final = ("error", "message", "msg", "detail", "loc")
_FIRST_ERROR: Final = 400
_LAST_ERROR: Final = 599
_BAD_GATEWAY: Final = 502


def status_in_body(raw: bytes) -> int | None:
    """Return the status of an error that a server reports in a reply with a status below 400; None for a real reply.

    OpenRouter, for example, reports errors of a model's provider in this way.
    """
    if b'"error"' not in raw or b'"choices"' in raw:
        return None
    try:
        reply = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(reply, dict) or not reply.get("error"):
        return None
    code = reply["error"].get("code") if isinstance(reply["error"], dict) else None
    return code if isinstance(code, int) and _FIRST_ERROR <= code <= _LAST_ERROR else _BAD_GATEWAY


def server_explanation(raw: bytes, api_key: str | None) -> str:
    """Return what an error reply says, in one line without the API key; empty if it says nothing that can be read.

    Servers use several formats: OpenAI's object `error` with a message and the name of a parameter, a text `error`, or
    the fields `message` or `detail`.
    """
    try:
        text = " ".join(_explanations(orjson.loads(raw)))
    except orjson.JSONDecodeError:
        text = raw.decode("utf-8", "replace") if not raw.lstrip().startswith(b"<") else ""
    text = " ".join(text[:_MAX_EXPLANATION_CHARACTERS].split())
    return text.replace(api_key, "(the API key)") if api_key else text


def _explanations(error: Any) -> Iterator[str]:
    """Yield the texts of an error reply that explain the error."""
    if isinstance(error, str):
        yield error
    elif isinstance(error, list):
        for one in error:
            yield from _explanations(one)
    elif isinstance(error, dict):
        for name in _EXPLANATION_FIELDS:
            yield from _explanations(error.get(name))
        if isinstance(error.get("param"), str):
            yield f"(parameter: {error['param']})"
