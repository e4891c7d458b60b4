"""One line per event on standard error: JSON for machines, short text for a terminal. Knows no request content."""

import logging
import sys
from datetime import UTC, datetime
from typing import Final, TextIO

import orjson

LOGGER: Final = logging.getLogger("drpo")


def configure_logging(log_format: str, stream: TextIO = sys.stderr) -> None:
    """Send drpo's lines to `stream` as `json`, `text`, or (`auto`) whichever suits it."""
    as_text = log_format == "text" or (log_format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_TextLines() if as_text else _JsonLines())
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False


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


def _values(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in getattr(record, "values", {}).items() if value is not None}


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "event": record.getMessage(), **_values(record)}
        return orjson.dumps(line, default=str).decode()


class _TextLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        values = " ".join(f"{key}={value}" for key, value in _values(record).items())
        return f"{datetime.fromtimestamp(record.created).astimezone():%H:%M:%S} {record.getMessage()} {values}"
