"""Tests of values that cannot be right: feedback is refused, and a stored row never stops a report."""

import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some

from proxy.__main__ import run
from proxy.core.errors import BadRequestError
from proxy.core.settings import ExperimentSettings
from proxy.experiments.analysis.analyze import analyse
from proxy.experiments.dashboard import Dashboard
from proxy.experiments.definition import Arm, Experiment, Guardrail, Metric
from proxy.experiments.feedback_request import parse_feedback
from proxy.experiments.records import Feedback, UnitOutcomes
from proxy.experiments.store.dsn import dsn_of
from proxy.experiments.store.store import Batch, Store
from tests.proxy.experiments.analysis.test_report_builder import write_experiment
from tests.random_examples import examples

REQUEST = {"request_id": "r1", "metric": "thumbs_up"}


@pytest.mark.parametrize(
    ("value", "kept"),
    [(True, 1.0), (False, 0.0), (-0.0, 0.0), (3, 3.0), (1e9, 1e9), (-(10**9), -1e9), (1e-320, 1e-320)],
)
def test_rating_in_the_documented_range_is_kept(value: float, kept: float) -> None:
    stored = parse_feedback({**REQUEST, "value": value}, 0.0).value
    assert (stored, str(stored)) == (kept, str(kept))


ABSURD = (1e100, -1e100, 1e308, 1.0000001e9, 10**400, -(10**400), float("nan"), float("inf"), float("-inf"))
OTHER_TYPES: tuple[object, ...] = (None, [], [1], {}, {"value": 1})
NUMBERS_AS_TEXT = ("5", "4.5", "-1", "+1", "1e3", "1,5", "80 %", "4/5", ".5", "\u0665", "NaN", "-inf", "\u22121")
WORDS = (
    *("true", "False", " TRUE ", "yes", "No", "null", "None", "", "  "),
    *(
        "\u00bd",
        "4\u2605",
        "\u2605\u2605\u2605\u2606",
        "***",
        "5 of 5",
        "-\u221e",
        "0x1",
        "$5",
        "10 \u20ac",
        "1 2",
        "1_000",
        "--1",
    ),
    *('"true"', "'4.5'", "true.", "Yes!", "5 stars", "1 star", "4 out of 5", "8 points", "\u200b", "\ufefftrue"),
)


@pytest.mark.parametrize("value", [*ABSURD, *OTHER_TYPES, *NUMBERS_AS_TEXT, *WORDS], ids=lambda value: repr(value)[:20])
def test_value_that_would_count_for_nothing_or_too_much_is_refused_with_the_types(value: object) -> None:
    with pytest.raises(BadRequestError, match=r"true, false, a number from -1,000,000,000 to 1,000,000,000, or a comm"):
        parse_feedback({**REQUEST, "value": value}, 0.0)


@pytest.mark.parametrize("metric", ["Thumbs_Up", "thumbs-up", "THUMBS_UP", "thumbsUp"])
def test_metric_that_is_spelled_like_a_compared_one_is_refused_with_its_name(metric: str) -> None:
    with pytest.raises(BadRequestError, match="compare `thumbs_up`"):
        parse_feedback({**REQUEST, "metric": metric, "value": 1}, 0.0, {"thumbs_up"})
    assert parse_feedback({**REQUEST, "metric": "thumbs", "value": 1}, 0.0, {"thumbs_up"}).value == 1.0


@pytest.mark.parametrize("metric", ["Latency", "completion-tokens", "ERROR", "judgedBetter"])
def test_metric_that_is_spelled_like_a_measured_one_is_refused(metric: str) -> None:
    with pytest.raises(BadRequestError, match="the server measures"):
        parse_feedback({**REQUEST, "metric": metric, "value": 1}, 0.0)


@pytest.mark.parametrize(
    "value", ["It was short.", "no, it was wrong", "5 reasons", "\N{THUMBS UP SIGN}", "4 of my friends", "a**b"]
)
def test_comment_is_kept_unless_an_experiment_compares_the_metric(value: str) -> None:
    assert parse_feedback({**REQUEST, "value": value}, 0.0, {"helpful"}).comment == value
    with pytest.raises(BadRequestError, match=r"true, false or a number .* an experiment compares this metric"):
        parse_feedback({**REQUEST, "value": value}, 0.0, {"thumbs_up"})


ABSURD_ROWS = [
    ("UPDATE feedback SET value = 1e100 WHERE subject = 'r7'", {"thumbs_up": 1}),
    ("UPDATE feedback SET value = 9e999 WHERE subject IN ('r7', 'r8')", {"thumbs_up": 2}),
    ("UPDATE feedback SET value = 'many' WHERE subject = 'r7'", {"thumbs_up": 1}),
    ("UPDATE feedback SET value = x'00ff' WHERE subject = 'r7'", {"thumbs_up": 1}),
    ("UPDATE exposures SET latency = -1e308 WHERE request_id = 'r7'", {"latency": 1}),
    ("UPDATE exposures SET latency = 9e999", {"latency": 1200}),
    ("UPDATE exposures SET prompt_tokens = 9223372036854775807", {"prompt_tokens": 1200}),
    ("UPDATE exposures SET completion_tokens = 'few' WHERE request_id = 'r7'", {"completion_tokens": 1}),
    ("UPDATE exposures SET ended_by_itself = 7 WHERE request_id = 'r7'", {"ended_by_itself": 1}),
    ("UPDATE exposures SET propensity = 0 WHERE request_id = 'r7'", {"time or propensity": 1}),
    ("UPDATE exposures SET propensity = -1e300 WHERE request_id = 'r7'", {"time or propensity": 1}),
    ("UPDATE exposures SET propensity = 'half' WHERE request_id = 'r7'", {"time or propensity": 1}),
    ("UPDATE exposures SET time = 9e999 WHERE request_id = 'r7'", {"time or propensity": 1}),
    ("UPDATE exposures SET time = 'noon' WHERE request_id = 'r7'", {"time or propensity": 1}),
    ("UPDATE exposures SET unit = 'someone' WHERE request_id = 'r7'", {}),
    ("UPDATE exposures SET arm = 'gone' WHERE request_id = 'r7'", {}),
    ("INSERT INTO steering VALUES ('demo', '', '{\"new\": 1e999', 'noon')", {}),
    ("INSERT INTO steering VALUES ('demo', '', '{\"new\": -1, \"raw\": \"x\"}', 1)", {}),
]


@pytest.fixture(scope="module")
def sane(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with an experiment and its store, and the report on them."""
    folder = tmp_path_factory.mktemp("sane")
    file, store = write_experiment(folder)
    with redirect_stdout(StringIO()) as output:
        assert run(["experiment", "report", file, "--store", store, "--json"]) == 0
    return folder, orjson.loads(output.getvalue())


@pytest.mark.parametrize(("change", "left_out"), ABSURD_ROWS, ids=[change for change, _ in ABSURD_ROWS])
def test_stored_row_that_cannot_be_right_is_left_out_and_counted(
    change: str,
    left_out: Mapping[str, int],
    sane: tuple[Path, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, before = sane
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    file, store = str(tmp_path / "demo.toml"), f"sqlite:{tmp_path / 'store.db'}"
    assert before["left_out"] == {}
    with sqlite3.connect(store.removeprefix("sqlite:")) as connection:
        connection.execute(change)
    assert run(["experiment", "report", file, "--store", store, "--json"]) == 0
    report = orjson.loads(capsys.readouterr().out)
    assert report["left_out"] == left_out
    assert report["units"] >= before["units"] - 2
    thumbs = report["comparisons"][0]
    assert thumbs["metric"] == "thumbs_up"
    assert thumbs["difference"] == pytest.approx(before["comparisons"][0]["difference"], abs=0.02)
    assert run(["experiment", "report", file, "--store", store]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for name, count in left_out.items():
        assert f"{count:,} of {name}" in printed


def test_row_of_an_old_store_stops_neither_guardrails_nor_the_page(tmp_path: Path) -> None:
    file, store = write_experiment(tmp_path)
    text = Path(file).read_text(encoding="utf-8")
    text += '\n[[guardrails]]\nmetric = "thumbs_up"\ntolerance = 0.5\nstop = true\n'
    Path(file).write_text(text, encoding="utf-8")
    with Store(dsn_of(store)) as opened:
        opened.write(Batch(feedback=[Feedback("r7", "thumbs_up", 1e100, None, 1.8e9)]))
    dashboard = Dashboard(ExperimentSettings(experiment=(file,), store=store))
    assert dashboard.update_allocations() == []
    report = dashboard.report("demo")
    assert report["left_out"] == {"thumbs_up": 1}
    assert len(report["guardrail_results"]) == 2


NUMBERS = some.one_of(
    some.floats(),
    some.sampled_from([0.0, 1.0, 1e9, -1e9, 1e100, -1e308, 1e-300, 5e-324, -0.0, 1e-9, float("nan"), float("inf")]),
)
EXPERIMENT = Experiment(
    "e",
    (Arm("a", 1.0), Arm("b", 1e-300), Arm("c", 3.0)),
    "a",
    (Metric("m"), Metric("n", "lower")),
    "e",
    guardrails=(Guardrail(Metric("m"), 1e12, stop=True),),
)


@examples(40, more=400)
def test_statistics_of_any_numbers_are_finite_or_unknown(number: int) -> None:
    @settings(max_examples=number)
    # The ratio of the means is 0.
    @example(values=[0.0, 0.0, 33776213.0, 1e-09, 0.0, 0.0], propensity=0.0, time=0.0, repeats=True)
    @given(some.lists(NUMBERS, min_size=3, max_size=12), NUMBERS, NUMBERS, some.booleans())
    def check(values: list[float], propensity: float, time: float, repeats: bool) -> None:
        units = [
            UnitOutcomes(
                f"{index:06}",
                "abc"[index % 3],
                propensity if index == 1 else 0.5,
                time if index == 2 else float(index),
                {"m": (values[index % len(values)], 1), "n": (values[-1 - index % len(values)], 1)},
                {"m": (values[index % len(values)] if index % 2 else 1.0, 1)},
            )
            for index in range(len(values) * (60 if repeats else 1))
        ]
        report = analyse(EXPERIMENT, units)
        orjson.dumps(report)
        assert "NaN" not in repr(report)
        for word in ("nan", "inf"):
            assert f"={word}" not in repr(report).replace("=-", "="), repr(report)

    check()
