"""The journal of a run: events.jsonl, with one line per event. This module does not depend on the meaning of events.

A caller that adds an event continues only when the event is on disk. All results of a run are in its journal. If the
process of a run was killed, the user resumes the run in a new process. This process opens the same journal, takes the
paid replies from the journal, and so reaches the same state again. Only one process at a time can open a journal for
writing. The last line is incomplete if a process was killed while it wrote the line. Opening the journal for writing
removes an incomplete last line.
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
STOPPED = "stopped"
"""The name of the note that a process writes last if it stops because too many rows were left out."""
UNUSABLE = "unusable"
"""The name of the note about a row that was left out."""
DROPPED = "dropped"
"""The name of the note about candidates that were dropped."""
NO_CHANGE = "changes no"
"""The words that the reason in a note DROPPED contains if a candidate would have changed nothing that matters."""
SET_PROMPTS = "set_prompts"
"""The name of the note about example sets that lose their own prompts, because a new prompt replaces them."""
SPECIFICATION = "specification"
"""The name of the note with what people prefer, as the writer model states it."""
RACE_LENGTH = "race_length"
"""The name of the note that says how many queries a race may use, because the budget is limited."""
JUDGE_TRUST = "judge_trust"
"""The name of the note that says how often the judge preferred the right answer to an answer to another question."""
START = "start"
"""The name of the note about the bundle at which the search starts."""
ESTIMATED = "estimated"
"""The name of the note about a model whose server reports no token counts, so that they are estimated."""


class Journal:
    """A journal that is open for writing. Use it as a context manager, which closes the file.

    Attributes:
        events: The events from the file, followed by the events that this process has added.
    """

    def __init__(self, directory: Path, on_event: Callable[[Event], None] | None = None) -> None:
        """Open the journal of a directory, or create it.

        Args:
            directory: The directory of the run.
            on_event: A function that is called for each event of the file when the journal is opened, and later for
                each added event when it is on disk.

        Raises:
            JournalError: Another process uses the journal, the file is not writable, or a line is not an event.
        """
        self._on_event = on_event or (lambda _: None)
        self._path = directory / EVENTS
        self._descriptor = _open_locked(self._path)
        try:
            self.events, self._size = _read(self._path, self._descriptor)
        except BaseException:
            os.close(self._descriptor)
            raise
        for event in self.events:
            self._on_event(event)
        self._note_hashes = {_event_hash(event) for event in self.events if "note" in event}
        self._pending: list[bytes] = []
        self._added_count = 0
        self._written_count = 0
        self._write_lock = asyncio.Lock()
        # A single writer thread keeps the lines in order, and the event loop is not blocked while the disk writes.
        self._writer = ThreadPoolExecutor(1, "journal")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown(wait=True)
        os.close(self._descriptor)

    async def add(self, event: Event) -> None:
        """Write an event, and return when it is on disk.

        Events that are added while a write is in progress are written together, in the next write.

        Raises:
            JournalError: The file cannot be written.
        """
        stamped = {"at": round(time.time(), 3), **event}
        self.events.append(stamped)
        self._pending.append(orjson.dumps(stamped, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")
        self._added_count += 1
        number = self._added_count
        async with self._write_lock:
            if self._written_count < number:
                batch, self._pending = b"".join(self._pending), []
                last = self._added_count
                await asyncio.get_running_loop().run_in_executor(self._writer, self._write, batch, last)
        self._on_event(stamped)

    async def note(self, name: str, **values: Any) -> None:
        """Write an event with the key `note`, unless the journal already holds an equal event.

        A resumed run works through all its stages again, and therefore calls `note` again with the same values.

        Raises:
            JournalError: The file cannot be written.
        """
        event = {"note": name, **values}
        digest = _event_hash(event)
        if digest not in self._note_hashes:
            self._note_hashes.add(digest)
            await self.add(event)

    def _write(self, batch: bytes, last: int) -> None:
        try:
            rest = memoryview(batch)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            os.fsync(self._descriptor)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            problem = f"{self._path} cannot be written ({error.strerror}). Make sure that the disk has free space"
            kept = f"{problem}. Then resume the run. All earlier events are kept."
            raise JournalError(kept, without_run=f"{problem}.") from None
        self._size += len(batch)
        self._written_count = last


def read_journal(directory: Path) -> list[Event]:
    """Read the events of a run without locking the journal. An incomplete last line is ignored.

    Raises:
        JournalError: The directory holds no readable journal, or a line is not an event.
    """
    try:
        data = (directory / EVENTS).read_bytes()
    except OSError as error:
        raise JournalError(
            f"{directory} contains no run ({EVENTS}: {error.strerror}). Name the directory of a run."
        ) from None
    return [_parse(line, directory / EVENTS, number) for number, line in enumerate(_complete_lines(data), start=1)]


def discard_without_reply(directory: Path) -> bool:
    """Delete the events of a run to which no model has replied, so that it can begin again with other settings.

    Returns:
        Whether the directory holds no events now.

    Raises:
        JournalError: Another process uses the journal, the file is not writable, or a line is not an event.
    """
    path = directory / EVENTS
    if not path.exists():
        return True
    descriptor = _open_locked(path)
    try:
        events, _ = _read(path, descriptor)
        has_reply = any(event.get("call") == "reply" for event in events)
        if not has_reply:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
    return not has_reply


def _open_locked(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise JournalError(f"{path} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise JournalError(f"{path}: another drpo-optimizer works on this run. Wait for it, or stop it.") from None
    return descriptor


def _read(path: Path, descriptor: int) -> tuple[list[Event], int]:
    """Remove an incomplete last line from the file. Return the events and the new size of the file in bytes."""
    data = path.read_bytes()
    lines = _complete_lines(data)
    events = [_parse(line, path, number) for number, line in enumerate(lines, start=1)]
    size = data.rfind(b"\n") + 1
    os.ftruncate(descriptor, size)
    return events, size


def _complete_lines(data: bytes) -> list[bytes]:
    return data.split(b"\n")[:-1]


def _parse(line: bytes, path: Path, number: int) -> Event:
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        event = None
    if not isinstance(event, dict):
        raise JournalError(f"{path}, line {number}: this is not an event. Restore the file, or begin a new run.")
    return event


def _event_hash(event: Event) -> str:
    content = {key: value for key, value in event.items() if key != "at"}
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY)).hexdigest()
