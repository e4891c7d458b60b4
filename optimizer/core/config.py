"""run.toml: what a run is told, read without tolerance. Knows the file, and nothing of how a run goes.

A table or key that is unknown is an error that names the nearest known one; so is a value of the wrong kind. Paths are
relative to the file. Keys are never written here: `api_key_env` names the environment variable that holds one.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

from index.rendering import LAYOUTS
from optimizer.core.budget import Limits, Prices
from optimizer.core.candidate import KINDS
from optimizer.core.errors import ConfigError

RECIPES: Final = ("raced", "drpo")
NAMED_REWARDS: Final = ("rules", "reference", "likelihood", "judge")
WHOLE, FIRST_SENTENCE, PLAIN = "whole", "first_sentence", "plain"
REFUSALS: Final = (WHOLE, FIRST_SENTENCE, PLAIN)


@dataclass(frozen=True, slots=True)
class ModelTable:
    """[models.NAME]. kind: completion (a base model) or chat; prices: money per million tokens; timeout in seconds."""

    base_url: str
    model: str
    kind: str = "chat"
    api_key_env: str | None = None
    concurrency: int = 8
    timeout: float = 300.0
    price_prompt: float = 0.0
    price_completion: float = 0.0

    @property
    def prices(self) -> Prices:
        """Both prices."""
        return Prices(self.price_prompt, self.price_completion)


@dataclass(frozen=True, slots=True)
class DataTable:
    """[data]. JSONL files: query, and optionally reference, tag, split. A row that has a split counts only where it is
    named: so one file may serve for all three. limit: rows of train and of validation at most; raw: sealed rows on
    which the raw variants are asked too, all by default: raw answers run to their cap, and prove little."""

    train: Path
    sealed: Path
    validation: Path | None = None
    limit: int | None = None
    raw: int | None = None


@dataclass(frozen=True, slots=True)
class SearchTable:
    """[search]. first, block: queries before the first look of a race, and between looks; queries: the most that a race
    may take; indifference: a lead below it does not matter; words: the longest prompt."""

    recipe: str = "raced"
    beam: int = 2
    actions: int = 3
    depth: int = 8
    patience: int = 2
    first: int = 10
    block: int = 4
    queries: int = 120
    alpha: float = 0.05
    indifference: float = 0.005
    seed: int = 0
    words: int = 250


@dataclass(frozen=True, slots=True)
class RewardTable:
    """[reward]. weights: by rules, reference, likelihood, judge or MODULE:FUNCTION, for the sealed evaluation; screen:
    the same for the search, where that is to be cheaper, else weights serve both; safety: see judge.Judge; confirm:
    sealed rows on which the judge compares the bundle's answers with the baseline's, in both orders."""

    weights: Mapping[str, float]
    screen: Mapping[str, float] = field(default_factory=dict)
    safety: float = 3.0
    confirm: int = 0

    @property
    def all_names(self) -> frozenset[str]:
        """Every reward that is named."""
        return frozenset((*self.weights, *self.screen))


@dataclass(frozen=True, slots=True)
class ExamplesTable:
    """[examples]. queries: of the training data, for which answers are written; 0: the starting bank is kept. rounds:
    rewrites of an answer at most, of `beam` answers `actions` at a time; size: of the bank; pinned: short refusals that
    every request is shown."""

    queries: int = 0
    rounds: int = 5
    beam: int = 1
    actions: int = 1
    size: int = 64
    pinned: int = 2
    words: int = 150


@dataclass(frozen=True, slots=True)
class TuneTable:
    """[tune]. What is tried, one after the other, each list against the value at hand; an empty list: not tried.
    shortest_answer: in words, of examples that are no refusals; refusal: how those are worded (bank.py); queries:
    validation rows, at most, for each knob."""

    k: tuple[int, ...] = (0, 1, 3, 5)
    order: tuple[str, ...] = ("similar_last", "canonical")
    minimum_similarity: tuple[float, ...] = ()
    layout: tuple[str, ...] = ()
    frequency_penalty: tuple[float, ...] = ()
    presence_penalty: tuple[float, ...] = ()
    temperature: tuple[float, ...] = ()
    shortest_answer: tuple[int, ...] = ()
    refusal: tuple[str, ...] = ()
    queries: int = 120


@dataclass(frozen=True, slots=True)
class BundleTable:
    """[bundle]. start: the bundle to begin with, which is also the baseline; `default` or a directory. model: what the
    written bundle is for, if not the task model's name."""

    name: str
    start: str = "default"
    model: str | None = None
    embedder: str = "onnx"


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The whole file. models: task, and optionally optimizer and judge."""

    models: Mapping[str, ModelTable]
    data: DataTable
    reward: RewardTable
    bundle: BundleTable
    search: SearchTable = field(default_factory=SearchTable)
    examples: ExamplesTable = field(default_factory=ExamplesTable)
    tune: TuneTable = field(default_factory=TuneTable)
    budget: Limits = field(default_factory=Limits)


_ROLES: Final = ("task", "optimizer", "judge")


def read_config(path: Path, folder: Path | None = None) -> RunConfig:
    """Paths in it are relative to its own folder, or to `folder`. Raises ConfigError."""
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None
    return parse_config(told, folder or path.parent)


def parse_config(told: Mapping[str, Any], folder: Path) -> RunConfig:
    """The same from a parsed file; paths are relative to `folder`. Raises ConfigError."""
    told = dict(told)
    models = _models(told.pop("models", None))
    tables = {one.name: one.type for one in fields(RunConfig) if one.name != "models"}
    _refuse_unknown(told, [*tables, "models"], "run.toml")
    hints = get_type_hints(RunConfig)
    read = {name: _table(hints[name], told.get(name, {}), f"[{name}]") for name in tables}
    config = RunConfig(models=models, **read)
    _check(config)
    return _with_folder(config, folder)


def _models(told: Any) -> Mapping[str, ModelTable]:
    if not isinstance(told, dict) or "task" not in told:
        raise ConfigError("[models.task] is missing: say base_url, model and kind of the model to write a bundle for")
    _refuse_unknown(told, _ROLES, "[models]")
    return {name: _table(ModelTable, table, f"[models.{name}]") for name, table in told.items()}


def _table(kind: Any, told: Any, place: str) -> Any:
    """One table as a value of the dataclass `kind`."""
    if not isinstance(told, dict):
        raise ConfigError(f"{place} must be a table")
    known = {one.name: one for one in fields(kind)}
    _refuse_unknown(told, known, place)
    missing = [name for name, one in known.items() if name not in told and _is_required(one)]
    if missing:
        raise ConfigError(f"{place} {missing[0]} is missing")
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name], value, f"{place} {name}") for name, value in told.items()})


def _is_required(one: "Field[Any]") -> bool:
    return one.default is MISSING and one.default_factory is MISSING


def _value(kind: Any, value: Any, place: str) -> Any:
    """A value of the annotated kind, or ConfigError."""
    if get_origin(kind) in (Union, UnionType):
        kind = next(one for one in get_args(kind) if one is not type(None))
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{place} must be a list")
        return tuple(_value(get_args(kind)[0], one, place) for one in value)
    if get_origin(kind) is not None:
        if not isinstance(value, dict):
            raise ConfigError(f"{place} must be a table")
        return {str(key): _value(float, one, f"{place}.{key}") for key, one in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ConfigError(f"{place} must be {_NAMES[kind]}, not {value!r}")
    return value


_NAMES: Final = {str: "a string", int: "a whole number", float: "a number", Path: "a path", bool: "true or false"}


def _refuse_unknown(told: Mapping[str, Any], known: Any, place: str) -> None:
    for name in told:
        if name not in known:
            nearest = get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ConfigError(f"{place}: {name} is unknown; the nearest known name is {nearest}")


def _check(config: RunConfig) -> None:
    """What cannot be seen from one value alone. Raises ConfigError."""
    search, weights, screen = config.search, config.reward.weights, config.reward.screen
    names = config.reward.all_names
    for ok, complaint in (
        (search.recipe in RECIPES, f"[search] recipe must be one of {', '.join(RECIPES)}"),
        (all(one.kind in KINDS for one in config.models.values()), f"[models] kind must be one of {', '.join(KINDS)}"),
        (all(name in LAYOUTS for name in config.tune.layout), f"[tune] layout must be of {', '.join(LAYOUTS)}"),
        (all(one in REFUSALS for one in config.tune.refusal), f"[tune] refusal must be of {', '.join(REFUSALS)}"),
        (bool(weights), "[reward] weights: name at least one"),
        (all(weight > 0 for weight in (*weights.values(), *screen.values())), "[reward] weights must be above 0"),
        (_are_rewards(names), f"[reward] weights are of {', '.join(NAMED_REWARDS)} or MODULE:FUNCTION"),
        ("judge" not in names or "judge" in config.models, "[reward] judge needs a model: add [models.judge]"),
        (not config.reward.confirm or "judge" in config.models, "[reward] confirm needs a judge: add [models.judge]"),
        (search.recipe != "drpo" or {"judge", "optimizer"} <= set(config.models), _DRPO_NEEDS),
        (not config.examples.queries or {"judge", "optimizer"} <= set(config.models), _EXAMPLES_NEED),
        (min(search.beam, search.actions, search.depth, search.block) >= 1, "[search] counts must be at least 1"),
        (config.tune.queries >= 1, "[tune] queries must be at least 1"),
        (search.first >= 2, "[search] first must be at least 2: one query shows no difference"),
        (0 < search.alpha < 1, "[search] alpha must be between 0 and 1"),
        (all(one.concurrency >= 1 for one in config.models.values()), "[models] concurrency must be at least 1"),
    ):
        if not ok:
            raise ConfigError(complaint)


_DRPO_NEEDS: Final = "[search] recipe drpo rewrites and judges with models: add [models.optimizer] and [models.judge]"
_EXAMPLES_NEED: Final = (
    "[examples] queries: answers are judged and rewritten: add [models.optimizer] and [models.judge]"
)


def _are_rewards(names: Iterable[str]) -> bool:
    return all(name in NAMED_REWARDS or ":" in name for name in names)


def _with_folder(config: RunConfig, folder: Path) -> RunConfig:
    data = config.data
    validation = folder / data.validation if data.validation else None
    placed = replace(data, train=folder / data.train, sealed=folder / data.sealed, validation=validation)
    start = config.bundle.start
    bundle = config.bundle if start == "default" else replace(config.bundle, start=str(folder / start))
    return replace(config, data=placed, bundle=bundle)
