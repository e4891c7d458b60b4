"""Finds two facts in the bytes of a reply: its id, and why its answer ended. Only the records of experiments need them.

To save time, the module searches the bytes with patterns. It parses JSON only in two cases. In the first case, the
first event, or a reply that is not a stream, does not begin with a usable id. In the second case, a reply of the
Responses API is not a stream, and the module needs its status. A pattern never matches in the text of an answer: all
patterns contain quotation marks, and JSON escapes the quotation marks of a text.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

_BLANK_LINE: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_ID_FIRST: Final = re.compile(rb'(?:data: ?)?\{"id": ?"([!#-[\]-~]{1,200})"')
_FINISH: Final = re.compile(rb'"finish_reason"\s*:\s*"(?!null"|none")([a-z_]+)"')
_RESPONSE_END: Final = re.compile(rb'"type"\s*:\s*"response\.(completed|incomplete|failed)"')
_STOP_REASONS: Final = frozenset({b"stop", b"tool_calls", b"function_call", b"completed"})
_MAX_ID_LENGTH: Final = 200


class ReplyObserver:
    """Searches one reply while the proxy sends it to the client.

    Attributes:
        completion_id: The id of the reply; None if it was not found.
    """

    __slots__ = ("_ends", "_is_first", "completion_id")

    def __init__(self) -> None:
        self.completion_id: str | None = None
        self._ends: set[bytes] = set()
        self._is_first = True

    @property
    def ended_by_itself(self) -> bool | None:
        """Whether the model itself ended all choices of the reply; None before the end of the first choice.

        The value is False if a length limit, a content filter or an error ended at least one choice. A choice that has
        not ended yet does not affect the value.
        """
        return self._ends <= _STOP_REASONS if self._ends else None

    def observe(self, data: bytes) -> None:
        """Search `data`, the next part of the reply: whole events, or the whole body if the reply is not a stream."""
        if self._is_first:
            self._is_first = False
            self.completion_id = _id_of(data)
        if b'"finish_reason"' in data:
            self._ends.update(_FINISH.findall(data))
        elif b'"response' in data:
            self._ends.update(_RESPONSE_END.findall(data) or _whole_response_end(data))


def _id_of(data: bytes) -> str | None:
    """Return the id in the first part of a reply; None if it has no printable id of 1 to 200 characters."""
    if found := _ID_FIRST.match(data):
        return found[1].decode("ascii")
    return _parsed_id(data)


def _parsed_id(data: bytes) -> str | None:
    payload = _first_object(data)
    found = payload.get("id")
    if found is None and isinstance(payload.get("response"), dict):
        found = payload["response"].get("id")
    is_usable = isinstance(found, str) and found.isprintable() and 0 < len(found) <= _MAX_ID_LENGTH
    return found if is_usable else None


def _first_object(data: bytes) -> Mapping[str, Any]:
    """Return the JSON object of a reply, or of the first event of a stream; an empty object if there is none."""
    if not data.startswith(b"{"):
        event = _BLANK_LINE.split(data, 1)[0]
        data = next((line[5:] for line in event.splitlines() if line.startswith(b"data:")), b"")
    try:
        payload = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return payload if isinstance(payload, dict) else {}


def _whole_response_end(data: bytes) -> list[bytes]:
    """Return a list with the status of a Responses API reply that is not a stream; empty for any other `data`."""
    payload = _first_object(data) if data.startswith(b"{") else {}
    status = payload.get("status")
    return [status.encode()] if payload.get("object") == "response" and isinstance(status, str) else []
