"""What an answer told while it passed to the client: its id, and how it ended. Looks at the client's own bytes.

Used for requests of an experiment alone, and cheap: the first event is parsed only where its id does not stand at its
start, the others are searched. No text of an answer can be taken for a field, since its quotation marks are escaped.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

_BLANK_LINE: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_ID_FIRST: Final = re.compile(rb'(?:data: ?)?\{"id": ?"([!#-[\]-~]{1,200})"')
_FINISH: Final = re.compile(rb'"finish_reason"\s*:\s*"([a-z_]+)"')
_RESPONSE_END: Final = re.compile(rb'"type"\s*:\s*"response\.(completed|incomplete|failed)"')
_BY_ITSELF: Final = frozenset({b"stop", b"tool_calls", b"function_call", b"completed"})
_LONGEST_ID: Final = 200


class ReplyObserver:
    """One answer. completion_id: None where it told none."""

    __slots__ = ("_ends", "_is_first", "completion_id")

    def __init__(self) -> None:
        self.completion_id: str | None = None
        self._ends: set[bytes] = set()
        self._is_first = True

    @property
    def ended_by_itself(self) -> bool | None:
        """Whether the model stopped, in every choice; None where nobody said."""
        return self._ends <= _BY_ITSELF if self._ends else None

    def see(self, data: bytes) -> None:
        """The next bytes of the answer: all of it, or whole events."""
        if self._is_first:
            self._is_first = False
            self.completion_id = _id_of(data)
        if b'"finish_reason"' in data:
            self._ends.update(_FINISH.findall(data))
        elif b'"response' in data:
            self._ends.update(_RESPONSE_END.findall(data) or _whole_response_end(data))


def _id_of(data: bytes) -> str | None:
    """The id at the start, where servers write it; else wherever it is."""
    if found := _ID_FIRST.match(data):
        return found[1].decode("ascii")
    return _parsed_id(data)


def _parsed_id(data: bytes) -> str | None:
    payload = _first_object(data)
    found = payload.get("id")
    if found is None and isinstance(payload.get("response"), dict):
        found = payload["response"].get("id")
    known = isinstance(found, str) and found.isprintable() and 0 < len(found) <= _LONGEST_ID
    return found if known else None


def _first_object(data: bytes) -> Mapping[str, Any]:
    """The JSON object of an answer, or of its first event."""
    if not data.startswith(b"{"):
        event = _BLANK_LINE.split(data, 1)[0]
        data = next((line[5:] for line in event.splitlines() if line.startswith(b"data:")), b"")
    try:
        payload = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return payload if isinstance(payload, dict) else {}


def _whole_response_end(data: bytes) -> list[bytes]:
    """The status of a response that came in one piece."""
    payload = _first_object(data) if data.startswith(b"{") else {}
    status = payload.get("status")
    return [status.encode()] if payload.get("object") == "response" and isinstance(status, str) else []
