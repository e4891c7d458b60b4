"""Tests the journal: events survive a kill at any byte, one process writes at a time, a full disk loses nothing."""

import asyncio
import errno
import os
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.core.errors import JournalError
from optimizer.core.journal import EVENTS, Journal, read_journal


async def test_concurrent_events_are_written_in_order(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        await asyncio.gather(*(journal.add({"number": number}) for number in range(500)))
    assert [event["number"] for event in read_journal(tmp_path)] == list(range(500))


@given(cut=st.integers(0, 300))
def test_incomplete_last_line_is_dropped_and_writing_continues(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    whole = b"".join(orjson.dumps({"number": number, "text": "x" * 30}) + b"\n" for number in range(6))
    (folder / EVENTS).write_bytes(whole[:cut])
    kept = whole[:cut].count(b"\n")

    async def go_on() -> None:
        with Journal(folder) as journal:
            assert [event["number"] for event in journal.events] == list(range(kept))
            await journal.add({"number": "next"})

    asyncio.run(go_on())
    assert [event["number"] for event in read_journal(folder)] == [*range(kept), "next"]


async def test_note_is_written_once_over_all_resumes(tmp_path: Path) -> None:
    for _ in range(3):
        with Journal(tmp_path) as journal:
            await journal.note("stage", stage="prompt")
            await journal.note("stage", stage="tune")
            await journal.note("stage", stage="prompt")
    assert [event["stage"] for event in read_journal(tmp_path)] == ["prompt", "tune"]


def test_second_process_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path), pytest.raises(JournalError, match="another drpo-optimizer works on this run"):
        Journal(tmp_path)
    with Journal(tmp_path):
        pass


def test_line_that_is_not_an_event_is_refused_with_its_number(tmp_path: Path) -> None:
    (tmp_path / EVENTS).write_text('{"number": 1}\nnot json\n{"number": 2}\n')
    with pytest.raises(JournalError, match="line 2"):
        Journal(tmp_path)
    (tmp_path / EVENTS).unlink()
    with Journal(tmp_path):
        pass  # the refused journal holds no lock


async def test_full_disk_is_an_error_and_removes_the_incomplete_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def nearly_full(descriptor: int, data: bytes) -> int:
        if len(data) > 40:
            return write(descriptor, bytes(data[:40]))
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal(tmp_path) as journal:
        await journal.add({"number": 1})
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", nearly_full)
            with pytest.raises(JournalError, match=r"No space left on device.*resume"):
                await journal.add({"number": 2, "text": "x" * 60})
        await journal.add({"number": 3})
    assert [event["number"] for event in read_journal(tmp_path)] == [1, 3]
