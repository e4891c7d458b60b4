"""Tests that one entry in AUTOMATIC_METRICS is enough to store a metric and to report it."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import orjson

from proxy.experiments.automatic_metrics import AUTOMATIC_METRICS
from proxy.experiments.records import Exposure
from proxy.experiments.store.dsn import StoreDsn, dsn_of
from proxy.experiments.store.export import export
from proxy.experiments.store.schema import EXPOSURE_COLUMNS
from proxy.experiments.store.store import Batch, Store
from proxy.experiments.store.stored_outcomes import StoredOutcomes
from tests.proxy.experiments.analysis.test_report_builder import write_experiment
from tests.proxy.experiments.store.test_store import exposure

ADD_METRIC_AND_REPORT = """
import sys
from proxy.experiments import automatic_metrics
slow = automatic_metrics.AutomaticMetric("slow", "lower", expression="CASE WHEN e.latency > 1.5 THEN 1 ELSE 0 END")
automatic_metrics.AUTOMATIC_METRICS["slow"] = slow
from proxy.__main__ import run
sys.exit(run(["experiment", "report", sys.argv[1], "--store", sys.argv[2], "--json"]))
"""


def test_metric_with_one_registry_entry_is_in_the_report(tmp_path: Path) -> None:
    file, store = write_experiment(tmp_path, slower=1.0)
    Path(file).write_text(Path(file).read_text().replace('"latency"]', '"latency", "slow"]'))
    printed = subprocess.run(
        [sys.executable, "-c", ADD_METRIC_AND_REPORT, file, store], capture_output=True, check=True
    )
    comparison = next(one for one in orjson.loads(printed.stdout)["comparisons"] if one["metric"] == "slow")
    assert (comparison["better"], comparison["arm_mean"]["units"] + comparison["control_mean"]["units"]) == (
        "lower",
        600,
    )
    assert 0 < comparison["control_mean"]["mean"] < comparison["arm_mean"]["mean"] < 1


STORE_NEW_COLUMN = """
import sys, types
from proxy.experiments import automatic_metrics
automatic_metrics.AUTOMATIC_METRICS["cached_tokens"] = automatic_metrics.AutomaticMetric(
    "cached_tokens", "higher", "INTEGER"
)
from proxy.experiments.store.dsn import dsn_of
from proxy.experiments.store.export import export
from proxy.experiments.store.store import Batch, Store
from proxy.experiments.store.stored_outcomes import StoredOutcomes
from tests.proxy.experiments.store.test_store import exposure
dsn = dsn_of(sys.argv[1])
with Store(dsn) as store:
    store.write(Batch([types.SimpleNamespace(**exposure(2, unit=b"u2")._asdict(), cached_tokens=7)]))
print([unit.metrics.get("cached_tokens") for unit in StoredOutcomes(dsn).units("e")])
print([row["cached_tokens"] for row in export(dsn, "e")])
"""


def test_metric_with_a_new_column_is_added_to_an_existing_store(tmp_path: Path) -> None:
    """The subprocess writes an exposure with one more field, as a later version with a new metric would do."""
    dsn = f"sqlite:{tmp_path / 'store.sqlite3'}"
    with Store(dsn_of(dsn)) as store:
        store.write(Batch([exposure(1)]))
    printed = subprocess.run([sys.executable, "-c", STORE_NEW_COLUMN, dsn], capture_output=True, check=True)
    assert printed.stdout.decode().splitlines() == ["[None, (7.0, 1)]", "[None, 7]"]


def test_every_metric_with_a_column_is_a_field_of_exposures() -> None:
    columns = {name for name, metric in AUTOMATIC_METRICS.items() if metric.column}
    assert columns <= set(Exposure._fields)


def test_store_of_an_earlier_version_gets_the_missing_metric_column(tmp_path: Path) -> None:
    dsn = _store_without_latency(tmp_path / "store.sqlite3")
    with Store(dsn) as store:
        store.write(Batch([exposure(2, unit=b"u2", latency=3.0)]))
    units = list(StoredOutcomes(dsn).units("e"))
    assert [unit.metrics.get("latency") for unit in units] == [None, (3.0, 1)]


def test_export_of_a_store_of_an_earlier_version_has_null_for_a_missing_column(tmp_path: Path) -> None:
    dsn = _store_without_latency(tmp_path / "store.sqlite3")
    (row,) = export(dsn, "e")
    assert (row["latency"], row["prompt_tokens"]) == (None, 3)
    assert set(row) == {"type", *EXPOSURE_COLUMNS}


def _store_without_latency(path: Path) -> StoreDsn:
    dsn = dsn_of(f"sqlite:{path}")
    with Store(dsn) as store:
        store.write(Batch([exposure(1)]))
    connection = sqlite3.connect(path)
    connection.execute("ALTER TABLE exposures DROP COLUMN latency")
    connection.close()
    return dsn
