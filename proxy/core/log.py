"""One line per event on standard error: JSON for machines, short text for a terminal. Knows no request content.

A thread of its own writes them, those of a moment together: each wake-up would cost a request more than its line does.
Who reads the log too slowly loses lines, and costs no request time or memory.
"""

import logging
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from threading import Thread
from time import sleep, time
from typing import Final, TextIO

import orjson

LOGGER: Final = logging.getLogger("drpo")


LINES_HELD: Final = 10_000
_LAST_LINES_WITHIN: Final = 2.0  # seconds, at the end
_GATHERED_FOR: Final = 0.02  # seconds
_WRITTEN_TOGETHER: Final = 1_000


@contextmanager
def log_lines(log_format: str, stream: TextIO = sys.stderr, worker: int | None = None) -> Iterator[None]:
    """Send drpo's lines to `stream` as `json`, `text`, or (`auto`) whichever suits it, until the block ends.

    worker: the number of this process among several, to stand in each line.
    """
    as_text = log_format == "text" or (log_format == "auto" and stream.isatty())
    sink = _Sink(stream.fileno(), _TextLines(worker) if as_text else _JsonLines(worker))
    before = LOGGER.level, LOGGER.propagate
    LOGGER.addHandler(sink)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    try:
        yield
    finally:
        LOGGER.setLevel(before[0])
        LOGGER.propagate = before[1]
        LOGGER.removeHandler(sink)
        sink.close()


def lost_lines() -> int:
    """Lines that were dropped because nobody read the log fast enough."""
    return sum(handler.lost for handler in LOGGER.handlers if isinstance(handler, _Sink))


class _Sink(logging.Handler):
    """Lines on their way to a file descriptor. It is written to directly: a thread that hangs in a write while it holds
    the lock of sys.stderr would bring the interpreter down at exit."""

    def __init__(self, descriptor: int, form: "_Lines") -> None:
        super().__init__()
        self.lost = 0
        self._form = form
        self._descriptor = os.dup(descriptor)  # its number is nobody else's, even when the thread outlives the stream
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._closing = False
        self._thread = Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """What comes by way of the logging module."""
        self.take(record.created, record.levelname.lower(), record.getMessage(), getattr(record, "values", {}))

    def take(self, seconds: float, level: str, event: str, values: Mapping[str, object]) -> None:
        """Write one line soon."""
        if self._lines.qsize() < LINES_HELD:
            self._lines.put(self._form.line(seconds, level, event, values))
        else:
            self.lost += 1

    def close(self) -> None:
        """Write what is held, as far as it is taken in two seconds."""
        self._closing = True
        self._lines.put(None)
        self._thread.join(_LAST_LINES_WITHIN)
        super().close()

    def _write_all(self) -> None:
        told, ended = 0, False
        while not ended:
            lines = [self._lines.get()]
            if not self._closing:
                sleep(_GATHERED_FOR)
            lines += self._at_hand()
            ended = lines[-1] is None
            self._write(b"".join(line for line in lines if line is not None))
            if self.lost > told:
                told = self.lost
                self._write(self._form.line(time(), "warning", "log lines lost", {"lines": told}))
        os.close(self._descriptor)

    def _at_hand(self) -> list[bytes | None]:
        """What waits now, up to the end if that is there."""
        lines: list[bytes | None] = []
        while len(lines) < _WRITTEN_TOGETHER and (not lines or lines[-1] is not None):
            try:
                lines.append(self._lines.get_nowait())
            except Empty:
                break
        return lines

    def _write(self, rest: bytes) -> None:
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            self.lost += 1  # the reader is gone, or the disk is full: the next line is tried all the same


def log_event(event: str, **values: object) -> None:
    """Write one line: what happened, and plain values that describe it. Never keys, prompts or user text."""
    if not LOGGER.isEnabledFor(logging.INFO):
        return
    for handler in LOGGER.handlers:
        if isinstance(handler, _Sink):  # without a LogRecord, which costs more than the line
            handler.take(time(), "info", event, values)
        else:
            handler.handle(
                LOGGER.makeRecord(LOGGER.name, logging.INFO, "", 0, event, (), None, extra={"values": values})
            )


def log_failure(event: str, error: BaseException, **values: object) -> None:
    """Write one line for a defect of ours: the error's type and where it was raised, never its text."""
    LOGGER.error(event, extra={"values": {**values, "error": type(error).__name__, "at": _place(error)}})


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}"


class _Lines(ABC):
    """How a line is written. worker: the number that stands in each, if there are several."""

    def __init__(self, worker: int | None) -> None:
        self._worker = {} if worker is None else {"worker": worker}

    @abstractmethod
    def line(self, seconds: float, level: str, event: str, values: Mapping[str, object]) -> bytes:
        """One line, its end included; values of None are left out. seconds: since the epoch."""


class _JsonLines(_Lines):
    def __init__(self, worker: int | None) -> None:
        super().__init__(worker)
        self._second, self._until_second = 0, ""

    def line(self, seconds: float, level: str, event: str, values: Mapping[str, object]) -> bytes:
        told = {name: value for name, value in values.items() if value is not None}
        line = {"time": self._time(seconds), "level": level, "event": event, **self._worker, **told}
        return orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE)

    def _time(self, seconds: float) -> str:
        """In ISO 8601, to the millisecond; what is the same for a second is written once."""
        second = int(seconds)
        if second != self._second:
            self._until_second = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            self._second = second
        return f"{self._until_second}.{int(1000 * (seconds - second)):03d}+00:00"


class _TextLines(_Lines):
    def line(self, seconds: float, level: str, event: str, values: Mapping[str, object]) -> bytes:  # noqa: ARG002
        told = {**self._worker, **{name: value for name, value in values.items() if value is not None}}
        words = " ".join(f"{name}={value}" for name, value in told.items())
        text = f"{datetime.fromtimestamp(seconds).astimezone():%H:%M:%S} {event} {words}"
        return ("".join(letter if letter.isprintable() else " " for letter in text) + "\n").encode("utf-8", "replace")
