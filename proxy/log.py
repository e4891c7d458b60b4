"""One line per event on standard error: JSON for machines, short text for a terminal. Knows no request content.

A thread of its own writes them: who reads the log too slowly loses lines, and costs no request time or memory.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from queue import Empty, Full, Queue
from threading import Thread
from typing import Final, TextIO

import orjson

LOGGER: Final = logging.getLogger("drpo")


LINES_HELD: Final = 10_000
_LAST_LINES_WITHIN: Final = 2.0  # seconds, at the end


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
        self._lines: Queue[str | None] = Queue(LINES_HELD)
        self._thread = Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.put_nowait(self.format(record))
        except Full:
            self.lost += 1

    def close(self) -> None:
        """Write what is held, as far as it is taken in two seconds."""
        while self._lines.full():
            try:
                self._lines.get_nowait()
            except Empty:
                break
        self._lines.put(None)
        self._thread.join(_LAST_LINES_WITHIN)
        super().close()

    def _write_all(self) -> None:
        told = 0
        while (line := self._lines.get()) is not None:
            self._write(line)
            if self.lost > told:
                told = self.lost
                self._write(self.format(_record("log lines lost", lines=told)))
        os.close(self._descriptor)

    def _write(self, line: str) -> None:
        rest = line.encode("utf-8", "replace") + b"\n"
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            self.lost += 1  # the reader is gone, or the disk is full: the next line is tried all the same


def _record(event: str, **values: object) -> logging.LogRecord:
    return LOGGER.makeRecord(LOGGER.name, logging.WARNING, "", 0, event, (), None, extra={"values": values})


def log_event(event: str, **values: object) -> None:
    """Write one line: what happened, and plain values that describe it. Never keys, prompts or user text."""
    LOGGER.info(event, extra={"values": values})


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
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "event": record.getMessage(), **self.values(record)}
        return orjson.dumps(line, default=str).decode()


class _TextLines(_Lines):
    def format(self, record: logging.LogRecord) -> str:
        values = " ".join(f"{key}={value}" for key, value in self.values(record).items())
        line = f"{datetime.fromtimestamp(record.created).astimezone():%H:%M:%S} {record.getMessage()} {values}"
        return "".join(letter if letter.isprintable() else " " for letter in line)
