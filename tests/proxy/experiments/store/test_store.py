"""Tests of what a store saves and what statistics read from it, on SQLite and (slow) on PostgreSQL."""

import random
import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from proxy.core.errors import StartupError, StoreError, StoreRefusedError
from proxy.experiments.records import NO_EXPERIMENT, Allocation, Content, Exposure, Feedback, Judgement, UnitOutcomes
from proxy.experiments.store.dsn import StoreDsn, dsn_of
from proxy.experiments.store.export import export
from proxy.experiments.store.store import Batch, Store
from proxy.experiments.store.stored_outcomes import StoredOutcomes

BASE = Exposure(
    id=b"",
    experiment="e",
    arm="a",
    propensity=0.5,
    override=False,
    unit=b"u1",
    request_id="r1",
    completion_id="c1",
    time=100.0,
    model="m",
    variant="raw",
    bundle=None,
    asked=b"hello",
    latency=1.0,
    time_to_first_token=None,
    prompt_tokens=3,
    completion_tokens=5,
    ended_by_itself=True,
    truncated=False,
    error=False,
    client_gone=False,
)


def exposure(number: int, **fields: object) -> Exposure:
    defaults = {
        "id": b"%016d" % number,
        "request_id": f"r{number}",
        "completion_id": f"c{number}",
        "time": 100.0 + number,
    }
    return BASE._replace(**{**defaults, "asked": b"%d" % number, **fields})  # type: ignore[arg-type]


def feedback_on(subject: str, value: float | None, time: float = 500.0, metric: str = "thumbs_up") -> Feedback:
    return Feedback(subject, metric, value, None if value is not None else "fine", time)


def units_after(dsn: StoreDsn, *batches: Batch) -> list[UnitOutcomes]:
    with Store(dsn) as store:
        for batch in batches:
            store.write(batch)
    return list(StoredOutcomes(dsn).units("e"))


def test_repr_of_an_exposure_contains_no_unit_and_no_conversation() -> None:
    shown = repr(exposure(1, unit=b"a-unit", asked=b"a-question"))
    assert "r1" in shown
    assert "a-unit" not in shown
    assert "a-question" not in shown


def test_batch_that_is_written_twice_is_stored_once(dsn: StoreDsn) -> None:
    batch = Batch([exposure(1)], [], [Judgement(exposure(1).id, "b", 1.0, "j", 1.0)], [feedback_on("r1", 1.0)])
    (unit,) = units_after(dsn, batch, batch)
    assert unit.metrics["latency"] == (1.0, 1)
    assert unit.metrics["thumbs_up"] == (1.0, 1)
    assert unit.metrics["judged_better"] == (1.0, 1)


@pytest.mark.parametrize("number", [46, 47, 48, 95])
def test_batch_that_needs_several_statements_is_stored_whole(dsn: StoreDsn, number: int) -> None:
    rows = [exposure(n, unit=b"%016d" % n, latency=float(n)) for n in range(1, number + 1)]
    units = units_after(dsn, Batch(rows, [], [], [feedback_on(f"r{n}", float(n % 2)) for n in range(1, number + 1)]))
    assert sorted(unit.metrics["latency"][0] for unit in units) == [float(n) for n in range(1, number + 1)]
    assert sum(unit.metrics["thumbs_up"][0] for unit in units) == (number + 1) // 2


def test_feedback_may_precede_its_exposure_and_the_latest_for_either_id_counts(dsn: StoreDsn) -> None:
    (unit,) = units_after(
        dsn,
        Batch(feedback=[feedback_on("c1", 0.0, 10.0)]),
        Batch([exposure(1), exposure(2)]),
        Batch(feedback=[feedback_on("r1", 1.0, 20.0), feedback_on("r2", 1.0, 20.0)]),
        Batch(feedback=[feedback_on("r2", 0.0, 5.0)]),
        Batch(feedback=[feedback_on("r1", None, 30.0, "why")]),
    )
    assert unit.metrics["thumbs_up"] == (2.0, 2)
    assert "why" not in unit.metrics


def test_unit_counts_for_its_first_arm_and_overrides_for_no_arm(dsn: StoreDsn) -> None:
    exposures = [exposure(1, override=True), exposure(2, arm="b"), exposure(3, arm="a"), exposure(4, arm="b")]
    (unit,) = units_after(dsn, Batch(exposures, feedback=[feedback_on("r1", 1.0), feedback_on("r3", 1.0)]))
    assert (unit.arm, unit.first_seen) == ("b", 102.0)
    assert unit.metrics["latency"] == (2.0, 2)
    assert "thumbs_up" not in unit.metrics
    assert unit.history["thumbs_up"] == (1.0, 1)
    assert StoredOutcomes(dsn).units_by_arm("e") == {"b": 1}


def test_history_contains_the_requests_before_the_first_exposure(dsn: StoreDsn) -> None:
    exposures = [exposure(1, arm=""), exposure(2, experiment="other", latency=3.0), exposure(3), exposure(4)]
    exposures += [exposure(5, experiment="other", latency=9.0), exposure(6, unit=b"u2", experiment="other")]
    (unit,) = units_after(dsn, Batch(exposures))
    assert unit.metrics["latency"] == (2.0, 2)
    assert unit.history["latency"] == (4.0, 2)


def test_request_whose_conversation_is_sent_again_is_regenerated(dsn: StoreDsn) -> None:
    exposures = [exposure(1, asked=b"x"), exposure(2, asked=b"x"), exposure(3, asked=b"y")]
    exposures += [exposure(4, asked=b"y", unit=b"u2"), exposure(5, asked=b"y", error=True, latency=None)]
    units = {unit.arm + str(unit.first_seen): unit for unit in units_after(dsn, Batch(exposures))}
    assert units["a101.0"].metrics["regenerated"] == (2.0, 3)
    assert units["a104.0"].metrics["regenerated"] == (0.0, 1)


def test_of_the_requests_in_no_experiment_only_the_latest_are_kept(dsn: StoreDsn) -> None:
    outside = [exposure(n, experiment=NO_EXPERIMENT, arm="") for n in (2, 1, 4, 3)]
    contents = [Content(one.id, "asked", "answered") for one in outside]
    rated = [feedback_on(one, 1.0) for one in ("r1", "c2", "r3", "c4", "r5")]
    with Store(dsn) as store:
        store.write(Batch([*outside, exposure(5)], contents, [], rated))
        assert [store.delete_surplus(kept) for kept in (4, 2, 2)] == [0, 2, 0]
        rows = list(export(dsn, NO_EXPERIMENT))
        assert [row["request_id"] for row in rows if row["type"] == "exposure"] == ["r3", "r4"]
        assert all("asked_text" in row for row in rows if row["type"] == "exposure")
        assert {row["subject"] for row in rows if row["type"] == "feedback"} == {"r3", "c4"}
        assert store.delete_surplus(0) == 2
    assert [row["type"] for row in export(dsn, "e")] == ["exposure", "feedback"], "requests in experiments stay"


def test_units_and_conversations_are_stored_as_keyed_digests(dsn: StoreDsn) -> None:
    (unit,) = units_after(dsn, Batch([exposure(1, unit=b"secret-unit", asked=b"secret-asked")]))
    rows = str(list(export(dsn, "e")))
    assert "secret" not in rows
    assert b"secret-unit".hex() not in rows + unit.unit
    assert unit.unit == next(StoredOutcomes(dsn).units("e")).unit, "the key stays with the store"


def test_unit_is_deleted_with_all_rows_that_refer_to_it(dsn: StoreDsn) -> None:
    mine, other = exposure(1), exposure(2, unit=b"u2")
    contents = [Content(mine.id, "asked", "answered"), Content(other.id, "asked", "answered")]
    judged = [Judgement(mine.id, "b", 1.0, "j", 1.0)]
    feedback = [feedback_on("r1", 1.0), feedback_on("c1", 1.0, metric="m2"), feedback_on("r2", 1.0)]
    with Store(dsn) as store:
        store.write(Batch([mine, other], contents, judged, feedback))
        assert store.delete_unit(b"u1") == 1
        assert store.delete_unit(b"u1") == 0
    rows = list(export(dsn, "e"))
    assert [(row["type"], row.get("request_id") or row.get("subject")) for row in rows] == [
        ("exposure", "r2"),
        ("feedback", "r2"),
    ]


def test_rows_older_than_the_retention_are_deleted(dsn: StoreDsn) -> None:
    batch = Batch(
        [exposure(1), exposure(900)], feedback=[feedback_on("r1", 1.0, 120.0), feedback_on("r900", 1.0, 1200.0)]
    )
    with Store(dsn) as store:
        store.write(batch)
        assert store.delete_before(500.0) == 2
        assert store.delete_before(500.0) == 0
    assert [row["time"] for row in export(dsn, "e")] == [1000.0, 1200.0]


def test_decisions_about_experiments_reach_every_replica(dsn: StoreDsn) -> None:
    with Store(dsn) as store, Store(dsn) as replica:
        store.set_allocation(Allocation("e", "guardrail", {"a": 0.3, "b": 0.7}, 5.0))
        assert replica.allocations() == {"e": Allocation("e", "guardrail", {"a": 0.3, "b": 0.7}, 5.0)}
        assert replica.release("e")
        assert store.allocations() == {}


def test_rejected_batch_leaves_no_rows(dsn: StoreDsn) -> None:
    bad = exposure(2, arm=None)
    with Store(dsn) as store:
        with pytest.raises(StoreRefusedError) as raised:
            store.write(Batch([exposure(1), bad]))
        assert "r2" not in str(raised.value)
        assert list(StoredOutcomes(dsn).units("e")) == []
        store.write(Batch([exposure(1)]))
    assert len(list(StoredOutcomes(dsn).units("e"))) == 1


def test_outcomes_of_an_empty_store_are_empty(dsn: StoreDsn) -> None:
    outcomes = StoredOutcomes(dsn)
    assert (list(outcomes.units("e")), dict(outcomes.units_by_arm("e"))) == ([], {})
    assert outcomes.left_out("e") == {}


@pytest.mark.parametrize("value", [1e100, -1e308, float("inf"), float("-inf"), float("nan")])
def test_absurd_values_are_left_out_of_the_outcomes_and_counted(dsn: StoreDsn, value: float) -> None:
    """SQLite keeps NaN as NULL. A rating without a value is a comment, so it is not counted."""
    rows = [exposure(1, latency=value), exposure(2, propensity=value, unit=b"u2"), exposure(3)]
    with Store(dsn) as store:
        if value != value and "sqlite" in dsn.name:
            rows.pop(1)
        store.write(Batch(rows, [], [], [feedback_on("r1", value), feedback_on("r3", 1.0)]))
        outcomes = StoredOutcomes(dsn)
        (unit,) = outcomes.units("e")
        assert (unit.metrics["latency"], unit.metrics["thumbs_up"]) == ((1.0, 1), (1.0, 1))
        assert outcomes.units_by_arm("e") == {"a": 1}
        if value == value or "sqlite" not in dsn.name:
            assert outcomes.left_out("e") == {"time or propensity": 1, "latency": 1, "thumbs_up": 1}


@pytest.mark.parametrize("seed", range(5))
def test_units_equal_a_recomputation_from_the_exported_rows(dsn: StoreDsn, seed: int) -> None:
    rnd = random.Random(seed)
    exposures = [
        exposure(
            number,
            unit=b"u%d" % rnd.randrange(12),
            arm=rnd.choice(["a", "a", "b", ""]),
            experiment=rnd.choice(["e", "e", "other"]),
            override=rnd.random() < 0.1,
            asked=rnd.choice([b"x", b"y", None]),
            latency=rnd.choice([None, 1.0, 2.5]),
            error=rnd.random() < 0.1,
            ended_by_itself=rnd.choice([None, True, False]),
        )
        for number in range(150)
    ]
    feedback = [
        feedback_on(rnd.choice("rc") + str(rnd.randrange(160)), float(rnd.random() < 0.5), 500.0 + number)
        for number in range(120)
    ]
    rnd.shuffle(feedback)
    found = units_after(dsn, Batch(exposures[:70]), Batch(feedback=feedback), Batch(exposures[70:]))
    expected = recomputed(list(export(dsn, "e")), list(export(dsn, "other")))
    assert {
        unit.unit: (unit.arm, unit.first_seen, dict(unit.metrics), dict(unit.history)) for unit in found
    } == expected
    assert [unit.first_seen for unit in found] == sorted(unit.first_seen for unit in found)


def recomputed(rows: Sequence[Mapping], others: Sequence[Mapping]) -> dict[str, tuple]:
    """Compute the outcomes of units from the exported rows, in Python instead of SQL."""
    exposures = sorted((row for row in [*rows, *others] if row["type"] == "exposure"), key=lambda row: row["time"])
    ratings = sorted((row for row in [*rows, *others] if row["type"] == "feedback"), key=lambda row: row["time"])
    units: dict[str, tuple] = {}
    for first in exposures:
        if first["experiment"] != "e" or not first["arm"] or first["override"] or first["unit"] in units:
            continue
        own = [row for row in exposures if row["unit"] == first["unit"]]
        history = [row for row in own if row["time"] < first["time"]]
        mine = [
            row for row in own
            if row["time"] >= first["time"] and row["experiment"] == "e" and not row["override"]
            and row["arm"] == first["arm"]
        ]  # fmt: skip
        counted = history + mine
        units[first["unit"]] = (
            first["arm"],
            first["time"],
            sums_by_metric(mine, counted, ratings),
            sums_by_metric(history, counted, ratings),
        )
    return units


def sums_by_metric(mine: Sequence[Mapping], counted: Sequence[Mapping], ratings: Sequence[Mapping]) -> dict[str, tuple]:
    found: dict[str, list[float]] = defaultdict(list)
    for row in mine:
        for name in ("latency", "prompt_tokens", "completion_tokens", "ended_by_itself", "truncated", "error"):
            if row[name] is not None:
                found[name].append(row[name])
        found["client_gone"].append(row["client_gone"])
        if row["asked"] is not None and not row["error"]:
            same = [one for one in counted if (one["asked"], one["experiment"]) == (row["asked"], row["experiment"])]
            found["regenerated"].append(any(one["time"] > row["time"] for one in same))
        values_of_request = [
            one["value"] for one in ratings if one["subject"] in (row["request_id"], row["completion_id"])
        ]
        found["thumbs_up"] += values_of_request[-1:]
    return {name: (float(sum(values)), len(values)) for name, values in found.items() if values}


def test_store_of_another_format_is_refused(dsn: StoreDsn) -> None:
    if not dsn.name.startswith("sqlite:"):
        pytest.skip("the same statement")
    Store(dsn).close()
    with sqlite3.connect(dsn.name.removeprefix("sqlite:")) as connection:
        connection.execute("UPDATE about SET value = ? WHERE name = 'format'", (b"99",))
    connection.close()
    with pytest.raises(StoreError, match="a format that this version does not read"):
        Store(dsn)


@pytest.mark.parametrize("store", ["sqlite:", "mysql://x", "postgresql:x", "/a/file"])
def test_invalid_dsn_is_refused(store: str) -> None:
    with pytest.raises(StartupError, match="expected sqlite:PATH or postgresql://"):
        dsn_of(store)


def test_name_of_a_dsn_has_no_password() -> None:
    assert dsn_of("postgresql://me:secret@host:1/db").name == "postgresql://host:1/db"


def test_store_of_an_earlier_version_gets_the_column_of_other_replies(tmp_path: Path) -> None:
    dsn = dsn_of(f"sqlite:{tmp_path}/store.sqlite3")
    judged = Judgement(exposure(1).id, "b", 1.0, "j", 1.0, "Another answer.")
    with Store(dsn) as store:
        store.write(Batch([exposure(1)]))
    connection = sqlite3.connect(tmp_path / "store.sqlite3")
    connection.execute("ALTER TABLE judgements DROP COLUMN other_reply")
    connection.close()
    assert [row["type"] for row in export(dsn, "e")] == ["exposure"], "the export reads it without the column"
    with Store(dsn) as store:
        store.write(Batch(judgements=[judged]))
    assert [row.get("other_text") for row in export(dsn, "e")] == [None, "Another answer."]


@pytest.mark.parametrize("rest", ["7secret/w@h/d", "7secret?w@h/d", "7secret#w@h/d", "x:secret@[::1/d"])
def test_password_with_a_character_of_urls_is_not_taken_for_the_host(rest: str) -> None:
    with pytest.raises(StartupError, match="%2F for /") as caught:
        dsn_of(f"postgresql://u:{rest}")
    assert "secret" not in str(caught.value)
