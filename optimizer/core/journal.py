"""The journal of a run: events.jsonl, a line for each event, on disk before anybody acts on it. Knows no meaning.

Whatever a run knows is in it: killed at any moment, the run is begun again over the same journal, finds each paid reply
there, and so comes to where it was. One process at a time may write it. A last line that was cut off is dropped.
"""

import asyncio
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import orjson

from optimizer.core.errors import JournalError

Event = Mapping[str, Any]
EVENTS = "events.jsonl"


class Journal:
    """An open journal. `events`: what it held when it was opened, and what was added. Use as a context manager."""

    def __init__(self, directory: Path, watch: Callable[[Event], None] | None = None) -> None:
        """Make it or open it; `watch` is shown each event, those that it holds already first.

        Raises JournalError: in use, not writable, or a line in the middle is none of ours.
        """
        self._watch = watch or (lambda _: None)
        self._path = directory / EVENTS
        self._descriptor = _open_locked(self._path)
        try:
            self.events, self._size = _read(self._path, self._descriptor)
        except BaseException:
            os.close(self._descriptor)
            raise
        for event in self.events:
            self._watch(event)
        self._noted = {_fingerprint(event) for event in self.events if "note" in event}
        self._waiting: list[bytes] = []
        self._asked = 0
        self._written = 0
        self._turn = asyncio.Lock()
        # One thread: lines reach the disk in their order, and the event loop never waits for it.
        self._writer = ThreadPoolExecutor(1, "journal")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown(wait=True)
        os.close(self._descriptor)

    async def add(self, event: Event) -> None:
        """Write an event; returns when it is on disk. Those that wait at the same time are written together."""
        stamped = {"at": round(time.time(), 3), **event}
        self.events.append(stamped)
        self._waiting.append(orjson.dumps(stamped, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")
        self._asked += 1
        mine = self._asked
        async with self._turn:
            if self._written < mine:
                batch, self._waiting = b"".join(self._waiting), []
                upto = self._asked
                await asyncio.get_running_loop().run_in_executor(self._writer, self._write, batch, upto)
        self._watch(stamped)

    async def note(self, name: str, **values: Any) -> None:
        """Write an event that follows from those before it; once only, since a run that is resumed comes by again."""
        event = {"note": name, **values}
        fingerprint = _fingerprint(event)
        if fingerprint not in self._noted:
            self._noted.add(fingerprint)
            await self.add(event)

    def _write(self, batch: bytes, upto: int) -> None:
        try:
            rest = memoryview(batch)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            os.fsync(self._descriptor)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise JournalError(
                f"{self._path}: cannot be written: {error.strerror}: make room, and resume: nothing is lost"
            ) from None
        self._size += len(batch)
        self._written = upto


def read_journal(directory: Path) -> list[Event]:
    """The events of a run, for those who only look. Raises JournalError."""
    try:
        data = (directory / EVENTS).read_bytes()
    except OSError as error:
        raise JournalError(f"{directory}: holds no run: {EVENTS}: {error.strerror}") from None
    return [_parse(line, directory / EVENTS, number) for number, line in enumerate(_whole_lines(data), start=1)]


def _open_locked(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise JournalError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise JournalError(f"{path}: another drpo-optimizer is at work on this run: wait for it, or stop it") from None
    return descriptor


def _read(path: Path, descriptor: int) -> tuple[list[Event], int]:
    """The events, and how many bytes they take; what was cut off behind them is removed."""
    data = path.read_bytes()
    lines = _whole_lines(data)
    events = [_parse(line, path, number) for number, line in enumerate(lines, start=1)]
    size = data.rfind(b"\n") + 1
    os.ftruncate(descriptor, size)
    return events, size


def _whole_lines(data: bytes) -> list[bytes]:
    return data.split(b"\n")[:-1]


def _parse(line: bytes, path: Path, number: int) -> Event:
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        event = None
    if not isinstance(event, dict):
        raise JournalError(f"{path}, line {number}: is not an event: restore the file, or begin a new run")
    return event


def _fingerprint(event: Event) -> str:
    told = {key: value for key, value in event.items() if key != "at"}
    return hashlib.sha256(orjson.dumps(told, option=orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY)).hexdigest()
