"""Tests of reports from a store, and of the decisions that follow from them."""

import random
import sys
from hashlib import blake2b
from pathlib import Path

import orjson
import pytest
import scipy  # which imports scipy.stats when a test first uses it: that takes a second

from proxy.__main__ import run
from proxy.core.settings import ExperimentSettings
from proxy.experiments.config import read_experiment
from proxy.experiments.dashboard import Dashboard, rated_metric
from proxy.experiments.definition import Experiment, Metric, assign
from proxy.experiments.records import Exposure, Feedback
from proxy.experiments.store.dsn import dsn_of
from proxy.experiments.store.store import Batch, Store
from proxy.experiments.store.stored_outcomes import StoredOutcomes
from tests.proxy.experiments.simulation import fixed_size

FILE = """
name = "demo"
metrics = ["thumbs_up", "latency"]
lower_is_better = ["thumbs_down"]
{more}
[[arms]]
name = "raw"
variant = "raw-matched"
weight = 50
[[arms]]
name = "new"
variant = "aligned"
weight = 50
[[guardrails]]
metric = "latency"
tolerance = 0.5
stop = true
"""


def write_experiment(folder: Path, *, slower: float = 0.0, more: str = "") -> tuple[str, str]:
    """Write an experiment file, and a store with 600 units that sent two requests each. Return the file and the DSN."""
    file, store = folder / "demo.toml", f"sqlite:{folder / 'store.db'}"
    file.write_text(FILE.format(more=more))
    experiment = read_experiment(file).experiment
    dice, exposures, feedback = random.Random(1), [], []
    for number in range(1200):
        unit = b"%016d" % (number % 600)
        arm = assign(experiment, unit)
        latency = dice.lognormvariate(0, 0.5) + (slower if arm.name == "new" else 0)
        exposures.append(_exposure(number, unit, arm.name, latency))
        likes = dice.random() < (0.7 if arm.name == "new" else 0.3)
        feedback.append(Feedback(f"r{number}", "thumbs_up", float(likes), None, 1.7e9 + 2000))
    with Store(dsn_of(store)) as opened:
        opened.write(Batch(exposures=exposures, feedback=feedback))
    return str(file), store


def _exposure(number: int, unit: bytes, arm: str, latency: float) -> Exposure:
    return Exposure(
        id=blake2b(b"%d" % number, digest_size=16).digest(),
        experiment="demo",
        arm=arm,
        propensity=0.5,
        override=False,
        unit=unit,
        request_id=f"r{number}",
        completion_id=None,
        time=1.7e9 + number,
        model="m",
        variant="aligned" if arm == "new" else "raw-matched",
        bundle=None,
        asked=None,
        latency=latency,
        time_to_first_token=None,
        prompt_tokens=None,
        completion_tokens=None,
        ended_by_itself=None,
        truncated=False,
        error=False,
        client_gone=False,
    )


def _printed(file: str, store: str, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert run(["experiment", "report", file, "--store", store, *flags]) == 0
    return capsys.readouterr().out


def test_report_equals_a_computation_from_the_exported_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, store = write_experiment(tmp_path)
    report = orjson.loads(_printed(file, store, capsys, "--json"))
    assert run(["experiment", "export", "demo", "--store", store]) == 0
    rows = [orjson.loads(line) for line in capsys.readouterr().out.splitlines()]
    by_unit: dict[tuple[str, str], list[float]] = {}
    for row in (row for row in rows if row["type"] == "exposure"):
        by_unit.setdefault((row["arm"], row["unit"]), []).append(row["latency"])
    sides = [[sum(v) / len(v) for (arm, _), v in by_unit.items() if arm == name] for name in ("new", "raw")]
    latency = report["comparisons"][1]
    expected = scipy.stats.ttest_ind(*sides, equal_var=False)
    assert latency["arm_mean"]["units"] + latency["control_mean"]["units"] == report["units"] == 600
    assert latency["p_fixed"] == pytest.approx(expected.pvalue, rel=1e-9)
    assert latency["fixed"]["low"] == pytest.approx(expected.confidence_interval().low, rel=1e-9)
    assert report["sample_ratio"]["counts"] == report["exposed"]


def test_dashboard_report_equals_what_the_command_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, store = write_experiment(tmp_path)
    dashboard = Dashboard(ExperimentSettings(experiment=(file,), store=store))
    assert orjson.loads(orjson.dumps(dashboard.report("demo"))) == orjson.loads(_printed(file, store, capsys, "--json"))
    printed = " ".join(_printed(file, store, capsys).split())
    assert "new is better than raw: thumbs_up" in printed
    assert dashboard.report("demo")["verdict"]["sentence"].split()[0] == "new"


def test_dashboard_gives_the_feedback_of_the_metric_that_clients_send(tmp_path: Path) -> None:
    file, store = write_experiment(tmp_path)
    told = Dashboard(ExperimentSettings(experiment=(file,), store=store)).feedback("demo")
    assert (told["metric"], told["requests"], told["rated"], told["logged"]) == ("thumbs_up", 1200, 1200, 0)
    assert {one["arm"] for one in told["groups"]} == {"raw", "new"}
    assert rated_metric(Experiment("e", (), "a", (Metric("latency", "lower"),), "s")).name == "thumbs_up"


def test_breached_guardrail_stops_the_experiment_once(tmp_path: Path) -> None:
    file, store = write_experiment(tmp_path, slower=2.0)
    dashboard = Dashboard(ExperimentSettings(experiment=(file,), store=store))
    assert ["worse in latency" in decision.stopped for decision in dashboard.update_allocations()] == [True]
    assert StoredOutcomes(dsn_of(store)).allocations()["demo"].stopped.startswith("Stop: new")
    assert dashboard.update_allocations() == []


def test_experiment_without_a_breach_is_not_stopped(tmp_path: Path) -> None:
    file, store = write_experiment(tmp_path)
    assert Dashboard(ExperimentSettings(experiment=(file,), store=store)).update_allocations() == []


def test_adaptive_weights_favour_the_better_arm_and_keep_a_minimum(tmp_path: Path) -> None:
    file, store = write_experiment(tmp_path, more='adaptive = "thompson"')
    decision = Dashboard(ExperimentSettings(experiment=(file,), store=store)).update_allocations()[0]
    assert decision.weights == pytest.approx({"raw": 0.05, "new": 0.95})


@pytest.fixture
def without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make imports fail as if the extra `experiments` were not installed."""
    for name in ("analyze", "samples", "estimators", "adaptive"):
        monkeypatch.delitem(sys.modules, f"proxy.experiments.analysis.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "scipy", None)


@pytest.mark.usefixtures("without_scipy")
def test_missing_statistics_name_what_to_install_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, store = write_experiment(tmp_path)
    assert run(["experiment", "report", file, "--store", store]) == 1
    message = capsys.readouterr().err
    assert "Statistics need scipy. Run: pip install 'drpo-proxy[experiments]'" in " ".join(message.split())
    assert "Traceback" not in message


def test_size_for_a_single_look_equals_lehrs_rule() -> None:
    """Lehr's rule: the size of each arm is 16 times the variance, divided by the squared difference."""
    assert fixed_size(0.5, 1.0) == pytest.approx(2 * 16 / 0.25, rel=0.03)


def test_empty_report_names_the_store_that_was_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, store = write_experiment(tmp_path)
    monkeypatch.delenv("DRPO_STORE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    Store(dsn_of(f"sqlite:{tmp_path}/drpo/experiments.sqlite3")).close()
    assert run(["experiment", "report", file]) == 0
    printed = capsys.readouterr().out
    assert f"Read from sqlite:{tmp_path}/drpo/experiments.sqlite3" in printed
    assert "give it here, too: --store" in printed
    assert "Read from" not in _printed(file, store, capsys)
