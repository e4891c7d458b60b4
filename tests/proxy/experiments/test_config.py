"""Tests that experiment files are read, and that one line of an error message names a mistake in a file."""

import dataclasses
import re
from pathlib import Path
from typing import Final

import pytest

from proxy.core.errors import StartupError
from proxy.experiments import config
from proxy.experiments.automatic_metrics import AUTOMATIC_METRICS
from proxy.experiments.config import JudgeSettings, read_experiment, read_experiments
from proxy.experiments.definition import Arm, Guardrail, Metric

PAGE: Final = Path(__file__).parents[3] / "docs" / "experiment-file.md"
GOOD = """\
name = "one"
metrics = ["thumbs_up", "complaints", "latency"]
lower_is_better = ["complaints"]
models = ["m"]
keys = ["alice"]
share = 0.5
start = 2026-11-27T08:00:00Z
end = 2026-12-01
layer = "page"
slots = [0.0, 0.5]
adaptive = "thompson"

[[arms]]
name = "raw"
variant = "raw-matched"
weight = 90

[[arms]]
name = "new"
bundle = "bundles/new"
model = "other"
weight = 10

[[guardrails]]
metric = "error"
tolerance = 0.01
stop = true

[judge]
model = "judge"
share = 0.1
"""


def write_file(folder: Path, text: str = GOOD, name: str = "one.toml") -> Path:
    (folder / "bundles" / "new").mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_folder_stands_for_the_files_in_it(tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    assert read_experiments([str(tmp_path / "experiments")]) == ()
    for name, slots in (("two", "[0.5, 1.0]"), ("one", "[0.0, 0.5]")):
        text = GOOD.replace('"one"', f'"{name}"').replace("[0.0, 0.5]", slots)
        write_file(tmp_path / "experiments", text, f"{name}.toml")
    (tmp_path / "experiments" / "notes.txt").write_text("no experiment")
    found = read_experiments([str(tmp_path / "experiments")])
    assert [one.experiment.name for one in found] == ["one", "two"]


def test_file_is_read_as_an_experiment(tmp_path: Path) -> None:
    found = read_experiment(write_file(tmp_path))
    experiment = found.experiment
    assert experiment.arms == (
        Arm("raw", 90.0, variant="raw-matched"),
        Arm("new", 10.0, model="other", bundle=str(tmp_path / "bundles/new")),
    )
    assert (experiment.control, experiment.salt, experiment.share, experiment.slots) == ("raw", "one", 0.5, (0.0, 0.5))
    assert experiment.metrics == (
        Metric("thumbs_up", "higher"),
        Metric("complaints", "lower"),
        Metric("latency", "lower"),
    )
    assert experiment.guardrails == (Guardrail(Metric("error", "lower"), 0.01, stop=True),)
    assert (experiment.start, experiment.end) == (1795766400.0, 1796083200.0)
    assert found.judge is not None
    assert (found.judge.model, found.judge.share, found.judge.calls) == ("judge", 0.1, 1000)


@pytest.mark.parametrize("named", ["default", "hand-written"])
def test_the_bundle_of_an_arm_can_be_one_of_drpo(tmp_path: Path, named: str) -> None:
    text = GOOD.replace("bundles/new", named)
    assert read_experiment(write_file(tmp_path, text)).experiment.arms[1].bundle == "hand-written"
    text = text.replace('model = "other"\n', "").replace('models = ["m"]\n', "")
    assert read_experiment(write_file(tmp_path, text)).experiment.arms[1].bundle == "hand-written"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("share = 0.5", "shares = 0.5", 'unknown key "shares"; the nearest known key is "share"'),
        ("share = 0.5", "share = 1.5", '"share" must be a number from 0 to 1'),
        ('name = "one"', "", '"name" is missing'),
        ('name = "one"', 'name = "one=two"', "1 to 64 letters"),
        ('name = "one"', "name = 2026-11-27", "must be a string of one line"),
        ('metrics = ["thumbs_up", "complaints", "latency"]', "metrics = []", "`metrics` is empty"),
        ('metrics = ["thumbs_up", ', 'metrics = ["latency", ', "contains a name twice"),
        ("start = 2026-11-27T08:00:00Z", "start = 2026-11-27T08:00:00", "with its zone"),
        ("start = 2026-11-27T08:00:00Z", "start = 2026-12-27T08:00:00Z", "`end` is not after `start`"),
        ("slots = [0.0, 0.5]", "slots = [0.5, 0.5]", "LOW < HIGH"),
        ('layer = "page"', "", "Give the name of the `layer`"),
        ('adaptive = "thompson"', 'adaptive = "greedy"', 'must be one of "thompson"'),
        ('variant = "raw-matched"', 'variant = "rawmatched"', '"raw-matched"'),
        ('variant = "raw-matched"', 'variant = "raw"', "say which arm the others are compared with"),
        ('name = "new"', 'name = "raw"', "two arms have the name raw"),
        ("weight = 90", "weight = -1", '"weight" must be a number from 0'),
        ('bundle = "bundles/new"', 'bundle = "bundles/old"', "there is no directory"),
        ('bundle = "bundles/new"', 'bundle = "bundles/new"\nvariant = "raw"', "uses no bundle"),
        ("[[guardrails]]", "[guardrails]", "write [[guardrails]]"),
        ("tolerance = 0.01", "", '"tolerance" is missing'),
        ('model = "judge"', "model = 3", '"model" must be a string of one line'),
        ("share = 0.5", "share = ", "is not TOML"),
        ("share = 0.5", "share = " + 5000 * "[", "is not TOML: it is nested too deeply"),
    ],
)
def test_invalid_file_is_refused_with_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(StartupError) as raised:
        read_experiment(write_file(tmp_path, GOOD.replace(old, new, 1)))
    assert message in str(raised.value)
    assert str(tmp_path / "one.toml") in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"nowhere\.toml: cannot be read"):
        read_experiment(tmp_path / "nowhere.toml")


def test_files_that_decide_the_same_request_are_refused(tmp_path: Path) -> None:
    one = write_file(tmp_path)
    same = write_file(tmp_path, GOOD, "same.toml")
    with pytest.raises(StartupError, match='the name "one"'):
        read_experiments([str(one), str(same)])
    salted = write_file(tmp_path, GOOD.replace('name = "one"', 'name = "two"\nsalt = "one"'), "two.toml")
    with pytest.raises(StartupError, match='the salt "one"'):
        read_experiments([str(one), str(salted)])
    other = write_file(tmp_path, GOOD.replace('name = "one"', 'name = "two"'), "two.toml")
    with pytest.raises(StartupError, match="one request can take part in"):
        read_experiments([str(one), str(other)])
    disjoint = write_file(
        tmp_path, GOOD.replace('name = "one"', 'name = "two"').replace("0.0, 0.5", "0.5, 1.0"), "two.toml"
    )
    assert len(read_experiments([str(one), str(disjoint)])) == 2


def test_page_lists_every_key_and_every_automatic_metric() -> None:
    tables = re.split(r"\n## |\n### ", PAGE.read_text(encoding="utf-8"))
    listed = {part.partition("\n")[0]: set(re.findall(r"^\| `\[*(\w+)", part, re.MULTILINE)) for part in tables}
    expected = {
        "All keys": {*config._REQUIRED_KEYS, *config._OPTIONAL_KEYS},
        "The keys of an arm": {"name", *config._ARM_KEYS},
        "The keys of a guardrail": {"metric", "tolerance", "stop"},
        "The keys of the judge": {field.name for field in dataclasses.fields(JudgeSettings)},
        "Automatic metrics": set(AUTOMATIC_METRICS),
    }
    assert {name: listed[name] for name in expected} == expected


def test_file_on_the_page_is_valid(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    experiment = read_experiment(write_file(tmp_path, text)).experiment
    assert [arm.bundle is not None for arm in experiment.arms] == [True, True]
    assert experiment.guardrails[0].stop
