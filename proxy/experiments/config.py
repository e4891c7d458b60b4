"""Reads the TOML files that define experiments. It does not depend on requests or on the store.

An example of a file:

    name = "shorter-prompt"
    metrics = ["thumbs_up", "ended_by_itself"]    # the first decides which arm is better

    [[arms]]
    name = "raw"
    variant = "raw-matched"                       # the only raw-matched arm is the control by default
    weight = 50

    [[arms]]
    name = "new"
    bundle = "bundles/new"                        # relative to the directory of this file
    weight = 50

An unknown or missing key, or a value of the wrong type, raises a StartupError. Its message is one line, which names the
file, the key and the allowed values.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final, cast, get_args

from index.bundle.input_files import parse_toml
from index.bundle.shipped import DEFAULT_BUNDLE, GENERAL, choose_shipped, find_bundle, read_shipped, shipped_names
from index.bundle.strict_json import Fields, quoted
from index.errors import BundleError, BundleFormatError
from proxy.core.errors import StartupError
from proxy.core.variant_names import RAW, RAW_MATCHED, VARIANTS
from proxy.experiments.automatic_metrics import AUTOMATIC_METRICS
from proxy.experiments.definition import Adaptive, Arm, Experiment, Guardrail, Metric, find_conflict

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_REQUIRED_KEYS: Final = ("name", "metrics", "arms")
_OPTIONAL_KEYS: Final = (
    *("control", "lower_is_better", "guardrails", "models", "keys", "share", "start", "end"),
    *("salt", "layer", "slots", "adaptive", "judge", "planned_units"),
)
_ARM_KEYS: Final = ("weight", "variant", "model", "bundle")
_MAX_NUMBER: Final = 1e9  # the maximum of each weight, of `planned_units` and of `calls`
_MAX_TOLERANCE: Final = 1e12  # in the unit of the guardrail's metric
CALLS_PER_CASE: Final = 3  # calls of models to judge one request: one of the other arm, two of the judge


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """The limits of the shadow judge in one experiment: the table [judge] of the experiment file.

    The shadow judge runs only if the server was started with the flag --judge.

    Attributes:
        model: Name of the judge model, as the judge's server lists it.
        share: Fraction of the experiment's requests whose replies are judged, 0 to 1.
        calls: Maximum number of model calls that one server process makes in 24 hours to judge this experiment. Calls
            to the judge model count, and so do calls that get the answer of another arm.
    """

    model: str
    share: float
    calls: int


@dataclass(frozen=True, slots=True)
class ExperimentFile:
    """The content of one experiment file.

    Attributes:
        experiment: The experiment that the file defines.
        judge: The limits of the shadow judge. None if the file has no table [judge].
        lower_is_better: The metrics of feedback for which lower values are better.
        path: The path of the file.
    """

    experiment: Experiment
    judge: JudgeSettings | None = None
    lower_is_better: tuple[str, ...] = ()
    path: Path = Path()


def read_experiments(paths: Sequence[str]) -> tuple[ExperimentFile, ...]:
    """Read experiment files, and check that their experiments can run together.

    A path may also be a folder, whose files *.toml are all read.

    Raises:
        StartupError: A file is invalid, two experiments have the same name or salt, or two experiments may change the
            same setting of one request.
    """
    given = [sorted(path.glob("*.toml")) if path.is_dir() else [path] for path in map(Path, paths)]
    files = tuple(read_experiment(path) for found in given for path in found)
    experiments = [file.experiment for file in files]
    for key in ("name", "salt"):
        values = [getattr(experiment, key) for experiment in experiments]
        if duplicate := next((value for value in values if values.count(value) > 1), None):
            raise StartupError(f"--experiment: two files have the {key} {quoted(duplicate)}. Give each its own.")
    if conflict := find_conflict(experiments):
        one, other, setting = conflict
        raise StartupError(
            f"--experiment: one request can take part in {other} and in {one}, and both decide its {setting}. Give "
            "them one `layer` with `slots` that do not overlap, or separate them by `models`, `keys`, `start` or `end`."
        )
    return files


def read_experiment(path: Path) -> ExperimentFile:
    """Read one experiment file. Raises StartupError if it cannot be read or is invalid."""
    try:
        table = parse_toml(path.read_bytes(), str(path))
        return _experiment_file(table, path)
    except OSError as error:
        raise StartupError(f"--experiment {path}: cannot be read ({type(error).__name__}).") from error
    except BundleFormatError as error:
        raise StartupError(f"--experiment {error}.") from error


def _experiment_file(table: Mapping[str, Any], path: Path) -> ExperimentFile:
    fields = Fields(table, str(path), _REQUIRED_KEYS, _OPTIONAL_KEYS)
    name = _name(fields.line("name"), f"{path}: `name`")
    models = fields.lines("models") if "models" in fields else ()
    arms = _arms(table["arms"], path, models)
    lower = fields.lines("lower_is_better") if "lower_is_better" in fields else ()
    metrics = tuple(_metric(metric, lower, path) for metric in _metric_names(fields, path))
    guardrails = tuple(_guardrails(table, lower, path))
    start, end = _time(table, "start", -math.inf, path), _time(table, "end", math.inf, path)
    if start >= end:
        raise StartupError(f"--experiment {path}: `end` is not after `start`. Give a later `end`.")
    experiment = Experiment(
        name=name,
        arms=arms,
        control=_control_name(fields, arms, path),
        metrics=metrics,
        salt=fields.line("salt") if "salt" in fields else name,
        guardrails=guardrails,
        models=frozenset(models),
        keys=frozenset(fields.lines("keys") if "keys" in fields else ()),
        share=fields.number("share", 0, 1) if "share" in fields else 1.0,
        start=start,
        end=end,
        layer=fields.line("layer") if "layer" in fields else "",
        slots=_slots(table, path),
        adaptive=cast("Adaptive", fields.choice("adaptive", get_args(Adaptive))) if "adaptive" in fields else None,
        planned_units=fields.integer("planned_units", 100, int(_MAX_NUMBER)) if "planned_units" in fields else 2000,
    )
    return ExperimentFile(experiment, _judge_settings(table, path), tuple(lower), path)


def _arms(value: object, path: Path, models: Sequence[str]) -> tuple[Arm, ...]:
    if not isinstance(value, list) or len(value) < 2:
        raise StartupError(f"--experiment {path}: at least two [[arms]] are needed.")
    arms = tuple(_arm(table, f"{path}: arm {number}", path.parent, models) for number, table in enumerate(value, 1))
    names = [arm.name for arm in arms]
    if duplicate := next((name for name in names if names.count(name) > 1), None):
        raise StartupError(f"--experiment {path}: two arms have the name {duplicate}. Give each its own.")
    if not any(arm.weight for arm in arms):
        raise StartupError(f"--experiment {path}: every arm has the weight 0, so no unit gets an arm. Raise a weight.")
    return arms


def _arm(value: object, location: str, folder: Path, models: Sequence[str]) -> Arm:
    fields = Fields(value, location, ("name", "weight"), _ARM_KEYS)
    model = fields.line("model") if "model" in fields else None
    arm = Arm(
        _name(fields.line("name"), location),
        fields.number("weight", 0, _MAX_NUMBER),
        fields.choice("variant", VARIANTS) if "variant" in fields else None,
        model,
        _bundle(fields, location, folder, [model] if model else models),
    )
    if arm.bundle and arm.variant == RAW:
        raise StartupError(f"--experiment {location}: the variant {RAW} uses no bundle. Remove `variant` or `bundle`.")
    return arm


def _bundle(fields: Fields, location: str, folder: Path, models: Sequence[str]) -> str | None:
    """Return the path of the arm's bundle, the name of a bundle of drpo, or None if the arm names no bundle.

    Args:
        fields: The table of the arm.
        location: The place of the arm in the experiment file, for error messages.
        folder: The folder of the experiment file. The path of the bundle in the file is relative to this folder.
        models: The models of the arm that the file names. If there is exactly one, `default` means drpo's bundle for
            this model. Otherwise, `default` means the general bundle.
    """
    bundle = fields.line("bundle") if "bundle" in fields else None
    if bundle == DEFAULT_BUNDLE:
        return choose_shipped(models, read_shipped()).bundle.name if len(models) == 1 else GENERAL
    if bundle is None or bundle in shipped_names():
        return bundle
    try:
        return str(find_bundle(str(folder / bundle)))
    except BundleError as error:
        raise StartupError(f"--experiment {location}: {error}.") from None


def _control_name(fields: Fields, arms: Sequence[Arm], path: Path) -> str:
    """Return the value of `control`. If the file does not contain it, return the name of the only raw-matched arm.

    Raises StartupError if the file contains no `control` and the number of raw-matched arms is not 1.
    """
    names = [arm.name for arm in arms]
    if "control" in fields:
        return fields.choice("control", names)
    matched = [arm.name for arm in arms if arm.variant == RAW_MATCHED]
    if len(matched) != 1:
        raise StartupError(
            f"--experiment {path}: say which arm the others are compared with, as in `control = "
            f"{quoted(names[0])}`. Without `control`, exactly one arm must have the variant {RAW_MATCHED}."
        )
    return matched[0]


def _metric(name: str, lower: Sequence[str], path: Path) -> Metric:
    """Return the metric with this name, including whether higher or lower values are better.

    For an automatic metric, AUTOMATIC_METRICS defines which values are better. For a metric of feedback, higher values
    are better unless the list `lower` contains the name of the metric.
    """
    _name(name, f"{path}: the metric")
    if automatic := AUTOMATIC_METRICS.get(name):
        return Metric(name, automatic.better)
    return Metric(name, "lower" if name in lower else "higher")


def _guardrails(table: Mapping[str, Any], lower: Sequence[str], path: Path) -> list[Guardrail]:
    guardrails = []
    for number, value in enumerate(_tables(table, "guardrails", path), 1):
        fields = Fields(value, f"{path}: guardrail {number}", ("metric", "tolerance"), ("stop",))
        metric = _metric(fields.line("metric"), lower, path)
        stop = fields.flag("stop") if "stop" in fields else False
        guardrails.append(Guardrail(metric, fields.number("tolerance", 0, _MAX_TOLERANCE), stop))
    return guardrails


def _judge_settings(table: Mapping[str, Any], path: Path) -> JudgeSettings | None:
    if "judge" not in table:
        return None
    fields = Fields(table["judge"], f"{path}: [judge]", ("model", "share"), ("calls",))
    calls = fields.integer("calls", 0, int(_MAX_NUMBER)) if "calls" in fields else 1000
    return JudgeSettings(fields.line("model"), fields.number("share", 0, 1), calls)


def _slots(table: Mapping[str, Any], path: Path) -> tuple[float, float]:
    slots = table.get("slots", [0.0, 1.0])
    are_numbers = isinstance(slots, list) and [isinstance(slot, int | float) for slot in slots] == [True, True]
    if not are_numbers or not 0 <= slots[0] < slots[1] <= 1:
        raise StartupError(f"--experiment {path}: `slots` must be [LOW, HIGH], 0 <= LOW < HIGH <= 1.")
    if "slots" in table and "layer" not in table:
        raise StartupError(f"--experiment {path}: `slots` divide a `layer`. Give the name of the `layer` too.")
    return float(slots[0]), float(slots[1])


def _time(table: Mapping[str, Any], key: str, default: float, path: Path) -> float:
    """Read a time as Unix seconds. A date means 00:00 UTC of that day. If the key is missing, return `default`."""
    value = table.get(key)
    if value is None:
        return default
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.timestamp()
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp()
    raise StartupError(f"--experiment {path}: `{key}` must be a date, or a time with its zone: 2026-11-27T08:00:00Z.")


def _tables(table: Mapping[str, Any], key: str, path: Path) -> Sequence[object]:
    value = table.get(key, [])
    if not isinstance(value, list):
        raise StartupError(f"--experiment {path}: `{key}` must be a list of tables: write [[{key}]].")
    return value


def _metric_names(fields: Fields, path: Path) -> Sequence[str]:
    names = fields.lines("metrics")
    if not names:
        known = ", ".join(AUTOMATIC_METRICS)
        raise StartupError(f"--experiment {path}: `metrics` is empty. Name a metric of feedback, or one of {known}.")
    if len(set(names)) < len(names):
        raise StartupError(f"--experiment {path}: `metrics` contains a name twice. Remove one.")
    return names


def _name(text: str, location: str) -> str:
    """Return the name if it is valid, else raise StartupError.

    Few characters are allowed, because names are sent in reply headers and are labels of Prometheus metrics.
    """
    if not _NAME.fullmatch(text):
        raise StartupError(
            f"--experiment {location}: {quoted(text)} must have 1 to 64 letters, digits, dots, dashes or underscores."
        )
    return text
