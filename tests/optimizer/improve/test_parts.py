"""Tests of the steps of the command improve: dividing rows, the planned size, the experiment file and TOML."""

import math
import statistics
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.bundle.bundle import default_bundle_directory, read_bundle
from index.types import Example
from optimizer.core.errors import DataError
from optimizer.data.dataset import Row
from optimizer.data.preferences import RATED, AnswerRatings, PreferencePair, Preferences
from optimizer.harvest.store.reader import StoreQuery
from optimizer.harvest.store.session import read_session, store_address
from optimizer.improve.experiment_file import ExperimentPlan, experiment_name, experiment_text
from optimizer.improve.inputs import Start, run_document
from optimizer.improve.planned_size import MetricFeedback, planned_units, planned_variance, read_metric
from optimizer.improve.rows import divide, part_of
from optimizer.improve.toml_text import toml_text
from proxy.experiments.analysis.estimators import estimate_difference, moments
from proxy.experiments.config import read_experiment
from proxy.experiments.store.dsn import StoreDsn
from tests.optimizer.harvest.recorded import Recording
from tests.optimizer.harvest.test_store import place_of

QUESTIONS = [f"Question {number}?" for number in range(200)]


def test_races_use_nearly_all_rows_unless_the_user_says_otherwise() -> None:
    directory = default_bundle_directory()
    documents: list[dict[str, Any]] = [{}, {"search": {"depth": 1}}, {"search": {"alpha": 0.3}}]
    starts = [Start(one, directory, str(directory), read_bundle(directory).manifest, "new") for one in documents]
    found = [run_document(one, has_validation=True, has_preferences=True)["search"] for one in starts]
    assert found == [{"alpha": 0.05}, {"alpha": 0.05, "depth": 1}, {"alpha": 0.3}]


def test_question_is_in_one_part_only() -> None:
    accepted = [Example("", query, "An answer.") for query in QUESTIONS[:100]]
    pairs = [PreferencePair(query, "good", "bad", RATED) for query in QUESTIONS]
    ratings = tuple(AnswerRatings(query, "good", 1, 0) for query in QUESTIONS)
    parts = divide(accepted, [Row(query) for query in QUESTIONS[50:]], Preferences(tuple(pairs), ratings=ratings), [])
    rows = {row.query: row for row in parts.rows}
    assert len(rows) == len(parts.rows)
    assert not {one.query for one in parts.examples} & set(rows)
    assert {row.split for row in parts.rows} == {"train", "validation", "sealed"}
    assert all(row.split == (part_of(query) or "train") for query, row in rows.items())
    assert all(part_of(f"  {query.upper()} !") == part_of(query) for query in QUESTIONS)
    assert {pair.query for pair in parts.preferences.pairs} == {q for q in QUESTIONS if part_of(q) != "sealed"}
    assert {one.query for one in parts.preferences.ratings} == {q for q in QUESTIONS if part_of(q) != "sealed"}
    assert not any(row.reference for row in parts.rows), "a liked answer would favour the bundle that wrote it"


def test_too_few_validation_rows_are_training_rows() -> None:
    few = [query for query in QUESTIONS if part_of(query) != "validation"]
    one = next(query for query in QUESTIONS if part_of(query) == "validation")
    parts = divide([], [Row(query) for query in (*few, one)], Preferences(), [])
    assert "validation" not in parts.counts
    assert one in {row.query for row in parts.rows if row.split == "train"}


def test_file_says_that_the_variance_is_assumed_even_if_it_equals_the_measured_one() -> None:
    feedback = MetricFeedback(9, 0.5, 0.25)
    plan = ExperimentPlan("week", "default", "new", StoreQuery(), feedback, 0.05)
    assert "9 users rated by thumbs_up: fewer than 20" in experiment_text(plan)


def test_too_few_rows_are_an_error() -> None:
    with pytest.raises(DataError, match="too little feedback"):
        divide([], [Row(QUESTIONS[0])], Preferences(), [])


def test_planned_size_is_the_one_at_which_the_analysis_of_the_proxy_finds_the_difference() -> None:
    units = planned_units(0.2, 0.05)
    half = units // 2
    values = np.tile([0.5 - math.sqrt(0.2), 0.5 + math.sqrt(0.2)], half // 2 + 1)[:half]
    arm = moments(values, np.full(half, 2.0))
    estimate = estimate_difference(arm, arm, planned=units)
    assert estimate is not None
    assert estimate.growth_until(0.05, 0.05) == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize(("users", "variance", "planned"), [(20, 0.1, 0.1), (19, 0.1, 0.25), (20, 0.0, 0.25)])
def test_largest_variance_is_assumed_if_too_few_users_rated(users: int, variance: float, planned: float) -> None:
    assert planned_variance(MetricFeedback(users, 0.5, variance), StoreQuery()) == planned


def test_variance_is_that_between_the_means_of_users(dsn: StoreDsn) -> None:
    recording = Recording()
    ratings = {"ann": [1.0, 0.0, 1.0], "bob": [0.0], "cem": [1.0]}
    for user, values in ratings.items():
        for number, value in enumerate(values):
            recording.add(user, f"{user} {number}?", "Yes.", vote=value)
    recording.add("dan", "No rating?", "Yes.")
    recording.add("eve", "Elsewhere?", "Yes.", vote=0.0, experiment="other")
    again = recording.add("fay", "Rated by both ids?", "Yes.", vote=1.0)
    recording.rate(again.replace("r", "c"), 1.0)
    recording.write(dsn)
    with read_session(store_address(place_of(dsn))) as session:
        found = read_metric(session, StoreQuery(experiment="tone"))
        assert read_metric(session, StoreQuery(metric="stars")) == MetricFeedback(0, 0.0, 0.0)
    means = [2 / 3, 0.0, 1.0, 1.0]
    assert found.users == len(means)
    assert found.mean == pytest.approx(statistics.mean(means))
    assert found.variance == pytest.approx(statistics.variance(means))


@pytest.mark.parametrize("metric", ["thumbs_up", "stars", "regenerated"])
def test_proxy_reads_the_experiment_file(metric: str, tmp_path: Path) -> None:
    query = StoreQuery(metric=metric)
    for folder in ("new", 'a "bundle"'):
        (tmp_path / folder).mkdir()
    plan = ExperimentPlan("x", str(tmp_path / 'a "bundle"'), "new", query, MetricFeedback(50, 0.5, 0.2), 0.05)
    (tmp_path / "e.toml").write_text(experiment_text(plan))
    found = read_experiment(tmp_path / "e.toml").experiment
    assert found.planned_units == plan.units
    assert found.metrics[0].name == metric
    assert metric not in {guardrail.metric.name for guardrail in found.guardrails}


@pytest.mark.parametrize(("text", "name"), [("Übung 1", "bung-1"), ("..", "improvement"), ("a" * 70, "a" * 64)])
def test_name_is_valid_for_an_experiment(text: str, name: str) -> None:
    assert experiment_name(text) == name


def test_toml_is_read_as_it_was_written() -> None:
    document = {
        "models": {"task": {"base_url": "http://x/v1", "request": {"extra": {"a b": [1, 2.5, True]}, "omit": []}}},
        "reward": {"weights": {"my.module:f": 0.5}, "text": 'a "quoted"\n\ttext \x7f \x00 é'},
        "empty": {},
    }
    assert tomllib.loads(toml_text(document)) == document
