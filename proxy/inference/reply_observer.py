"""Finds the id of a reply and the reason for its end in the bytes that the client gets. Only experiments need them.

To save time, events are searched with patterns instead of parsed. Only a first event that does not begin with its id,
and a whole reply of the Responses API, are parsed. A pattern cannot match within the text of an answer,
because JSON escapes the quotation marks there.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

_BLANK_LINE: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_ID_FIRST: Final = re.compile(rb'(?:data: ?)?\{"id": ?"([!#-[\]-~]{1,200})"')
_FINISH: Final = re.compile(rb'"finish_reason"\s*:\s*"([a-z_]+)"')
_RESPONSE_END: Final = re.compile(rb'"type"\s*:\s*"response\.(completed|incomplete|failed)"')
_STOP_REASONS: Final = frozenset({b"stop", b"tool_calls", b"function_call", b"completed"})
_MAX_ID_LENGTH: Final = 200


class ReplyObserver:
    """Observes one reply while it is sent to the client.

    Attributes:
        completion_id: The id of the completion; None if it was not found.
    """

    __slots__ = ("_ends", "_is_first", "completion_id")

    def __init__(self) -> None:
        self.completion_id: str | None = None
        self._ends: set[bytes] = set()
        self._is_first = True

    @property
    def ended_by_itself(self) -> bool | None:
        """Whether the model itself ended every choice that has ended so far; None if none has ended.

        False if a length limit, a content filter or an error ended a choice.
        """
        return self._ends <= _STOP_REASONS if self._ends else None

    def observe(self, data: bytes) -> None:
        """Search the next bytes of the reply. They must be one or more whole events, or the whole reply."""
        if self._is_first:
            self._is_first = False
            self.completion_id = _id_of(data)
        if b'"finish_reason"' in data:
            self._ends.update(_FINISH.findall(data))
        elif b'"response' in data:
            self._ends.update(_RESPONSE_END.findall(data) or _whole_response_end(data))


def _id_of(data: bytes) -> str | None:
    """Return the id in the first bytes of a reply; None if they contain no usable id."""
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
    """Return the JSON object of a whole reply, or of its first event; an empty one if there is none."""
    if not data.startswith(b"{"):
        event = _BLANK_LINE.split(data, 1)[0]
        data = next((line[5:] for line in event.splitlines() if line.startswith(b"data:")), b"")
    try:
        payload = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return payload if isinstance(payload, dict) else {}


def _whole_response_end(data: bytes) -> list[bytes]:
    """Return the status of a Responses API reply that is not a stream, as a list of one; empty for any other reply."""
    payload = _first_object(data) if data.startswith(b"{") else {}
    status = payload.get("status")
    return [status.encode()] if payload.get("object") == "response" and isinstance(status, str) else []
