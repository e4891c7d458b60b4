"""Tests of a store that fails: chat requests still work, and no acknowledged feedback is lost."""

import asyncio
import json
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.core.errors import StoreError
from proxy.core.log import log_lines
from proxy.core.metrics import create_metrics
from proxy.experiments.recorder import MAX_QUEUED_EXPOSURES, Kept, Recorder
from proxy.experiments.records import Feedback
from proxy.experiments.store.dsn import StoreDsn, dsn_of
from proxy.experiments.store.sqlite import SqliteSession
from proxy.experiments.store.stored_outcomes import StoredOutcomes
from tests.proxy.experiments.postgresql import PostgresqlServer
from tests.proxy.experiments.store.test_store import exposure
from tests.proxy.experiments.test_service import running_experiment, write
from tests.proxy.serving import until

VOTE = {"request_id": "r", "metric": "m", "value": 1}


def value(metrics: Any, name: str, **labels: str) -> float:
    return float(metrics.registry.get_sample_value(name, labels) or 0.0)


@asynccontextmanager
async def recording(dsn: StoreDsn) -> AsyncIterator[tuple[Recorder, Any]]:
    metrics = create_metrics()
    async with Recorder(dsn, metrics, Kept(1e10, None)) as recorder:
        yield recorder, metrics


def rows(path: Path, table: str = "exposures") -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])
    finally:
        connection.close()


async def test_locked_file_refuses_feedback_with_503_and_does_not_affect_chat(tmp_path: Path) -> None:
    async with running_experiment(tmp_path, [write(tmp_path)]) as one:
        assert (await one.proxy.post("/v1/feedback", VOTE))[0] == 200
        holder = sqlite3.connect(tmp_path / "s.sqlite3", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        status, headers, reply = await one.proxy.post("/v1/feedback", VOTE)
        assert (status, reply["error"]["code"], headers["Retry-After"]) == (503, "store_unavailable", "1")
        for _ in range(5):
            assert (await one.proxy.chat())[0] == 200
        holder.execute("ROLLBACK")
        holder.close()
        async with asyncio.timeout(60):
            while (await one.proxy.post("/v1/feedback", VOTE))[0] != 200:
                await asyncio.sleep(0.1)
    assert len(one.rows()) == 5, "what waited was written when the file came free"


async def test_store_that_cannot_be_opened_is_a_warning_in_the_log(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    with (tmp_path / "log").open("w") as file, log_lines("json", file):
        async with recording(dsn_of(f"sqlite:{tmp_path / 'file' / 'ab.db'}")) as (recorder, metrics):
            recorder.record([exposure(1)])
            await until(lambda: value(metrics, "drpo_store_up") == 0 and recorder._retry_pause > 0.3)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines()]
    assert {line["event"]: line["level"] for line in lines}["store unavailable"] == "warning"


async def test_full_disk_refuses_feedback_and_queued_exposures_are_written_later(tmp_path: Path) -> None:
    path, limit = tmp_path / "full.sqlite3", [30]

    def connect() -> SqliteSession:
        session = SqliteSession(path)
        session._connection.execute(f"PRAGMA max_page_count = {limit[0]}")
        return session

    async with recording(replace(dsn_of(f"sqlite:{path}"), connect=connect)) as (recorder, metrics):
        recorder.record([exposure(number) for number in range(900)])
        await until(lambda: value(metrics, "drpo_store_up") == 0 and recorder._retry_pause > 0.3)
        with pytest.raises(Exception, match="cannot be stored"):
            await recorder.save_feedback(Feedback("r", "m", 1.0, None, 1.0))
        limit[0] = 100_000
        await until(lambda: value(metrics, "drpo_exposures_total", result="kept") == 900)
    assert rows(path) == 900
    assert value(metrics, "drpo_exposures_total", result="dropped") == 0


async def test_replaced_file_loses_no_acknowledged_feedback(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    async with recording(dsn_of(f"sqlite:{path}")) as (recorder, _):
        await recorder.save_feedback(Feedback("before", "m", 1.0, None, 1.0))
        for file in tmp_path.iterdir():
            file.unlink()
        while True:
            try:
                await recorder.save_feedback(Feedback("after", "m", 1.0, None, 1.0))
                break
            except Exception:  # noqa: BLE001 - fails until a new file is created
                await asyncio.sleep(0.1)
    assert rows(path, "feedback") == 1


async def test_exposures_beyond_the_queue_are_dropped_and_counted() -> None:
    is_connecting, may_fail = threading.Event(), threading.Event()

    def connect() -> SqliteSession:
        """Wait, so that the recorder takes nothing out of its queue while the test fills it."""
        is_connecting.set()
        may_fail.wait()
        raise StoreError("down")

    dsn = replace(dsn_of("sqlite:/proc/nowhere/s.sqlite3"), connect=connect)
    async with recording(dsn) as (recorder, metrics):
        try:
            await until(is_connecting.is_set)
            for number in range(MAX_QUEUED_EXPOSURES + 50):
                recorder.record([exposure(number)])
            assert value(metrics, "drpo_exposures_total", result="dropped") == 50
        finally:
            may_fail.set()
    assert value(metrics, "drpo_exposures_total", result="dropped") == MAX_QUEUED_EXPOSURES + 50


async def test_rejected_row_does_not_stop_later_rows(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    async with recording(dsn_of(f"sqlite:{path}")) as (recorder, metrics):
        recorder.record([exposure(1, arm=None)])
        await until(lambda: value(metrics, "drpo_exposures_total", result="dropped") == 1)
        recorder.record([exposure(2)])
    assert rows(path) == 1


async def test_chat_is_served_without_a_usable_store(tmp_path: Path) -> None:
    async with running_experiment(tmp_path, [write(tmp_path)], store="sqlite:/proc/nowhere/s.sqlite3") as one:
        assert (await one.proxy.chat())[0] == 200
        assert (await one.proxy.post("/v1/feedback", VOTE))[0] == 503


@pytest.mark.slow
async def test_postgresql_that_dies_or_hangs_does_not_affect_chat(postgresql: PostgresqlServer, tmp_path: Path) -> None:
    dsn = dsn_of(postgresql.database("faults"))
    acknowledged = []
    async with recording(dsn) as (recorder, metrics):

        async def vote(subject: str) -> bool:
            try:
                await recorder.save_feedback(Feedback(subject, "m", 1.0, None, 1.0))
            except Exception:  # noqa: BLE001 - feedback with an error may or may not be stored
                return False
            acknowledged.append(subject)
            return True

        recorder.record([exposure(1)])
        assert await vote("first")
        postgresql.kill()
        recorder.record([exposure(2)])
        assert not await vote("dead")
        postgresql.start()
        await _until_kept(vote, "back")
        postgresql.hang()
        recorder.record([exposure(3)])
        assert not await vote("hung")
        postgresql.go_on()
        await _until_kept(vote, "again")
        await until(lambda: value(metrics, "drpo_exposures_total", result="kept") == 3)
    (unit,) = StoredOutcomes(dsn).units("e")
    assert unit.metrics["latency"] == (3.0, 3)
    assert {"first", "back", "again"} <= set(acknowledged)


async def _until_kept(vote: Any, subject: str) -> None:
    async with asyncio.timeout(60):
        while not await vote(subject):
            await asyncio.sleep(0.1)
