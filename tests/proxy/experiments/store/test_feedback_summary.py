"""Tests what is read of the feedback on an experiment: by example set, and the questions with the worst feedback."""

import json
import sqlite3
from pathlib import Path

import pytest

from proxy.experiments.definition import Metric
from proxy.experiments.records import NO_EXPERIMENT, Content, Feedback
from proxy.experiments.store import feedback_summary
from proxy.experiments.store.dsn import StoreDsn, dsn_of
from proxy.experiments.store.feedback_summary import FeedbackSummary
from proxy.experiments.store.store import Batch, Store
from proxy.experiments.store.stored_outcomes import StoredOutcomes
from tests.proxy.experiments.store.test_store import exposure

LIKES = Metric("thumbs_up")


def content(number: int, question: str, answer: str = "An answer.") -> Content:
    asked = json.dumps({"messages": [{"role": "user", "content": "Hello"}, {"role": "user", "content": question}]})
    answered = json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": answer}}]})
    return Content(exposure(number).id, asked, answered)


def liked(number: int, value: float, subject: str = "r", time: float = 500.0) -> Feedback:
    return Feedback(f"{subject}{number}", "thumbs_up", value, None, time)


def summary_of(dsn: StoreDsn, batch: Batch, metric: Metric = LIKES) -> FeedbackSummary:
    with Store(dsn) as store:
        store.write(batch)
    return StoredOutcomes(dsn).feedback("e", metric)


def test_feedback_is_counted_by_arm_and_example_set(dsn: StoreDsn) -> None:
    sets = ["food", "food", "air", None, "food"]
    exposures = [exposure(n, arm="new", example_set=name) for n, name in enumerate(sets)]
    exposures += [
        exposure(8, arm="raw"),
        exposure(9, experiment="another"),
        exposure(10, arm=""),
        exposure(11, override=True),
    ]
    found = summary_of(
        dsn, Batch(exposures, feedback=[liked(0, 1), liked(1, 0), liked(3, 1), liked(9, 1), liked(11, 1)])
    )
    groups = {(one.arm, one.example_set): (one.requests, one.rated, one.mean) for one in found.groups}
    assert groups == {
        ("new", "food"): (3, 2, 0.5),
        ("new", "air"): (1, 0, None),
        ("new", None): (1, 1, 1.0),
        ("raw", None): (1, 0, None),
    }
    assert (found.requests, found.rated, found.logged, found.worst, found.is_cut) == (6, 3, 0, (), False)


def test_later_of_two_values_for_one_request_counts_once(dsn: StoreDsn) -> None:
    both = [liked(1, 1, "r", 500.0), liked(1, 0, "c", 600.0), liked(2, 1, "c", 500.0), liked(2, 0, "r", 400.0)]
    found = summary_of(dsn, Batch([exposure(1), exposure(2)], feedback=both))
    assert [(one.requests, one.rated, one.mean) for one in found.groups] == [(2, 2, 0.5)]


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_worst_questions_come_first_with_answers_and_comments(dsn: StoreDsn, better: str) -> None:
    sign = 1 if better == "higher" else -1
    values = {1: 0.9, 2: 0.1, 3: 0.2, 4: 0.1}
    feedback = [liked(number, sign * value) for number, value in values.items()]
    feedback.append(Feedback("c2", "why", None, "Too long.", 1.0))
    texts = [content(1, "Good?"), content(2, "Bad?", "Blah."), content(3, "Poor?"), content(4, "Bad?")]
    found = summary_of(dsn, Batch([exposure(n) for n in values], texts, feedback=feedback), Metric("thumbs_up", better))  # type: ignore[arg-type]
    assert [(one.question, one.count) for one in found.worst] == [("Bad?", 2), ("Poor?", 1)]
    assert (found.worst[0].comments, found.worst[1].comments) == (("Too long.",), ())
    assert found.worst[0].answer in ("Blah.", "An answer.")


def test_requests_in_no_experiment_have_a_summary_of_their_own(dsn: StoreDsn) -> None:
    outside = [exposure(n, experiment=NO_EXPERIMENT, arm="") for n in (1, 2)]
    batch = Batch(
        [*outside, exposure(3, arm="")], [content(1, "Bad?")], feedback=[liked(1, 0), liked(2, 1), liked(3, 1)]
    )
    assert summary_of(dsn, batch).requests == 0, "an experiment that has not begun has no requests"
    found = StoredOutcomes(dsn).feedback(NO_EXPERIMENT, LIKES)
    assert [(one.arm, one.requests, one.rated, one.mean) for one in found.groups] == [("", 2, 2, 0.5)]
    assert [one.question for one in found.worst] == ["Bad?"]


def test_texts_that_were_not_logged_or_are_cut_are_left_out(dsn: StoreDsn) -> None:
    cut = Content(exposure(2).id, '{"messages": [{"role": "user", "cont', "data: {")
    feedback = [liked(1, 0), liked(2, 0), liked(3, 1)]
    found = summary_of(dsn, Batch([exposure(n) for n in (1, 2, 3)], [cut], feedback=feedback))
    assert (found.logged, found.worst) == (1, ())


def test_long_texts_are_shortened_and_hidden_from_representations(dsn: StoreDsn) -> None:
    batch = Batch([exposure(1), exposure(2)], [content(1, "secret " * 500)], feedback=[liked(1, 0), liked(2, 1)])
    (one,) = summary_of(dsn, batch).worst
    assert len(one.question) < 700
    assert "secret" not in repr(one)


def test_only_the_latest_requests_are_read_through_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dsn = dsn_of(f"sqlite:{tmp_path / 'store.sqlite3'}")
    monkeypatch.setattr(feedback_summary, "MAX_REQUESTS", 20_000)
    summary_of(dsn, Batch([exposure(n) for n in range(5)]))
    connection = sqlite3.connect(tmp_path / "store.sqlite3")
    for statement in (feedback_summary._GROUPS, feedback_summary._WORST):
        query = f"EXPLAIN QUERY PLAN {statement.format(example_set='example_set', sign=1)}"
        plan = " ".join(row[3] for row in connection.execute(query, ("e", "m", "m", 1.0)[: query.count("?")]))
        assert "exposures_by_experiment" in plan
        assert "SCAN exposures" not in plan
        assert "SCAN f" not in plan
        assert "SCAN contents" not in plan
    connection.close()


def test_store_of_an_earlier_version_has_no_sets(tmp_path: Path) -> None:
    dsn = dsn_of(f"sqlite:{tmp_path / 'store.sqlite3'}")
    with Store(dsn) as store:
        store.write(Batch([exposure(1)]))
    connection = sqlite3.connect(tmp_path / "store.sqlite3")
    connection.execute("ALTER TABLE exposures DROP COLUMN example_set")
    connection.close()
    with Store(dsn) as store:
        store.write(Batch([exposure(2, example_set="food")]))
    groups = StoredOutcomes(dsn).feedback("e", LIKES).groups
    assert {one.example_set for one in groups} == {None, "food"}
