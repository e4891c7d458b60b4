"""Splits a stream of bytes into server-sent events, and reads the payloads of events.

The module does no I/O and does not depend on the meaning of a payload.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import orjson

from proxy.core.errors import BackendProtocolError, ProxyError
from proxy.core.json_types import BYTE_ORDER_MARK

MAX_EVENT_BYTES: Final = 1024 * 1024
DONE_EVENT: Final = b"data: [DONE]\n\n"
_NEWLINE: Final = 10
_FIELDS: Final = frozenset({b"data", b"event", b"id", b"retry", b""})  # the name of a comment is empty
_BLANK_LINE: Final = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")


@dataclass(slots=True)
class EventSplitter:
    """Collects bytes until they make whole events.

    Attributes:
        held: The received bytes of an event that is not complete yet, at most MAX_EVENT_BYTES.
    """

    held: bytes = b""

    def feed(self, data: bytes) -> bytes:
        """Add received bytes. Return the events that are now complete, as one byte string.

        Raises:
            BackendProtocolError: An event is not complete after MAX_EVENT_BYTES.
        """
        held = self.held + data if self.held else data
        if held[-2:] == b"\n\n" and held[-3:-2] not in (b"\n", b"\r"):  # fast path: nearly every part is whole events
            self.held = b""
            return held
        end = _end_of_events(held)
        self.held = held[end:]
        if len(self.held) > MAX_EVENT_BYTES:
            raise BackendProtocolError("The backend sent an event of over 1 MiB.")
        return held[:end]


def split_events(joined: bytes) -> list[bytes]:
    """Split joined whole events into single events, each with its blank line."""
    if b"\r" not in joined:
        return [event + b"\n\n" for event in joined.split(b"\n\n")[:-1]]
    events, start = [], 0
    for boundary in _BLANK_LINE.finditer(joined):
        events.append(joined[start : boundary.end()])
        start = boundary.end()
    return events


def _end_of_events(data: bytes) -> int:
    """Return the offset of the end of the last whole event; 0 if no event is complete.

    Two line breaks in a row end an event. Of three line breaks in a row, the first two end an event, and the third
    belongs to the next event. A carriage return at the end of the data, after a line feed, is not taken for a line
    break: the line feed that belongs to it may arrive with the next bytes.
    """
    if b"\r" in data:
        limit = len(data) - 1 if data.endswith(b"\n\r") else len(data)
        return max((boundary.end() for boundary in _BLANK_LINE.finditer(data, 0, limit)), default=0)
    last = data.rfind(b"\n\n")
    end = start = last + 2 if last >= 0 else 0
    while start and data[start - 1] == _NEWLINE:
        start -= 1
    return start + (end - start) // 2 * 2


def event_data(event: bytes) -> bytes:
    """Return the payload of an event: the values of its `data:` lines, joined by newlines."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[6:-2]  # fast path: nearly every event has one line
    return b"\n".join(event_field(event, b"data"))


def event_field(event: bytes, name: bytes) -> list[bytes]:
    """Return the values of all fields of an event that have this name, in their order.

    A byte order mark before the first field is ignored.
    """
    return [value.removeprefix(b" ") for field, _, value in _fields(event) if field == name]


def is_event(event: bytes) -> bool:
    """Return whether at least one line is a field of an event, or a comment. Clients ignore all other lines."""
    return any(field in _FIELDS for field, _, _ in _fields(event))


def _fields(event: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield the name, the colon and the value of each line that is not empty."""
    lines = re.split(rb"\r\n|\n|\r", event.removeprefix(BYTE_ORDER_MARK))
    return (line.partition(b":") for line in lines if line)


def is_done(event: bytes) -> bool:
    """Return whether the event is `[DONE]`, which ends a complete stream. White space around it is ignored."""
    return b"[DONE]" in event and event_data(event).strip() == b"[DONE]"


def parse_object(data: bytes) -> dict[str, object]:
    """Parse a JSON object; return an empty object if the data is not a JSON object.

    The caller decides what to do with a malformed reply of a backend, so the function raises no error.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def error_event(error: ProxyError) -> bytes:
    """Return an error of the proxy as one server-sent event."""
    return b"data: " + error.json + b"\n\n"
