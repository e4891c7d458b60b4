"""Tests whether feedback says that a recorded request has its id, without losing feedback that comes too early."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from proxy.core.metrics import create_metrics
from proxy.experiments import recorder as recorder_module
from proxy.experiments.recorder import Kept, Recorder
from proxy.experiments.records import Feedback
from proxy.experiments.store.dsn import StoreDsn, dsn_of
from proxy.experiments.store.store import Batch, Store
from proxy.experiments.store.stored_outcomes import StoredOutcomes
from tests.proxy.experiments.store.test_store import exposure
from tests.proxy.experiments.test_service import running_experiment, write
from tests.proxy.experiments.test_store_faults import rows, value
from tests.proxy.serving import until

LIKE = {"metric": "thumbs_up", "value": True}


async def test_reply_says_whether_a_recorded_request_has_the_id(tmp_path: Path) -> None:
    async with running_experiment(tmp_path, [write(tmp_path)]) as one:
        _, headers, reply = await one.proxy.chat()
        for named, matched in (
            ({"request_id": headers["x-request-id"]}, True),
            ({"completion_id": reply["id"]}, True),
            ({"request_id": "a wrong id"}, False),
            ({"completion_id": "a wrong id"}, False),
        ):
            status, _, told = await one.proxy.post("/v1/feedback", {**named, **LIKE})
            assert (status, told) == (200, {"object": "feedback", "kept": True, "matched": matched})
        metrics = one.proxy.gateway.metrics
        counts = [value(metrics, "drpo_feedback_total", result=result) for result in ("kept", "unmatched", "refused")]
        assert counts == [2, 2, 0]
    assert rows(tmp_path / "s.sqlite3", "feedback") == 3, "it is kept in any case: the request may be recorded later"


async def test_feedback_before_its_request_counts_as_soon_as_the_request_is_recorded(dsn: StoreDsn) -> None:
    async with Recorder(dsn, create_metrics(), None) as recorder:
        like = Feedback("r1", "thumbs_up", 1.0, None, 1.0)
        assert not await recorder.save_feedback(like)
        recorder.record([exposure(1)])
        assert await recorder.save_feedback(like)
    (unit,) = StoredOutcomes(dsn).units("e")
    assert unit.metrics["thumbs_up"] == (1.0, 1)


async def test_request_that_another_worker_is_just_writing_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "_LOOK_AGAIN_PAUSE", 3.0)
    path = tmp_path / "s.sqlite3"
    dsn = dsn_of(f"sqlite:{path}")
    async with Recorder(dsn, create_metrics(), Kept(1e10, None)) as recorder:
        matched = asyncio.create_task(recorder.save_feedback(Feedback("c1", "thumbs_up", 1.0, None, 1.0)))
        await until(lambda: path.exists() and _has_feedback(path))
        with Store(dsn) as other_worker:
            other_worker.write(Batch([exposure(1)]))
        assert await matched


def _has_feedback(path: Path) -> bool:
    try:
        return rows(path, "feedback") == 1
    except sqlite3.OperationalError:  # the tables are not there yet
        return False


@pytest.mark.parametrize("count", [1, 399, 400, 401, 1000])
def test_store_tells_which_of_any_number_of_ids_it_has(count: int, dsn: StoreDsn) -> None:
    with Store(dsn) as store:
        store.write(Batch([exposure(number) for number in range(0, count, 2)]))
        asked = [f"{'rc'[number % 3 % 2]}{number}" for number in range(count)]
        assert store.recorded(asked) == {one for number, one in enumerate(asked) if number % 2 == 0}
        assert store.recorded([]) == frozenset()
