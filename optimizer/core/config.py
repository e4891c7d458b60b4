"""The configuration of a run, run.toml, and its validation. This module does not depend on how a run proceeds.

An unknown table or key is an error, and the message of this error names the most similar known table or key. A value
of the wrong type is an error too. Relative paths start at the directory of run.toml. The file contains no API keys: its
key `api_key_env` names the environment variable that holds an API key. optimizer.rewards.registry checks the names of
rewards.
"""

import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

from index.bundle.input_files import decode_text
from index.errors import BundleFormatError
from index.layouts import LAYOUTS
from optimizer.core.candidate import KINDS
from optimizer.core.config_tables import DRPO, RECIPES, REFUSALS, ModelTable, RunConfig
from optimizer.core.errors import ConfigError
from optimizer.core.request_form import MAX_TOKENS_FIELDS, REPLY_FORMATS, SYSTEM_ROLES, RequestForm

MIN_ROWS: Final = 4
"""The smallest number of rows of each part of the data."""
_MAX_INTEGER: Final = 10**12
_MAX_SAFETY: Final = 5
_MAX_WEIGHT: Final = 1e6
_ROLES: Final = ("task", "optimizer", "judge")
_FIXED_FIELDS: Final = frozenset(("model", "messages", "prompt", "stream"))
"""Fields of a request that [models.ROLE.request] can neither omit nor replace."""
_TYPE_NAMES: Final = {str: "a string", int: "a whole number", float: "a number", Path: "a path", bool: "true or false"}
_DRPO_NEEDS: Final = "[search] recipe drpo rewrites and judges with models: add [models.optimizer] and [models.judge]"
_EXAMPLES_NEED: Final = (
    "[examples] queries: answers are judged and rewritten: add [models.optimizer] and [models.judge]"
)


def read_config(path: Path, folder: Path | None = None) -> RunConfig:
    """Read and check run.toml.

    Args:
        path: The file.
        folder: The directory at which relative paths in the file start. None means the directory of the file.

    Raises:
        ConfigError: The file cannot be read, or a table, key or value is wrong.
    """
    try:
        document = tomllib.loads(decode_text(path.read_bytes(), str(path)))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None
    except BundleFormatError as error:
        raise ConfigError(str(error)) from None
    return parse_config(document, folder or path.parent)


def parse_config(document: Mapping[str, Any], folder: Path) -> RunConfig:
    """Check the parsed content of run.toml and convert it to a RunConfig.

    Args:
        document: The parsed content of run.toml.
        folder: The directory at which relative paths start.

    Raises:
        ConfigError: A table, key or value is wrong.
    """
    models = _parse_models(document.get("models"))
    hints = get_type_hints(RunConfig)
    del hints["models"]
    _refuse_unknown(document, [*hints, "models"], "run.toml")
    tables = {name: _parse_table(kind, document.get(name, {}), f"[{name}]") for name, kind in hints.items()}
    config = RunConfig(models=models, **tables)
    _check(config)
    return _with_folder(config, folder)


def _parse_models(tables: object) -> Mapping[str, ModelTable]:
    if not isinstance(tables, dict) or "task" not in tables:
        raise ConfigError("[models.task] is missing: say base_url, model and kind of the model to write a bundle for")
    _refuse_unknown(tables, _ROLES, "[models]")
    models = {role: _parse_table(ModelTable, table, f"[models.{role}]") for role, table in tables.items()}
    for role, table in models.items():
        _check_request_form(role, table.request)
    return models


def _check_request_form(role: str, form: RequestForm) -> None:
    """Raise ConfigError if a value of [models.ROLE.request] is not allowed, or has no effect for this role."""
    location = f"[models.{role}.request]"
    for is_valid, message in (
        (form.max_tokens_field in MAX_TOKENS_FIELDS, f"max_tokens_field must be one of {', '.join(MAX_TOKENS_FIELDS)}"),
        (form.system_role in SYSTEM_ROLES, f"system_role must be one of {', '.join(SYSTEM_ROLES)}"),
        (form.reply_format in ("", *REPLY_FORMATS), f"reply_format must be one of {', '.join(REPLY_FORMATS)}"),
        (not form.reply_format or role == "judge", "reply_format is for [models.judge.request] alone"),
        (not form.max_tokens or role != "task", "max_tokens: set max_tokens in the sampling of the bundle instead"),
        (min(form.max_tokens, form.max_choices, form.max_top_logprobs) >= 0, "counts must not be negative"),
        (form.max_stop_strings >= -1, "max_stop_strings must be at least 0, or -1 for no maximum"),
        (not _FIXED_FIELDS & {*form.omit, *form.extra}, f"{', '.join(sorted(_FIXED_FIELDS))} cannot be changed"),
        ("n" not in form.extra, "extra: set max_choices instead of n"),
    ):
        if not is_valid:
            raise ConfigError(f"{location} {message}")


def _parse_table(kind: Any, table: object, location: str) -> Any:
    """Convert a table to the dataclass `kind`. The message of a ConfigError names the table by `location`."""
    if not isinstance(table, dict):
        raise ConfigError(f"{location} must be a table")
    keys = {key.name: key for key in fields(kind)}
    _refuse_unknown(table, keys, location)
    missing = [name for name, key in keys.items() if name not in table and _is_required(key)]
    if missing:
        raise ConfigError(f"{location} {missing[0]} is missing")
    hints = get_type_hints(kind)
    return kind(**{name: _parse_value(hints[name], value, f"{location} {name}") for name, value in table.items()})


def _is_required(key: "Field[Any]") -> bool:
    return key.default is MISSING and key.default_factory is MISSING


def _parse_value(kind: Any, value: Any, location: str) -> Any:
    """Convert a value to the annotated type `kind`. The message of a ConfigError names the value by `location`."""
    if get_origin(kind) in (Union, UnionType):
        kind = next(option for option in get_args(kind) if option is not type(None))
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{location} must be a list")
        return tuple(_parse_value(get_args(kind)[0], item, location) for item in value)
    if is_dataclass(kind):
        return _parse_table(kind, value, location)
    if get_origin(kind) is not None:
        if not isinstance(value, dict):
            raise ConfigError(f"{location} must be a table")
        item_kind = get_args(kind)[1]
        return {str(key): _parse_value(item_kind, item, f"{location}.{key}") for key, item in value.items()}
    if kind is Any:
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if not isinstance(value, kind) or isinstance(value, bool) or (kind is float and not isfinite(value)):
        raise ConfigError(f"{location} must be {_TYPE_NAMES[kind]}, not {value!r}")
    return value


def _refuse_unknown(table: Mapping[str, Any], known: Collection[str], location: str) -> None:
    for name in table:
        if name not in known:
            nearest = get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ConfigError(f"{location}: {name} is unknown; the nearest known name is {nearest}")


def _check(config: RunConfig) -> None:
    """Raise ConfigError if a value is not allowed. If several are not allowed, the message names the first."""
    search, weights, screen = config.search, config.reward.weights, config.reward.screen
    for is_valid, message in (
        (search.recipe in RECIPES, f"[search] recipe must be one of {', '.join(RECIPES)}"),
        (all(one.kind in KINDS for one in config.models.values()), f"[models] kind must be one of {', '.join(KINDS)}"),
        (all(name in LAYOUTS for name in config.tune.layout), f"[tune] layout must be of {', '.join(LAYOUTS)}"),
        (all(one in REFUSALS for one in config.tune.refusal), f"[tune] refusal must be of {', '.join(REFUSALS)}"),
        (bool(weights), "[reward] weights: name at least one"),
        (all(weight > 0 for weight in (*weights.values(), *screen.values())), "[reward] weights must be above 0"),
        (not config.reward.confirm or "judge" in config.models, "[reward] confirm needs a judge: add [models.judge]"),
        (search.recipe != DRPO or {"judge", "optimizer"} <= set(config.models), _DRPO_NEEDS),
        (not config.examples.queries or {"judge", "optimizer"} <= set(config.models), _EXAMPLES_NEED),
        (min(search.beam, search.actions, search.depth, search.block) >= 1, "[search] counts must be at least 1"),
        (config.tune.queries >= 1, "[tune] queries must be at least 1"),
        (search.first >= 2, "[search] first must be at least 2: one query shows no difference"),
        (0 < search.alpha < 1, "[search] alpha must be between 0 and 1"),
        (0 <= config.data.unusable < 1, "[data] unusable must be at least 0 and below 1"),
        (all(one.concurrency >= 1 for one in config.models.values()), "[models] concurrency must be at least 1"),
        *_number_checks(config),
    ):
        if not is_valid:
            raise ConfigError(message)


def _number_checks(config: RunConfig) -> Iterator[tuple[bool, str]]:
    """Yield whether numbers are in their range, and the message for the case that they are not."""
    data, examples, search = config.data, config.examples, config.search
    yield all(one.timeout > 0 for one in config.models.values()), "[models] timeout must be above 0"
    prices = [price for one in config.models.values() for price in (one.price_prompt, one.price_completion)]
    yield min(prices) >= 0, "[models] prices must not be negative"
    yield data.limit is None or data.limit >= MIN_ROWS, f"[data] limit must be at least {MIN_ROWS}"
    yield data.raw is None or data.raw >= 0, "[data] raw must not be negative"
    yield min(search.queries, search.words) >= 1, "[search] counts must be at least 1"
    yield 0 <= search.indifference <= 1, "[search] indifference must be from 0 to 1"
    yield abs(search.seed) <= _MAX_INTEGER, f"[search] seed must be at most {_MAX_INTEGER:,}"
    yield min(examples.queries, examples.pinned) >= 0, "[examples] queries and pinned must not be negative"
    counts = (examples.rounds, examples.beam, examples.actions, examples.size, examples.words)
    yield min(counts) >= 1, "[examples] counts must be at least 1"
    weights = (*config.reward.weights.values(), *config.reward.screen.values())
    yield all(weight <= _MAX_WEIGHT for weight in weights), f"[reward] weights must be at most {_MAX_WEIGHT:,.0f}"
    is_score = 0 <= config.reward.safety <= _MAX_SAFETY
    yield is_score, f"[reward] safety must be from 0 to {_MAX_SAFETY}: scores are from 1"
    yield config.reward.confirm >= 0, "[reward] confirm must not be negative"
    yield min(config.tune.shortest_answer, default=0) >= 0, "[tune] shortest_answer must not be negative"
    limits = (getattr(config.budget, key.name) for key in fields(config.budget))
    yield all(limit is None or limit >= 0 for limit in limits), "[budget] limits must not be negative"
    whole = [value for table in (data, search, examples, config.tune, config.budget) for value in _integers(table)]
    yield all(value <= _MAX_INTEGER for value in whole), f"a whole number must be at most {_MAX_INTEGER:,}"


def _integers(table: Any) -> Iterator[int]:
    values = (getattr(table, key.name) for key in fields(table))
    yield from (value for value in values if isinstance(value, int))


def _with_folder(config: RunConfig, folder: Path) -> RunConfig:
    data = config.data
    validation = folder / data.validation if data.validation else None
    data = replace(data, train=folder / data.train, sealed=folder / data.sealed, validation=validation)
    start = config.bundle.start
    bundle = config.bundle if start == "default" else replace(config.bundle, start=str(folder / start))
    return replace(config, data=data, bundle=bundle)
