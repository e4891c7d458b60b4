"""Translates the logprobs of text completions to the logprobs of chat completions. The module does no I/O."""

from collections.abc import Iterator, Mapping
from typing import Any

from proxy.core.errors import BackendProtocolError
from proxy.core.json_types import JsonDict


def chat_logprobs(logprobs: Mapping[str, Any] | None, top_logprobs: int) -> JsonDict | None:
    """Translate a completion's logprobs (parallel lists) to chat logprobs (one object per token); None if absent.

    Raises BackendProtocolError if the logprobs have another form.
    """
    if not logprobs:
        return None
    try:
        if "content" in logprobs:  # some servers, such as llama.cpp, use the chat format also in completions
            return {"content": [_chat_token(entry, top_logprobs) for entry in logprobs["content"]], "refusal": None}
        return {"content": list(_token_logprobs(logprobs, top_logprobs)), "refusal": None}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BackendProtocolError("The backend's reply is malformed: `logprobs` have an unknown form.") from error


def _token_logprobs(logprobs: Mapping[str, Any], top_logprobs: int) -> Iterator[JsonDict]:
    tokens = logprobs.get("tokens") or []
    values = logprobs.get("token_logprobs") or [None] * len(tokens)
    tops = logprobs.get("top_logprobs") or [None] * len(tokens)
    for token, value, top in zip(tokens, values, tops, strict=True):
        ranked = sorted((top or {}).items(), key=lambda item: -item[1])[:top_logprobs]
        yield {**_token(token, value), "top_logprobs": [_token(other, logprob) for other, logprob in ranked]}


def _chat_token(entry: Mapping[str, Any], top_logprobs: int) -> JsonDict:
    tops = [_known_fields(top) for top in entry.get("top_logprobs") or ()]
    return {**_known_fields(entry), "top_logprobs": tops[:top_logprobs]}


def _known_fields(entry: Mapping[str, Any]) -> JsonDict:
    return {name: entry.get(name) for name in ("token", "logprob", "bytes")}


def _token(token: str, logprob: float | None) -> JsonDict:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode("utf-8", "surrogatepass"))}
