"""Parses and checks the replies of backends. A backend may send any bytes and any JSON type in any place.

The module checks only what the proxy and the clients' libraries rely on: the types of the choices and of their texts.
It does not check any other field. No error message contains a value of the reply.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import orjson

from proxy.core.errors import BackendProtocolError
from proxy.core.json_types import BYTE_ORDER_MARK, JsonDict, repaired_json
from proxy.openai.sse import DONE_EVENT

_STREAM_STARTS: Final = (b"data:", b"event:", b"id:", b"retry:", b"error:", b":")
_NO_REASONS: Final = frozenset({"", "null", "none"})  # finish reasons of choices that have not finished
_CHUNK_FIELDS: Final = frozenset({"id", "object", "created", "model", "choices"})
_USAGE_FIELDS: Final = _CHUNK_FIELDS | {"usage", "system_fingerprint"}

ChoiceForm = Literal["message", "delta", "text"]
"""The field of a choice that has its text: `message` in a chat completion, `delta` in a chunk of a chat completion, and
`text` in a text completion and its chunks."""


def parse_reply(data: bytes, what: str = "The backend's reply") -> Any:
    """Parse the JSON of a reply, or of one event of a stream.

    A byte order mark is ignored. A surrogate without its partner, which some servers send for half a character, is
    parsed as U+FFFD.

    Args:
        data: The JSON text.
        what: The subject of the error message.

    Raises:
        BackendProtocolError: The data is not valid JSON in UTF-8.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return orjson.loads(repaired_json(data))
    except orjson.JSONDecodeError as error:
        raise BackendProtocolError(f"{what} {_problem(data)}.") from error


def _problem(data: bytes) -> str:
    text = data.removeprefix(BYTE_ORDER_MARK).strip()
    if not text:
        return "is empty"
    if text.startswith(b"<"):
        return "is a web page or XML instead of JSON"
    if starts_stream(text):
        return "is a stream of events, which was not requested"
    return "is not valid JSON in UTF-8"


def starts_stream(data: bytes) -> bool:
    """Return whether the beginning of a body looks like a stream of server-sent events."""
    return data.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(_STREAM_STARTS)


def parse_reply_object(data: bytes, what: str = "The backend's reply") -> JsonDict:
    """Parse a reply that must be a JSON object. Raises BackendProtocolError as `parse_reply` does."""
    payload = parse_reply(data, what)
    if not isinstance(payload, dict):
        raise BackendProtocolError(f"{what} is JSON, but not an object.")
    return payload


def encode_reply(payload: Mapping[str, Any]) -> bytes:
    """Serialize a converted reply. Raises BackendProtocolError if it is nested too deep."""
    try:
        return orjson.dumps(payload)
    except TypeError as error:
        raise BackendProtocolError("The backend's reply is nested too deep.") from error


def is_extension(payload: Mapping[str, Any]) -> bool:
    """Return whether an event has fields, but no field of a chunk. Some servers send such events beside the answer."""
    return bool(payload) and _CHUNK_FIELDS.isdisjoint(payload)


def is_only_usage(payload: Mapping[str, Any]) -> bool:
    """Return whether an event without choices has token counts, or their place, and nothing else."""
    return "usage" in payload and payload.keys() <= _USAGE_FIELDS


def checked_choices(payload: Mapping[str, Any], form: ChoiceForm) -> Sequence[JsonDict]:
    """Return the choices of a reply or a chunk.

    Raises:
        BackendProtocolError: The choices, their indexes, their finish reasons or their texts have a wrong type.
    """
    choices = payload.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise _malformed("`choices` must be a list of objects")
    for choice in choices:
        _check_choice(choice, form)
    return choices


def as_stream(payload: Mapping[str, Any], form: ChoiceForm) -> bytes:
    """Return a reply that is not a stream as the events of a stream: one chunk, the token counts, and `[DONE]`.

    Args:
        payload: The reply, which `checked_choices` has checked.
        form: `message` for a chat completion, `text` for a text completion.
    """
    frame = {name: value for name, value in payload.items() if name not in ("choices", "usage")}
    if form == "message":
        frame["object"] = "chat.completion.chunk"
    chunks = [{**frame, "choices": [_chunk_choice(choice) for choice in payload["choices"]]}]
    if payload.get("usage") is not None:
        chunks.append({**frame, "choices": [], "usage": payload["usage"]})
    return b"".join(b"data: " + encode_reply(chunk) + b"\n\n" for chunk in chunks) + DONE_EVENT


def _chunk_choice(choice: Mapping[str, Any]) -> JsonDict:
    message = choice.get("message")
    if not isinstance(message, dict):
        return dict(choice)
    if isinstance(calls := message.get("tool_calls"), list):  # in a chunk, each call has an index
        numbered = [{"index": n, **call} for n, call in enumerate(calls) if isinstance(call, dict)]
        message = {**message, "tool_calls": numbered}
    return {**{name: value for name, value in choice.items() if name != "message"}, "delta": message}


def usage_count(usage: Mapping[str, Any], name: str) -> int:
    """Return a token count, and 0 for anything else that a backend may send in its place. Clients require a number."""
    count = usage.get(name)
    return count if type(count) is int and count >= 0 else 0


def has_finished(choice: Mapping[str, Any]) -> bool:
    """Return whether a choice has a finish reason. Some servers send "" or "null" until the choice has finished."""
    reason = choice.get("finish_reason")
    return reason is not None and str(reason).strip().lower() not in _NO_REASONS


def only_text(payload: Mapping[str, Any], form: ChoiceForm) -> tuple[str, str] | None:
    """Return the field and the text of a chunk that only adds text to one choice; None for other chunks."""
    choices = payload["choices"]
    choice = choices[0]
    if len(choices) != 1 or payload.get("usage") or has_finished(choice) or choice.get("logprobs"):
        return None
    holder: Mapping[str, Any] = {"text": choice.get("text")} if form == "text" else choice.get("delta") or {}
    texts = [(name, text) for name, text in holder.items() if name != "role" and isinstance(text, str) and text]
    return texts[0] if len(texts) == 1 else None


def _check_choice(choice: JsonDict, form: ChoiceForm) -> None:
    if type(choice.get("index", 0)) is not int:
        raise _malformed("`index` of a choice must be a number")
    if not isinstance(choice.get("finish_reason"), str | None):
        raise _malformed("`finish_reason` of a choice must be a string or null")
    if form == "text" or (form not in choice and "text" in choice):  # some servers answer a chat with a completion
        _check_text(choice.get("text"), str | None)
        return
    holder = choice.get(form, {} if form == "delta" else None)
    if not isinstance(holder, dict):
        raise _malformed(f"`{form}` of a choice must be an object")
    _check_text(holder.get("content"), str | list | None)


def _check_text(text: object, expected: Any) -> None:
    if not isinstance(text, expected):
        raise _malformed("the text of a choice must be a string")


def _malformed(rule: str) -> BackendProtocolError:
    return BackendProtocolError(f"The backend's reply is malformed: {rule}.")
