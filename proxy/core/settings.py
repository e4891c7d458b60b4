"""Every setting once: its flag, its environment variable, its default and its help. Knows nothing of what uses them."""

import argparse
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Final
from urllib.parse import urlsplit

from proxy.core.errors import StartupError

EMBEDDED: Final = "embedded"
ADMIN_OFF: Final = "off"
OWN: Final = "own"


def _setting(default: object, help_text: str, metavar: str = "N", choices: Sequence[str] = ()) -> Any:
    metadata = {"help": help_text, "metavar": metavar, "choices": tuple(choices)}
    if isinstance(default, tuple):
        return field(default_factory=lambda: default, metadata=metadata)
    return field(default=default, metadata=metadata)


_LEAST: Final[Mapping[str, float]] = {
    "workers": 1,
    "max_in_flight": 1,
    "max_queue": 0,
    "max_body_bytes": 1024,
    "context": 256,
    "health_interval": 0.05,
    "drain_timeout": 0,
}
_LEAST_SECONDS: Final = 0.001


@dataclass(frozen=True, slots=True)
class Settings:
    """The table. A flag is the field's name with dashes, the variable DRPO_ and the name in capitals; times in seconds.

    A tuple is given by repeating the flag, or as a comma-separated variable.
    """

    backend: tuple[str, ...] = _setting(
        ("embedded",), "base URL of a vLLM (or other OpenAI-compatible) server, or `embedded`; repeatable", "URL"
    )
    bundle: tuple[str, ...] = _setting(
        (),
        "bundle to inject: DIR, MODEL=DIR, or `default`, which the embedded model gets anyway; repeatable",
        "[MODEL=]DIR",
    )
    allow_embedder: tuple[str, ...] = _setting(
        (),
        "embedder besides `onnx` that a bundle may name: it loads a model or sees every query; repeatable",
        "NAME",
    )
    query_embedder: str = _setting(
        OWN,
        "own: queries are embedded by what made the bundle's vectors; fast: by its student, for bundles made by `onnx`",
        "NAME",
        (OWN, "fast"),
    )
    kind: tuple[str, ...] = _setting(
        (), "say whether a model takes chat or text completions, instead of asking the backend", "MODEL=chat|completion"
    )
    host: str = _setting("127.0.0.1", "address to listen on", "ADDRESS")
    port: int = _setting(8080, "port to listen on; 0 picks a free one")
    allow_unauthenticated: bool = _setting(False, "allow a --host that other machines can reach")
    api_keys_file: str = _setting(
        "", "file of the keys that clients must show, made with `drpo-proxy new-key NAME`; read again on SIGHUP", "FILE"
    )
    backend_api_key_file: str = _setting("", "file with the API key to send to backends", "FILE")
    forward_authorization: bool = _setting(False, "send each client's own Authorization header to the backend")
    cors_origin: tuple[str, ...] = _setting((), "web origin allowed to call from a browser; repeatable", "ORIGIN")
    workers: int = _setting(1, "processes that serve; they agree on keys' limits and on requests in flight")
    admin: str = _setting(
        "127.0.0.1:0", "where POST /admin/reload is answered; port 0 picks a free one", "ADDRESS:PORT"
    )
    max_in_flight: int = _setting(256, "requests served at once, by all workers together")
    max_queue: int = _setting(128, "requests beyond them that wait, at most 10 s; more get 503 and Retry-After")
    max_body_bytes: int = _setting(8 * 1024 * 1024, "largest request body", "BYTES")
    read_timeout: float = _setting(30.0, "time for a request's headers to arrive, and then for its body", "SECONDS")
    write_timeout: float = _setting(60.0, "longest time that a client may not read its answer", "SECONDS")
    connect_timeout: float = _setting(5.0, "time to connect to a backend", "SECONDS")
    backend_timeout: float = _setting(
        600.0, "longest silence of a backend: to the first byte, between tokens", "SECONDS"
    )
    retrieval_timeout: float = _setting(0.5, "time to find examples; after it, the prompt goes alone", "SECONDS")
    health_interval: float = _setting(5.0, "time between health checks of a backend", "SECONDS")
    drain_timeout: float = _setting(30.0, "time for open requests to end at shutdown", "SECONDS")
    context: int = _setting(4096, "context of the embedded model", "TOKENS")
    experiment: tuple[str, ...] = _setting(
        (), "experiment to run (TOML): who gets which variant; read again on SIGHUP; repeatable", "FILE"
    )
    store: str = _setting(
        "",
        "where experiments and feedback are kept: sqlite:PATH, or postgresql://USER@HOST/NAME (its password in "
        "the variable, or PGPASSWORD); with --experiment alone, a file in the state folder",
        "PLACE",
    )
    retention_days: float = _setting(180.0, "time that experiments and feedback are kept", "DAYS")
    judge: str = _setting(
        "", "base URL of a model server that may see users' text, to judge shadow answers of experiments", "URL"
    )
    judge_api_key_file: str = _setting("", "file with the API key to send to the judge", "FILE")
    log_content: bool = _setting(False, "write what clients ask and are answered to the log; off, none of it is")
    log_format: str = _setting("auto", "auto: text on a terminal, json elsewhere", "FORMAT", ("auto", "json", "text"))


def parse_settings(
    arguments: Sequence[str], environment: Mapping[str, str], parser: argparse.ArgumentParser
) -> tuple[Settings, argparse.Namespace]:
    """Fill `parser` with the table and read flags over variables over defaults.

    Raises StartupError for a variable that does not parse; a bad flag is argparse's own exit.
    """
    for setting in fields(Settings):
        _add_flag(parser, setting)
    namespace = parser.parse_args(arguments)
    refuse_password(namespace.store)
    values = {
        setting.name: _value(setting, getattr(namespace, setting.name), environment) for setting in fields(Settings)
    }
    _check_ranges(values)
    return Settings(**values), namespace


def _check_ranges(values: Mapping[str, Any]) -> None:
    """Raise StartupError for a number that is none, or too small to serve with."""
    for name, value in values.items():
        least = _LEAST.get(name, _LEAST_SECONDS if isinstance(value, float) else None)
        if least is not None and not least <= value < math.inf:
            raise StartupError(f"{flag(name)} {value:g}: give a number of at least {least:g}.")


def bundle_arguments(settings: Settings) -> tuple[str, ...]:
    """The bundles to load: those asked for; the default one where only the embedded model is served."""
    return settings.bundle or (("default",) if EMBEDDED in settings.backend else ())


def store_argument(settings: Settings) -> str:
    """Where experiments and feedback are kept; "" where nothing asks for it."""
    return settings.store or (default_store(process_environment()) if settings.experiment else "")


def default_store(environment: Mapping[str, str]) -> str:
    """The store of someone who named none: a file where programs keep their state (XDG Base Directory)."""
    folder = environment.get("XDG_STATE_HOME") or "~/.local/state"
    return f"sqlite:{folder}/drpo/experiments.sqlite3"


def refuse_password(store: str | None) -> None:
    """Raise StartupError for a password in a flag, which everyone on the machine can read, and shells remember."""
    found = urlsplit(store or "") if "://" in (store or "") else None
    if found is not None and (found.password or "password=" in found.query):
        raise StartupError(
            f"--store: a password in a flag is seen by everyone: give the URL as {variable('store')}, or the password "
            "as PGPASSWORD or in a file (PGPASSFILE)."
        )


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"DRPO_{name.upper()}"


def flag(name: str) -> str:
    """The command line flag of a setting."""
    return f"--{name.replace('_', '-')}"


def _default(setting: Field[Any]) -> Any:
    return setting.default if setting.default_factory is MISSING else setting.default_factory()


def _add_flag(parser: argparse.ArgumentParser, setting: Field[Any]) -> None:
    default = _default(setting)
    shown = ", ".join(default) if isinstance(default, tuple) else default
    help_text = f"{setting.metadata['help']} [{shown if shown != '' else 'none'}; {variable(setting.name)}]"
    if isinstance(default, bool):
        help_text = f"{setting.metadata['help']} [{variable(setting.name)}]"
        parser.add_argument(flag(setting.name), action="store_true", default=None, help=help_text)
        return
    parser.add_argument(
        flag(setting.name),
        action="append" if isinstance(default, tuple) else "store",
        type=str if isinstance(default, tuple) else type(default),
        metavar=setting.metadata["metavar"],
        choices=setting.metadata["choices"] or None,
        default=None,
        help=help_text,
    )


def _value(setting: Field[Any], given: Any, environment: Mapping[str, str]) -> Any:
    default = _default(setting)
    if given is not None:
        return tuple(given) if isinstance(default, tuple) else given
    text = environment.get(variable(setting.name), "")
    if not text:
        return default
    try:
        value = _reader(default)(text)
    except ValueError as error:
        raise StartupError(f"{variable(setting.name)}: {text!r} is not {_kind(default)}.") from error
    choices = setting.metadata["choices"]
    if choices and value not in choices:
        raise StartupError(f"{variable(setting.name)}: {text!r} is not one of {', '.join(choices)}.")
    return value


def _reader(default: object) -> Callable[[str], object]:
    if isinstance(default, bool):
        return _read_bool
    if isinstance(default, tuple):
        return lambda text: tuple(part.strip() for part in text.split(",") if part.strip())
    return type(default)


def _read_bool(text: str) -> bool:
    if text.lower() in {"1", "true", "yes", "on"}:
        return True
    if text.lower() in {"0", "false", "no", "off"}:
        return False
    raise ValueError(text)


def _kind(default: object) -> str:
    if isinstance(default, bool):
        return "true or false"
    return "a whole number" if isinstance(default, int) else "a number"


def process_environment() -> Mapping[str, str]:
    """The variables of this process."""
    return os.environ
