"""Creates the settings from flags and environment variables, and checks all values.

The module also fills in the defaults that depend on other settings. It reads no files and opens no sockets:
proxy/server/lifecycle.py checks the files that settings name.
"""

import argparse
import math
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import Field, fields, replace
from typing import Any, Final

from index.store_address import has_password
from proxy.core.addresses import check_port, is_loopback, server_root, split_address, web_origin
from proxy.core.errors import StartupError
from proxy.core.settings import (
    ADMIN_OFF,
    EMBEDDED,
    BackendSettings,
    Settings,
    default_store,
    flag,
    parse_kinds,
    setting_fields,
    setting_groups,
    variable,
)

_SERVICE_LINK: Final = re.compile(r"(?:tcp|udp|sctp)://")  # the protocols of a Service's ports in Kubernetes


def parse_settings(
    arguments: Sequence[str], environment: Mapping[str, str], parser: argparse.ArgumentParser
) -> tuple[Settings, argparse.Namespace]:
    """Read, group and check all settings.

    Args:
        arguments: The command line.
        environment: The environment variables.
        parser: The parser to which the flags are added. It may define other arguments too.

    Returns:
        The settings, and all parsed arguments.

    Raises:
        StartupError: A variable cannot be parsed, or a value is not valid.
        SystemExit: argparse cannot parse a flag.
    """
    values, namespace = read_flags(arguments, environment, parser)
    return build_settings(values, environment), namespace


def read_flags(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    parser: argparse.ArgumentParser,
    hidden: Collection[str] = (),
) -> tuple[Mapping[str, Any], argparse.Namespace]:
    """Read the values of all settings, without checking them.

    A flag takes precedence over an environment variable, and a variable over the default.

    Args:
        arguments: The command line.
        environment: The environment variables.
        parser: The parser to which the flags are added. It may define other arguments too.
        hidden: The names of settings whose flags are accepted, but not shown in the help.

    Returns:
        The values by the names of their settings, and all parsed arguments.

    Raises:
        StartupError: A variable cannot be parsed.
        SystemExit: argparse cannot parse a flag.
    """
    settings = setting_fields()
    for setting in settings.values():
        _add_flag(parser, setting, is_shown=setting.name not in hidden)
    namespace = parser.parse_args(arguments)
    refuse_password(namespace.store)
    return {
        name: _value(setting, getattr(namespace, name), environment) for name, setting in settings.items()
    }, namespace


def build_settings(values: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """Group the values, fill in the defaults that depend on other settings, and check everything.

    Args:
        values: The values by the names of the settings. A setting that is missing keeps its default.
        environment: The environment variables. XDG_STATE_HOME decides where the default store is.

    Raises:
        StartupError: A value is not valid, or two settings contradict each other.
        TypeError: A name is not the name of a setting.
    """
    if unknown := values.keys() - setting_fields().keys():
        raise TypeError(f"no such settings: {sorted(unknown)}")
    _check_ranges(values)
    groups = {
        name: group(**{setting.name: values[setting.name] for setting in fields(group) if setting.name in values})
        for name, group in setting_groups().items()
    }
    settings = _with_dependent_defaults(Settings(**groups), environment)
    _check_values(settings)
    return settings


def check_reachability(settings: Settings) -> None:
    """Raise StartupError if other machines can reach a listener that requires no key.

    With --allow-unauthenticated, the operator accepts such a listener, and the function raises no error. Only commands
    that start a server call the function.
    """
    server = settings.server
    if server.allow_unauthenticated:
        return
    if not settings.api.api_keys_file and not is_loopback(server.host):
        raise StartupError(
            f"Other machines can reach --host {server.host}, and no key is required. Give --api-keys-file FILE, keep "
            "--host 127.0.0.1, or give --allow-unauthenticated if a proxy in front requires keys."
        )
    if server.admin != ADMIN_OFF and not is_loopback(split_address(server.admin, "--admin")[0]):
        raise StartupError(
            f"Other machines can reach --admin {server.admin}, which requires no key. Keep it on 127.0.0.1, or give "
            "--allow-unauthenticated if a proxy in front requires keys."
        )


def refuse_password(store: str | None) -> None:
    """Raise StartupError if the URL in --store contains a password.

    Other users of the machine can read the flags of a process, and shells save command lines in their history.
    """
    if has_password(store or ""):
        raise StartupError(
            f"--store: other users can read a password in a flag. Give the URL in the variable {variable('store')}, "
            "or give the password in the variable PGPASSWORD or in a file (PGPASSFILE)."
        )


def process_environment() -> Mapping[str, str]:
    """Return the environment variables of this process."""
    return os.environ


def _add_flag(parser: argparse.ArgumentParser, setting: Field[Any], *, is_shown: bool) -> None:
    default = setting.default
    if isinstance(default, bool):
        state = f"[{'on; ' if default else ''}{variable(setting.name)}]"
        help_text = f"{setting.metadata['help']} {state}" if is_shown else argparse.SUPPRESS
        action: Any = argparse.BooleanOptionalAction if default else "store_true"
        parser.add_argument(flag(setting.name), action=action, default=None, help=help_text)
        return
    default_text = ", ".join(default) if isinstance(default, tuple) else str(default)
    help_text = f"{setting.metadata['help']} [{default_text or 'none'}; {variable(setting.name)}]"
    parser.add_argument(
        flag(setting.name),
        action="append" if isinstance(default, tuple) else "store",
        type=str if isinstance(default, tuple) else type(default),
        metavar=setting.metadata["metavar"],
        choices=setting.metadata["choices"] or None,
        default=None,
        help=help_text if is_shown else argparse.SUPPRESS,
    )


def _value(setting: Field[Any], given: Any, environment: Mapping[str, str]) -> Any:
    """Return the value of a setting: from its flag, else from its environment variable, else its default.

    `given` is the parsed value of the flag; None if the operator did not give the flag. The function raises
    StartupError if the text of the variable is not valid.
    """
    default = setting.default
    if given is not None:
        return tuple(given) if isinstance(default, tuple) else given
    text = read_variable(setting.name, environment)
    if not text:
        return default
    try:
        value = _parser_of(default)(text)
    except ValueError as error:
        raise StartupError(f"{variable(setting.name)}: {text!r} is not {_type_name(default)}.") from error
    choices = setting.metadata["choices"]
    if choices and value not in choices:
        raise StartupError(f"{variable(setting.name)}: {text!r} is not one of {', '.join(choices)}.")
    return value


def read_variable(name: str, environment: Mapping[str, str]) -> str:
    """Return the text of the environment variable of a setting, or an empty text if the variable is not set.

    Kubernetes sets variables for each Service of a namespace (service links). For a Service named `drpo`, it sets
    DRPO_PORT to an address such as tcp://10.0.0.1:80.

    Raises:
        StartupError: Kubernetes has set the variable for a Service.
    """
    text = environment.get(variable(name), "")
    if _SERVICE_LINK.match(text):
        raise StartupError(
            f"{variable(name)}: {text!r} is the address of a Service, and Kubernetes set the variable to it. "
            f"Set `enableServiceLinks: false` in the spec of the pod, rename the Service, or give {flag(name)}."
        )
    return text


def _parser_of(default: object) -> Callable[[str], object]:
    """Return a function that converts the text of a variable to the type of the default value.

    The returned function raises ValueError if it cannot convert the text.
    """
    if isinstance(default, bool):
        return _parse_bool
    if isinstance(default, tuple):
        return _split_list
    return type(default)


def read_list(name: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values in the environment variable of a setting that takes several values."""
    return _split_list(read_variable(name, environment))


def _split_list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _parse_bool(text: str) -> bool:
    if text.lower() in {"1", "true", "yes", "on"}:
        return True
    if text.lower() in {"0", "false", "no", "off"}:
        return False
    raise ValueError(text)


def _type_name(default: object) -> str:
    if isinstance(default, bool):
        return "true or false"
    return "a whole number" if isinstance(default, int) else "a number"


def _check_ranges(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        minimum = setting_fields()[name].metadata["minimum"]
        if minimum is not None and not minimum <= value < math.inf:
            raise StartupError(f"{flag(name)} {value:g}: give a number of at least {minimum:g}.")


def _with_dependent_defaults(settings: Settings, environment: Mapping[str, str]) -> Settings:
    """Return the settings with normalized URLs and origins, and with the default store filled in.

    The default store is used if the operator gave no --store, but --experiment or --store-content.
    """
    backends, experiments = settings.backends, settings.experiments
    urls = tuple(url if url == EMBEDDED else server_root(url) for url in backends.backend)
    needs_store = experiments.experiment or experiments.store_content
    store = experiments.store or (default_store(environment) if needs_store else "")
    origins = tuple(web_origin(origin, flag("cors_origin")) for origin in settings.api.cors_origin)
    judge = server_root(experiments.judge, flag("judge")) if experiments.judge else ""
    return replace(
        settings,
        backends=replace(backends, backend=urls),
        api=replace(settings.api, cors_origin=origins),
        experiments=replace(experiments, store=store, judge=judge),
    )


def _check_values(settings: Settings) -> None:
    """Raise StartupError for a value that cannot be parsed, or for settings that contradict each other."""
    if not settings.backends.backend:
        raise StartupError("--backend: give the base URL of a model server, or `embedded`.")
    parse_kinds(settings.backends.kind)
    _check_model_file(settings.backends)
    check_port(settings.server.port, flag("port"))
    if settings.server.admin != ADMIN_OFF:
        split_address(settings.server.admin, flag("admin"))
    if settings.api.api_keys_file and settings.api.forward_authorization:
        raise StartupError(
            "--forward-authorization would send the keys of --api-keys-file to the backend. Give one of the two flags."
        )
    if settings.experiments.judge and not settings.experiments.store:
        raise StartupError("--judge: there is nothing to judge without an experiment. Give --experiment FILE.")
    if settings.experiments.judge_api_key_file and not settings.experiments.judge:
        raise StartupError("--judge-api-key-file: there is no judge that gets this key. Give --judge URL.")
    needs_users = settings.experiments.experiment or settings.experiments.store_content
    if settings.experiments.trust_user_headers and not needs_users:
        raise StartupError(
            "--trust-user-headers has an effect only with --experiment or --store-content. Give one of them."
        )


def _check_model_file(backends: BackendSettings) -> None:
    if backends.model_name and not backends.model_file:
        raise StartupError(f"--model-name {backends.model_name}: it names the model of --model-file. Give both.")
    if backends.model_file and EMBEDDED not in backends.backend:
        raise StartupError(f"--model-file {backends.model_file}: only --backend embedded serves it. Give both.")
