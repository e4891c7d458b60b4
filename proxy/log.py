"""One line per event on standard error: JSON for machines, short text for a terminal. Knows no request content.

A thread of its own writes them, those of a moment together: each wake-up would cost a request more than its line does.
Who reads the log too slowly loses lines, and costs no request time or memory.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from threading import Thread
from time import sleep
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
    sink = _Sink(stream.fileno())
    sink.setFormatter(_TextLines(worker) if as_text else _JsonLines(worker))
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

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.lost = 0
        self._descriptor = os.dup(descriptor)  # its number is nobody else's, even when the thread outlives the stream
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._closing = False
        self._thread = Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        if self._lines.qsize() < LINES_HELD:
            self._lines.put(self.format(record))
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
            self._write("".join(f"{line}\n" for line in lines if line is not None))
            if self.lost > told:
                told = self.lost
                self._write(self.format(_record("log lines lost", lines=told)) + "\n")
        os.close(self._descriptor)

    def _at_hand(self) -> list[str | None]:
        """What waits now, up to the end if that is there."""
        lines: list[str | None] = []
        while len(lines) < _WRITTEN_TOGETHER and (not lines or lines[-1] is not None):
            try:
                lines.append(self._lines.get_nowait())
            except Empty:
                break
        return lines

    def _write(self, text: str) -> None:
        rest = text.encode("utf-8", "replace")
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            self.lost += 1  # the reader is gone, or the disk is full: the next line is tried all the same


def _record(event: str, level: int = logging.WARNING, **values: object) -> logging.LogRecord:
    return LOGGER.makeRecord(LOGGER.name, level, "", 0, event, (), None, extra={"values": values})


def log_event(event: str, **values: object) -> None:
    """Write one line: what happened, and plain values that describe it. Never keys, prompts or user text."""
    if LOGGER.isEnabledFor(logging.INFO):
        LOGGER.handle(_record(event, logging.INFO, **values))  # not `info`: that walks the stack for the caller's name


def log_failure(event: str, error: BaseException, **values: object) -> None:
    """Write one line for a defect of ours: the error's type and where it was raised, never its text."""
    LOGGER.error(event, extra={"values": {**values, "error": type(error).__name__, "at": _place(error)}})


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}"


class _Lines(logging.Formatter):
    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._worker = {} if worker is None else {"worker": worker}

    def values(self, record: logging.LogRecord) -> dict[str, object]:
        told = {key: value for key, value in getattr(record, "values", {}).items() if value is not None}
        return {**self._worker, **told}


class _JsonLines(_Lines):
    def __init__(self, worker: int | None) -> None:
        super().__init__(worker)
        self._second, self._until_second = 0, ""

    def _time(self, seconds: float) -> str:
        """In ISO 8601, to the millisecond; what is the same for a second is written once."""
        second = int(seconds)
        if second != self._second:
            self._until_second = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            self._second = second
        return f"{self._until_second}.{int(1000 * (seconds - second)):03d}+00:00"

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self._time(record.created),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **self.values(record),
        }
        return orjson.dumps(line, default=str).decode()


class _TextLines(_Lines):
    def format(self, record: logging.LogRecord) -> str:
        values = " ".join(f"{key}={value}" for key, value in self.values(record).items())
        line = f"{datetime.fromtimestamp(record.created).astimezone():%H:%M:%S} {record.getMessage()} {values}"
        return "".join(letter if letter.isprintable() else " " for letter in line)
