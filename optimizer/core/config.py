"""Reads run.toml, the configuration of a run, and checks it. This module does not depend on how a run proceeds.

An unknown table or key is an error, and the message of this error names the most similar known table or key. A value
of the wrong type is an error too. Relative paths start at the directory of run.toml. The file contains no API keys: its
key `api_key_env` names the environment variable that holds an API key. optimizer.rewards.registry checks the names of
rewards.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from index.bundle.input_files import parse_toml
from index.bundle.shipped import DEFAULT_BUNDLE, shipped_names
from index.bundle.strict_json import quoted
from index.errors import BundleFormatError
from optimizer.core.config_checks import check_config
from optimizer.core.config_tables import EMPTY, RACED, RECIPES, RunConfig
from optimizer.core.errors import ConfigError
from optimizer.core.model_tables import ModelTable
from optimizer.core.presets import preset
from optimizer.core.request_form import MAX_TOKENS_FIELDS, REPLY_FORMATS, SYSTEM_ROLES, RequestForm

_ROLES: Final = ("task", "optimizer", "judge")
_FIXED_FIELDS: Final = frozenset(("model", "messages", "prompt", "stream"))
"""Fields of a request that [models.ROLE.request] can neither omit nor replace."""
_COUNTS: Final = ("max_tokens", "max_choices", "max_top_logprobs")
_TYPE_NAMES: Final = {str: "a string", int: "a whole number", float: "a number", Path: "a path", bool: "true or false"}


def read_config(path: Path, folder: Path | None = None) -> RunConfig:
    """Read and check run.toml.

    Args:
        path: The file.
        folder: The directory at which relative paths in the file start. None means the directory of the file.

    Raises:
        ConfigError: The file cannot be read, or a table, key or value is wrong.
    """
    try:
        document = parse_toml(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
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
    defaults = preset(_recipe(document))
    tables = {
        name: _parse_table(kind, document.get(name, {}), f"[{name}]", defaults.get(name, {}))
        for name, kind in hints.items()
    }
    config = RunConfig(models=models, **tables)
    check_config(config)
    return _with_folder(config, folder)


def _recipe(document: Mapping[str, Any]) -> str:
    """Return the recipe. It is checked first, because it sets the defaults of all tables."""
    search = document.get("search")
    recipe = search.get("recipe", RACED) if isinstance(search, dict) else RACED
    return str(_one_of(RECIPES, recipe, "[search] recipe"))


def _parse_models(tables: object) -> Mapping[str, ModelTable]:
    if not isinstance(tables, dict) or "task" not in tables:
        raise ConfigError("[models.task] is missing. Give base_url, model and kind of the model to write a bundle for.")
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
        (not form.reply_format or role == "judge", "reply_format has no effect. Set it only in [models.judge.request]"),
        (
            not form.max_tokens or role != "task",
            "max_tokens is not allowed. Set max_tokens in the sampling of the bundle instead",
        ),
        *((getattr(form, name) >= 0, f"{name} must not be negative") for name in _COUNTS),
        (form.max_stop_strings >= -1, "max_stop_strings must be at least 0, or -1 for no maximum"),
        (
            not _FIXED_FIELDS & {*form.omit, *form.extra},
            f"omit and extra must not contain {', '.join(sorted(_FIXED_FIELDS))}",
        ),
        ("n" not in form.extra, "extra must not contain n. Set max_choices instead"),
    ):
        if not is_valid:
            raise ConfigError(f"{location} {message}")


def _parse_table(kind: Any, table: object, location: str, defaults: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """Convert a table to the dataclass `kind`.

    Args:
        kind: The dataclass.
        table: The table.
        location: The name of the table in the message of a ConfigError.
        defaults: Values for keys that the table does not have. They replace the defaults of the dataclass.
    """
    if not isinstance(table, dict):
        raise ConfigError(f"{location} must be a table")
    keys = {key.name: key for key in fields(kind)}
    _refuse_unknown(table, keys, location)
    missing = [name for name, key in keys.items() if name not in {*table, *defaults} and _is_required(key)]
    if missing:
        raise ConfigError(f"{location} {missing[0]} is missing")
    hints = get_type_hints(kind)
    values = {name: dict(value) if isinstance(value, Mapping) else value for name, value in defaults.items()}
    for name, value in table.items():
        default = values[name] if name in values else _default(keys[name])
        values[name] = _parse_value(hints[name], value, f"{location} {name}", default)
    return kind(**values)


def _is_required(key: "Field[Any]") -> bool:
    return key.default is MISSING and key.default_factory is MISSING


def _default(key: "Field[Any]") -> Any:
    if key.default_factory is not MISSING:
        return key.default_factory()
    return None if key.default is MISSING else key.default


def _parse_value(kind: Any, value: Any, location: str, default: Any = None) -> Any:
    """Convert a value to the annotated type `kind`.

    Args:
        kind: The type.
        value: The value.
        location: The name of the value in the message of a ConfigError.
        default: The value that the key would have otherwise. A nested table replaces only the keys that it contains.
    """
    if get_origin(kind) in (Union, UnionType):
        kind = next(option for option in get_args(kind) if option is not type(None))
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{location} must be a list")
        return tuple(_parse_value(get_args(kind)[0], item, location) for item in value)
    if is_dataclass(kind):
        given = {key.name: getattr(default, key.name) for key in fields(kind)} if type(default) is kind else {}
        return _parse_table(kind, value, location, given)
    if get_origin(kind) is Literal:
        return _one_of(get_args(kind), value, location)
    if get_origin(kind) is not None:
        return _parse_mapping(get_args(kind)[1], value, location)
    return value if kind is Any else _parse_plain(kind, value, location)


def _parse_mapping(item_kind: Any, value: Any, location: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{location} must be a table")
    return {str(key): _parse_value(item_kind, item, f"{location}.{key}") for key, item in value.items()}


def _one_of(options: Sequence[Any], value: Any, location: str) -> Any:
    if value not in options:
        raise ConfigError(f"{location} must be one of {', '.join(options)}")
    return value


def _parse_plain(kind: type, value: Any, location: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Path and isinstance(value, str):
        if not value.strip() or any(one in value for one in "\0\n\r"):
            raise ConfigError(f"{location} must be the name of a file, and not {quoted(value)}")
        return Path(value)
    is_of_kind = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
    if not is_of_kind or (kind is float and not isfinite(value)):
        raise ConfigError(f"{location} must be {_TYPE_NAMES[kind]}, not {value!r}")
    return value


def _refuse_unknown(table: Mapping[str, Any], known: Collection[str], location: str) -> None:
    for name in table:
        if name not in known:
            nearest = get_close_matches(name, known, n=1, cutoff=0.0)[0]
            place = location if location.endswith("]") else f"{location}:"
            raise ConfigError(f"{place} {name} is unknown. The nearest known name is {nearest}")


def _with_folder(config: RunConfig, folder: Path) -> RunConfig:
    data = config.data
    validation = folder / data.validation if data.validation else None
    sealed = folder / data.sealed if data.sealed else None
    seeds = folder / data.seeds if data.seeds else None
    pairs = folder / data.preferences if data.preferences else None
    train = folder / data.train
    data = replace(data, train=train, sealed=sealed, validation=validation, seeds=seeds, preferences=pairs)
    start, pool = config.bundle.start, config.examples.pool
    named = start in (DEFAULT_BUNDLE, EMPTY, *shipped_names())
    bundle = config.bundle if named else replace(config.bundle, start=str(folder / start))
    examples = config.examples if pool == DEFAULT_BUNDLE else replace(config.examples, pool=str(folder / pool))
    return replace(config, data=data, bundle=bundle, examples=examples)
