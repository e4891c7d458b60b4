"""Declares all settings of the proxy, grouped by the package that uses them.

The module does not depend on those packages. proxy/core/settings_reader.py reads and checks the values. To add a
setting, add a field to the class of its group: its flag, its environment variable and its help are derived from this
field.

For example, the flag --backend-timeout or the environment variable DRPO_BACKEND_TIMEOUT sets the field
`backend_timeout`. The declaration of a field gives its default, its help text and a placeholder for its value, such as
SECONDS. A field whose type is a tuple takes several values: the operator repeats the flag, or separates the values by
commas in the variable.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Final, Literal

from proxy.core.errors import StartupError

Kind = Literal["chat", "completion"]
"""Whether a model takes chat messages (`chat`) or text to complete (`completion`)."""

EMBEDDED: Final = "embedded"
ADMIN_OFF: Final = "off"
_KINDS: Final[Mapping[str, Kind]] = {"chat": "chat", "completion": "completion"}
_MIN_SECONDS: Final = 0.001


def _setting(
    default: object, help_text: str, metavar: str = "N", choices: Sequence[str] = (), minimum: float | None = None
) -> Any:
    """Declare a setting. If `minimum` is None, a float must be at least _MIN_SECONDS; other types have no minimum."""
    if minimum is None and isinstance(default, float):
        minimum = _MIN_SECONDS
    metadata = {"help": help_text, "metavar": metavar, "choices": tuple(choices), "minimum": minimum}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """The model servers and the connections to them."""

    backend: tuple[str, ...] = _setting(
        (EMBEDDED,), "base URL of a vLLM (or other OpenAI-compatible) server, or `embedded`; repeatable", "URL"
    )
    kind: tuple[str, ...] = _setting(
        (),
        "whether a model takes chat or text completions; without this flag, the proxy finds out from the model's "
        "answers",
        "MODEL=chat|completion",
    )
    backend_api_key_file: str = _setting("", "file with the API key to send to backends", "FILE")
    connect_timeout: float = _setting(5.0, "time to connect to a backend", "SECONDS")
    backend_timeout: float = _setting(
        600.0, "longest time without data from a backend: before the first byte, or between tokens", "SECONDS"
    )
    health_interval: float = _setting(5.0, "time between health checks of a backend", "SECONDS", minimum=0.05)
    model_file: str = _setting("", "GGUF file that `embedded` serves in place of the built-in model", "FILE")
    model_name: str = _setting("", "id of the model in --model-file; without this flag, the name in the file", "ID")
    context: int = _setting(
        0,
        "context length of the embedded model; 0 means 4096 or, with --model-file, the length that file and memory "
        "allow",
        "TOKENS",
        minimum=0,
    )

    @property
    def kinds(self) -> Mapping[str, Kind]:
        """The kinds that the operator gave with --kind, by model id."""
        return parse_kinds(self.kind)


@dataclass(frozen=True, slots=True)
class InjectionSettings:
    """The bundles to inject, and the retrieval of their examples.

    If the operator gives no bundle and serves the embedded model, `with_embedded_model` sets `bundle` to `default` for
    this model.
    """

    bundle: tuple[str, ...] = _setting(
        (),
        "bundle to inject: a directory, or a name that `drpo-index list` prints; it serves the model that it was made "
        "for, or the model that MODEL= names; with `default`, each model gets drpo's bundle for it; without this "
        "flag, only the embedded model gets a bundle (`default`); repeatable",
        "[MODEL=]DIR",
    )
    allow_embedder: tuple[str, ...] = _setting(
        (),
        "another embedder (besides multilingual and minilm) that bundles may use; allow only code that you trust, "
        "because it can load a model and sees users' queries; repeatable",
        "NAME",
    )
    retrieval_timeout: float = _setting(
        0.5, "time to find examples; if it passes, the request gets only pinned examples", "SECONDS"
    )
    warm_cache: bool = _setting(
        True,
        "fill the prefix caches of backends before users ask: send each example set at the start and after an outage",
    )


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The processes of the server, and the sockets that they listen on."""

    host: str = _setting("127.0.0.1", "address to listen on", "ADDRESS")
    port: int = _setting(8080, "port to listen on; 0 picks a free one")
    allow_unauthenticated: bool = _setting(
        False, "start without --api-keys-file even if other machines can reach --host"
    )
    workers: int = _setting(
        1, "processes that serve requests; they share the limits of keys and of requests in flight", minimum=1
    )
    admin: str = _setting(
        "127.0.0.1:0",
        "address of the admin listener, which answers POST /admin/reload; port 0 picks a free one",
        "ADDRESS:PORT",
    )
    drain_timeout: float = _setting(30.0, "time for open requests to end at shutdown", "SECONDS", minimum=0)


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Who may call the HTTP interface."""

    api_keys_file: str = _setting(
        "",
        "file with the keys that clients must send; `drpo-proxy new-key NAME` makes a key; read again on SIGHUP",
        "FILE",
    )
    forward_authorization: bool = _setting(False, "send each client's own Authorization header to the backend")
    cors_origin: tuple[str, ...] = _setting(
        (), "web origin whose pages may call the proxy, such as https://app.example; * allows any; repeatable", "ORIGIN"
    )


@dataclass(frozen=True, slots=True)
class AdmissionSettings:
    """Limits on requests: how many, how large and how slow."""

    max_in_flight: int = _setting(256, "requests served at once, by all workers together", minimum=1)
    max_queue: int = _setting(
        128, "requests beyond --max-in-flight that may wait, at most 10 s; more get 503 and Retry-After", minimum=0
    )
    max_body_bytes: int = _setting(8 * 1024 * 1024, "largest request body", "BYTES", minimum=1024)
    read_timeout: float = _setting(
        30.0,
        "longest time for the headers of a request to arrive; its body then gets the same time",
        "SECONDS",
    )
    write_timeout: float = _setting(
        60.0, "time after which a client that reads nothing of its answer is disconnected", "SECONDS"
    )


@dataclass(frozen=True, slots=True)
class ExperimentSettings:
    """Experiments, feedback, and the store for both. `store` is empty if the server stores nothing."""

    experiment: tuple[str, ...] = _setting(
        (), "TOML file of an experiment to run, or a folder of such files; read again on SIGHUP; repeatable", "FILE"
    )
    store: str = _setting(
        "",
        "database for experiments and feedback: sqlite:PATH or postgresql://USER@HOST/NAME (give its password only in "
        "DRPO_STORE or PGPASSWORD); without this flag, --experiment and --store-content use a file in the state folder",
        "PLACE",
    )
    store_content: bool = _setting(
        False,
        "keep the texts of requests and answers in the store, where `drpo-optimizer harvest` reads them; also record "
        "requests in no experiment (--max-stored-requests)",
    )
    max_stored_requests: int = _setting(
        100_000,
        "how many requests in no experiment the store keeps with --store-content; it keeps the latest ones",
        minimum=0,
    )
    trust_user_headers: bool = _setting(
        False,
        "use Open WebUI's header X-OpenWebUI-User-Id as the unit of experiments; safe only if users cannot reach the "
        "proxy directly",
    )
    retention_days: float = _setting(180.0, "time for which the records of experiments and feedback are kept", "DAYS")
    judge: str = _setting(
        "", "base URL of a model server that judges shadow answers of experiments; it gets users' text", "URL"
    )
    judge_api_key_file: str = _setting("", "file with the API key to send to the judge", "FILE")


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The content and the format of the log."""

    log_content: bool = _setting(False, "write the text of requests and answers to the log")
    log_format: str = _setting("auto", "auto: text on a terminal, json elsewhere", "FORMAT", ("auto", "json", "text"))


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, in groups. `build_settings` in settings_reader.py creates and checks them."""

    backends: BackendSettings = field(default_factory=BackendSettings)
    injection: InjectionSettings = field(default_factory=InjectionSettings)
    server: ServerSettings = field(default_factory=ServerSettings)
    api: ApiSettings = field(default_factory=ApiSettings)
    admission: AdmissionSettings = field(default_factory=AdmissionSettings)
    experiments: ExperimentSettings = field(default_factory=ExperimentSettings)
    log: LogSettings = field(default_factory=LogSettings)


def setting_fields() -> dict[str, Field[Any]]:
    """Return the dataclass fields of all settings by name, in the order of their groups."""
    return {setting.name: setting for group in setting_groups().values() for setting in fields(group)}


def settings_from_json(groups: Mapping[str, Mapping[str, Any]]) -> Settings:
    """Return the settings that another process converted with `dataclasses.asdict` and sent as JSON.

    JSON has no tuples, so lists become tuples again.
    """
    return Settings(**{name: group(**_with_tuples(groups[name])) for name, group in setting_groups().items()})


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def parse_kinds(arguments: Sequence[str]) -> dict[str, Kind]:
    """Return the kind of each model, by model id. `arguments` are the values of --kind.

    Raises StartupError unless each argument is MODEL=chat or MODEL=completion.
    """
    kinds = {}
    for argument in arguments:
        model, _, kind = argument.rpartition("=")
        if not model or kind not in _KINDS:
            raise StartupError(f"--kind {argument}: expected MODEL=chat or MODEL=completion.")
        kinds[model] = _KINDS[kind]
    return kinds


def default_store(environment: Mapping[str, str]) -> str:
    """Return the DSN of the default store: a SQLite file in the user's state folder (XDG Base Directory)."""
    folder = environment.get("XDG_STATE_HOME") or "~/.local/state"
    return f"sqlite:{folder}/drpo/experiments.sqlite3"


def variable(name: str) -> str:
    """Return the name of the environment variable for a setting."""
    return f"DRPO_{name.upper()}"


def flag(name: str) -> str:
    """Return the command-line flag for a setting."""
    return f"--{name.replace('_', '-')}"


def setting_groups() -> dict[str, Any]:
    """Return the class of each group of settings, by the name of the group's attribute in Settings."""
    return {group.name: group.default_factory for group in fields(Settings) if group.default_factory is not MISSING}
