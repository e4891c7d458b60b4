"""The log: one line per event on standard error, as JSON or as short text.

The log contains the content of requests and answers only if the operator asks for it (--log-content).

A thread writes the lines in batches, because one write per line would take more time than creating the line. If the
program that reads standard error is too slow, the queue fills and new lines are dropped. A slow reader therefore delays
no request, and the queue cannot use more and more memory.
"""

import logging
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from queue import SimpleQueue
from threading import Thread
from time import sleep, time
from typing import Final, TextIO

import orjson

LOGGER: Final = logging.getLogger("drpo")


MAX_QUEUED_LINES: Final = 10_000  # a line beyond this number is lost
_CLOSE_TIMEOUT: Final = 2.0  # seconds to write the last lines
_BATCH_DELAY: Final = 0.02  # seconds in which lines are collected before they are written
_MAX_BATCH_LINES: Final = 1_000


@contextmanager
def log_lines(log_format: str, stream: TextIO = sys.stderr, worker: int | None = None) -> Iterator[None]:
    """Write the log to a stream while the `with` block runs.

    Args:
        log_format: `json`, `text`, or `auto`, which is `text` for a terminal and `json` otherwise.
        stream: The stream. Lines are written to its file descriptor.
        worker: The number of this worker process, which is added to each line; None if the server has one process.
    """
    as_text = log_format == "text" or (log_format == "auto" and stream.isatty())
    handler = _QueueHandler(stream.fileno(), _TextFormat(worker) if as_text else _JsonFormat(worker))
    before = LOGGER.level, LOGGER.propagate
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    try:
        yield
    finally:
        LOGGER.setLevel(before[0])
        LOGGER.propagate = before[1]
        LOGGER.removeHandler(handler)
        handler.close()


def lost_lines() -> int:
    """Return how many lines were lost, because the reader of the log was too slow or a write failed."""
    return sum(handler.lost for handler in LOGGER.handlers if isinstance(handler, _QueueHandler))


class _QueueHandler(logging.Handler):
    """Queues lines, and writes them to a file descriptor on a thread.

    The thread does not write through the object sys.stderr, because a write holds the lock of this object. At exit, the
    interpreter needs the same lock to flush the object. If the thread were blocked in a write at that moment, the
    interpreter would crash.

    Attributes:
        lost: How many lines were lost. A failed write counts as one line, even if its batch had more.
    """

    def __init__(self, descriptor: int, line_format: "_LineFormat") -> None:
        super().__init__()
        self.lost = 0
        self._format = line_format
        self._descriptor = os.dup(descriptor)  # stays valid if the stream is closed before the thread ends
        self._lines: list[bytes] = []
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._is_woken = False  # a request wakes the thread only if no other request has woken it already
        self._closing = False
        self._thread = Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line for a record of the logging module."""
        self.queue_line(record.created, record.levelname.lower(), record.getMessage(), getattr(record, "values", {}))

    def queue_line(self, seconds: float, level: str, event: str, values: Mapping[str, object]) -> None:
        """Queue one line. If the queue is full, count the line as lost."""
        if len(self._lines) >= MAX_QUEUED_LINES:
            self.lost += 1
            return
        self._lines.append(self._format.line(seconds, level, event, values))
        if not self._is_woken:
            self._is_woken = True
            self._wakes.put(None)

    def close(self) -> None:
        """Write the queued lines, but wait no longer than _CLOSE_TIMEOUT."""
        self._closing = True
        self._wakes.put(None)
        self._thread.join(_CLOSE_TIMEOUT)
        super().close()

    def _write_all(self) -> None:
        reported, ended = 0, False
        while not ended:
            self._wakes.get()
            if not self._closing:
                sleep(_BATCH_DELAY)
            self._is_woken = False
            ended = self._closing
            while lines := self._next_lines():
                self._write(b"".join(lines))
            if self.lost > reported:
                reported = self.lost
                self._write(self._format.line(time(), "warning", "log lines lost", {"lines": reported}))
        os.close(self._descriptor)

    def _next_lines(self) -> list[bytes]:
        """Remove and return the oldest lines, at most _MAX_BATCH_LINES. Other threads may append lines meanwhile."""
        lines = self._lines[:_MAX_BATCH_LINES]
        del self._lines[: len(lines)]
        return lines

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            self.lost += 1  # the reader has ended or the disk is full; the thread still tries to write later lines


def log_event(event: str, **values: object) -> None:
    """Log an event with values that describe the event.

    The caller must not pass secret keys. It may pass the text of users only if the operator gave --log-content.
    """
    if not LOGGER.isEnabledFor(logging.INFO):
        return
    for handler in LOGGER.handlers:
        if isinstance(handler, _QueueHandler):  # creating a LogRecord takes longer than formatting the line
            handler.queue_line(time(), "info", event, values)
        else:
            handler.handle(
                LOGGER.makeRecord(LOGGER.name, logging.INFO, "", 0, event, (), None, extra={"values": values})
            )


def log_warning(event: str, **values: object) -> None:
    """Log an event that the operator should look at, with values that describe it. The rules of `log_event` hold."""
    LOGGER.warning(event, extra={"values": values})


def log_failure(event: str, error: BaseException, **values: object) -> None:
    """Log the type of an unexpected error, and the line of code that raised it.

    The message of the error is not logged, because it may contain text of users.
    """
    LOGGER.error(event, extra={"values": {**values, "error": type(error).__name__, "at": _raised_at(error)}})


def _raised_at(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}"


class _LineFormat(ABC):
    """Formats the lines of the log."""

    def __init__(self, worker: int | None) -> None:
        self._worker = {} if worker is None else {"worker": worker}

    @abstractmethod
    def line(self, seconds: float, level: str, event: str, values: Mapping[str, object]) -> bytes:
        """Return one line with its newline. `seconds` is the Unix time. Values that are None are omitted."""


class _JsonFormat(_LineFormat):
    def __init__(self, worker: int | None) -> None:
        super().__init__(worker)
        self._second, self._formatted_second = 0, ""

    def line(self, seconds: float, level: str, event: str, values: Mapping[str, object]) -> bytes:
        line = {"time": self._time(seconds), "level": level, "event": event, **self._worker}
        line |= {name: value for name, value in values.items() if value is not None}
        return orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE)

    def _time(self, seconds: float) -> str:
        """Return the time in ISO 8601 with milliseconds. The part before the milliseconds is cached for one second."""
        second = int(seconds)
        if second != self._second:
            self._formatted_second = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            self._second = second
        return f"{self._formatted_second}.{int(1000 * (seconds - second)):03d}+00:00"


class _TextFormat(_LineFormat):
    def line(self, seconds: float, level: str, event: str, values: Mapping[str, object]) -> bytes:  # noqa: ARG002
        present = {**self._worker, **{name: value for name, value in values.items() if value is not None}}
        words = " ".join(f"{name}={value}" for name, value in present.items())
        text = f"{datetime.fromtimestamp(seconds).astimezone():%H:%M:%S} {event} {words}"
        return ("".join(letter if letter.isprintable() else " " for letter in text) + "\n").encode("utf-8", "replace")
