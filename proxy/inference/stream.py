"""Converts the stream of a backend for the client, part by part, and decides how the stream ends.

A stream ends in one of four ways:

- It is complete after `[DONE]`. It is also complete if it stops after all its answers have finished, because some
  servers send no `[DONE]`, or send it in another form.
- An event reports an error.
- An event is malformed before all answers have finished. This is an error.
- The stream stops before all answers have finished. It is then truncated, which is an error too.

In each case, the client gets exactly one closing event: `[DONE]`, the last event of a response, or one error event.
Later events of the backend are ignored. The module does no I/O and does not depend on the format of the events.
"""

import re
from typing import Final, Protocol

from proxy.core.errors import BackendProtocolError, BackendReportedError, ProxyError
from proxy.core.json_types import BYTE_ORDER_MARK, JsonDict
from proxy.core.log import log_failure
from proxy.inference.reply_progress import ReplyProgress
from proxy.openai.backend_reply import parse_reply_object
from proxy.openai.reported_error import find_error, text_error
from proxy.openai.sse import DONE_EVENT, EventSplitter, event_data, event_field, is_done, is_event, split_events

_EVENT: Final = "An event of the backend's stream"
_TRUNCATED: Final = "The backend's stream ended before the answer was complete."
_PROPER_DONE: Final = re.compile(rb"data: ?\[DONE\](?:\n\n|\r\n\r\n|\r\r)")
_ERROR_NAMES: Final = frozenset({b"error", b"exception"})  # names of events that report an error, in lower case
_ERROR_TEXTS: Final = (b"error", b"[error")  # the beginning of data that is not JSON and reports an error
_NOT_AN_EVENT: Final = (b"{", b"[", b"<")  # the first byte of JSON or of a web page


class StreamFormat(Protocol):
    """Converts the events of one format of streams.

    Attributes:
        finished: Whether all answers of the stream have finished.
        closed: Whether the last event of the stream has been converted, so that the backend sends no more.
    """

    finished: bool
    closed: bool

    def quick(self, events: bytes) -> bytes | None:
        """Return the conversion of joined events that need not be parsed; None if they must be parsed."""
        ...

    def convert(self, event: bytes, payload: JsonDict) -> bytes:
        """Return the conversion of an event: the bytes of zero or more events. Raises BackendProtocolError."""
        ...

    def end(self, done: bytes = DONE_EVENT) -> bytes:
        """Return the closing events of a complete stream. Raises BackendProtocolError if the answer is not complete.

        Args:
            done: The event `[DONE]`, either as the backend sent it or in its usual form.
        """
        ...

    def failure(self, error: ProxyError) -> bytes:
        """Return the event that reports an error and closes the stream."""
        ...


class StreamConverter:
    """Converts one stream.

    Attributes:
        ended: Whether the closing event was returned, or the stream has failed. The caller then stops reading.
    """

    __slots__ = ("_failure", "_format", "_progress", "_quick", "_splitter", "ended")

    def __init__(self, stream_format: StreamFormat, progress: ReplyProgress) -> None:
        self.ended = False
        self._format = stream_format
        self._quick = stream_format.quick
        self._progress = progress
        self._splitter = EventSplitter()
        self._failure: ProxyError | None = None

    def convert(self, data: bytes) -> bytes:
        """Return the conversion of all events that are complete after these bytes."""
        try:
            events = self._splitter.feed(data)
        except ProxyError as error:
            self._fail(error)
            return b""
        quick = self._quick(events) if events else b""
        return self._convert_events(events) if quick is None else quick

    def finish(self, failure: ProxyError | None = None) -> bytes:
        """Return what the client gets after the last byte of the backend: the closing event, unless it was returned.

        Args:
            failure: The error that broke the stream off; None if the backend ended it.
        """
        last = b"" if self.ended else self._convert_rest()
        if not self.ended and self._format.finished:
            last += self._format.end()
            self.ended = True
        if not self.ended:
            self._fail(failure or BackendProtocolError(_TRUNCATED))
        if self._failure is None:
            return last
        self._progress.reported = isinstance(self._failure, BackendReportedError)
        self._progress.truncated = not self._progress.reported
        return last + self._format.failure(self._failure)

    def _convert_rest(self) -> bytes:
        """Convert the bytes after the last blank line if they are a whole event. Some servers send no blank line."""
        rest = self._splitter.held.strip()
        if not (event_data(rest).strip() or rest.startswith((b"error:", *_NOT_AN_EVENT))):
            return b""
        converted = self._convert_events(rest + b"\n\n")
        if isinstance(self._failure, BackendProtocolError):  # the rest is only a part of an event
            self.ended, self._failure = False, None
        return converted

    def _convert_events(self, events: bytes) -> bytes:
        converted = []
        try:
            for event in split_events(events):
                converted.append(self._convert_event(event))
                if self.ended:
                    break
        except BackendProtocolError as error:
            if self._format.finished:  # A malformed event after the end of all answers does no harm.
                self.ended = True
                converted.append(self._format.end())
            else:
                self._fail(error)
        except ProxyError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - the headers are sent, so any defect must end in an error event
            log_failure("defect", error)
            self._fail(ProxyError("Internal error. The server's log describes it."))
        return b"".join(converted)

    def _fail(self, error: ProxyError) -> None:
        self.ended, self._failure = True, error

    def _convert_event(self, event: bytes) -> bytes:
        quick = self._quick(event)
        if quick is not None:
            return quick
        if is_done(event):
            self.ended = True
            return self._format.end(event if _PROPER_DONE.fullmatch(event) else DONE_EVENT)
        data = event_data(event)
        if not data.strip():
            return _without_data(event)
        converted = self._format.convert(event.removeprefix(BYTE_ORDER_MARK), _payload(event, data))
        self.ended = self._format.closed
        return converted


def _payload(event: bytes, data: bytes) -> JsonDict:
    """Return the payload of an event.

    Raises:
        BackendReportedError: The event reports an error.
        BackendProtocolError: The payload is not a JSON object.
    """
    is_error = b"event" in event and _has_error_name(event)
    text = data.lstrip()
    if (is_error and not text.startswith(b"{")) or text[: len(_ERROR_TEXTS[-1])].lower().startswith(_ERROR_TEXTS):
        raise text_error(data.decode("utf-8", "replace"))
    payload = parse_reply_object(data, _EVENT)
    if error := find_error({**payload, "object": "error"} if is_error else payload):
        raise error
    return payload


def _without_data(event: bytes) -> bytes:
    """Return a comment, or an event without data, unchanged. Lines that are no fields of an event are dropped.

    Raises:
        BackendReportedError: The event reports an error by its name, or in a field `error`, as llama.cpp does.
        BackendProtocolError: The bytes are not an event.
    """
    errors = event_field(event, b"error")
    if errors or _has_error_name(event):
        text = b"\n".join(errors)
        raise _error_in(text) or text_error(text.decode("utf-8", "replace"))
    if event.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(_NOT_AN_EVENT):
        raise _error_in(event) or BackendProtocolError("The backend's stream has a line that is not an event.")
    return event if is_event(event) else b""


def _has_error_name(event: bytes) -> bool:
    return any(name.strip().lower() in _ERROR_NAMES for name in event_field(event, b"event"))


def _error_in(data: bytes) -> ProxyError | None:
    """Return the error that a JSON object reports; None if the data is not a JSON object or reports no error."""
    try:
        return find_error(parse_reply_object(data, _EVENT))
    except BackendProtocolError:
        return None
