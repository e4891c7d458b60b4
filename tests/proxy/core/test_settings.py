"""Guards the precedence of flags over variables and defaults, and the errors for invalid values."""

import argparse
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.api.sockets import bind
from proxy.backends.backend import Backend
from proxy.core.addresses import server_root
from proxy.core.errors import StartupError
from proxy.core.key_file import read_key
from proxy.core.settings import (
    AdmissionSettings,
    ServerSettings,
    Settings,
    flag,
    parse_kinds,
    setting_fields,
    settings_from_json,
    variable,
)
from proxy.core.settings_reader import check_reachability, parse_settings
from tests.proxy.serving import make_settings


def parsed(arguments: list[str], environment: dict[str, str]) -> Settings:
    return parse_settings(arguments, environment, argparse.ArgumentParser())[0]


def test_flag_has_precedence_over_variable_and_variable_over_default() -> None:
    environment = {"DRPO_PORT": "9000", "DRPO_HOST": "::1", "DRPO_CORS_ORIGIN": "https://a, https://b"}
    settings = parsed(["--port", "9001", "--backend", "http://a", "--backend", "http://b"], environment)
    assert (settings.server.port, settings.server.host) == (9001, "::1")
    assert settings.backends.backend == ("http://a", "http://b")
    assert settings.api.cors_origin == ("https://a", "https://b")
    assert settings.admission == AdmissionSettings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DRPO_PORT", "many"),
        ("DRPO_READ_TIMEOUT", "soon"),
        ("DRPO_FORWARD_AUTHORIZATION", "maybe"),
        ("DRPO_LOG_FORMAT", "xml"),
    ],
)
def test_invalid_variable_is_named_in_the_error(name: str, value: str) -> None:
    with pytest.raises(StartupError, match=name):
        parsed([], {name: value})


@pytest.mark.parametrize("name", sorted(setting_fields()))
@pytest.mark.parametrize("value", ["tcp://10.96.0.12:80", "udp://10.96.0.12:53", "sctp://[fd00::1]:9"])
def test_variable_that_kubernetes_sets_for_a_service_is_named_with_what_to_do(name: str, value: str) -> None:
    with pytest.raises(StartupError, match=rf"{variable(name)}: .*enableServiceLinks: false.*{flag(name)}"):
        parsed([], {variable(name): value})


def test_flag_is_used_whatever_kubernetes_sets_for_a_service() -> None:
    assert parsed(["--port", "9000"], {"DRPO_PORT": "tcp://10.96.0.12:80"}).server.port == 9000


def test_variable_with_true_sets_a_switch() -> None:
    assert parsed([], {"DRPO_FORWARD_AUTHORIZATION": "yes"}).api.forward_authorization
    assert not parsed([], {"DRPO_FORWARD_AUTHORIZATION": "0"}).api.forward_authorization


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ([], {}, True),
        (["--no-warm-cache"], {}, False),
        ([], {"DRPO_WARM_CACHE": "off"}, False),
        (["--warm-cache"], {"DRPO_WARM_CACHE": "off"}, True),
    ],
)
def test_switch_that_is_on_by_default_can_be_turned_off(
    arguments: list[str], environment: dict[str, str], expected: bool
) -> None:
    assert parsed(arguments, environment).injection.warm_cache is expected


def test_busy_port_is_reported_with_the_flag() -> None:
    with bind(ServerSettings(port=0)) as first:
        with pytest.raises(StartupError, match="--port"):
            bind(ServerSettings(port=first.getsockname()[1]))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.test"])
def test_public_host_is_refused_with_the_flag_that_allows_it(host: str) -> None:
    with pytest.raises(StartupError, match="--allow-unauthenticated"):
        check_reachability(make_settings(host=host))


@pytest.mark.parametrize("port", [70000, -1])
def test_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(StartupError, match="--port"):
        make_settings(port=port)


ROOTS = [
    *("http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/", "http://h:1/v1/chat/completions"),
    *("http://h:1/v1/v1", "http://h:1/V1/", " http://h:1/v1\n"),
    *("http://h:1/v1/completions/", "http://h:1/v1/responses", "http://h:1/v1/models", "http://h:1/chat/completions"),
]


@pytest.mark.parametrize("url", ROOTS)
def test_backend_url_is_the_root_or_the_url_of_v1_or_of_an_endpoint(url: str) -> None:
    assert server_root(url) == "http://h:1"


@pytest.mark.parametrize(
    "url",
    ["h:1", "ftp://h", "http://", "http://h#x", "http://h#", "http://h,http://g", "http://h /v1", "file:///etc/passwd"],
)
def test_backend_url_that_is_no_base_url_is_refused(url: str) -> None:
    with pytest.raises(StartupError, match="--backend"):
        server_root(url)


@pytest.mark.parametrize("url", ["http://[::1", "http://h:abc", "http://h:99999", "http://h:0"])
def test_backend_url_with_an_invalid_port_or_address_is_refused(url: str) -> None:
    with pytest.raises(StartupError, match="this is not a base URL"):
        server_root(url)


@pytest.mark.parametrize("url", ["http://u:SECRET@h", "ftp://u:SECRET@h", "http://h/v1?key=SECRET"])
def test_backend_url_with_a_secret_is_refused_without_printing_it(url: str) -> None:
    with pytest.raises(StartupError, match="--backend-api-key-file") as caught:
        server_root(url)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--max-in-flight", "0"],
        ["--max-body-bytes", "-1"],
        ["--health-interval", "0"],
        ["--backend-timeout", "nan"],
        ["--read-timeout", "inf"],
        ["--drain-timeout", "-1"],
        ["--retrieval-timeout", "0"],
    ],
)
def test_number_out_of_range_is_refused(arguments: list[str]) -> None:
    with pytest.raises(StartupError, match=arguments[0]):
        parsed(arguments, {})


def test_client_key_does_not_replace_the_key_of_the_embedded_model() -> None:
    sent = {"Authorization": "Bearer client"}
    own = Backend("http://h:1", "ours", takes_client_keys=False).request("POST", "/v1/x", b"", sent)
    other = Backend("http://h:1", "ours").request("POST", "/v1/x", b"", sent)
    assert (own.headers["Authorization"], other.headers["Authorization"]) == ("Bearer ours", "Bearer client")


@pytest.mark.parametrize("argument", ["chat", "=chat", "m=vision", "m="])
def test_unknown_kind_is_refused(argument: str) -> None:
    with pytest.raises(StartupError, match="--kind"):
        parse_kinds([argument])


def test_kind_flag_accepts_a_model_name_with_an_equals_sign() -> None:
    assert parse_kinds(["a=b=chat"]) == {"a=b": "chat"}


def test_key_file_is_read_and_a_missing_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(" secret \n")
    assert read_key(str(file), "--backend-api-key-file") == "secret"
    with pytest.raises(StartupError, match="cannot be read"):
        read_key(str(tmp_path / "none"), "--backend-api-key-file")
    file.write_text("two\nlines")
    with pytest.raises(StartupError) as caught:
        read_key(str(file), "--backend-api-key-file")
    assert "two" not in str(caught.value)


def test_settings_are_equal_after_json() -> None:
    settings = make_settings(backend=("http://h:1/v1", "embedded"), kind=("m=chat",), experiment=("a.toml",), port=0)
    assert settings_from_json(orjson.loads(orjson.dumps(asdict(settings)))) == settings


def test_store_has_a_default_that_depends_on_other_settings() -> None:
    settings = parsed(["--experiment", "a.toml"], {"XDG_STATE_HOME": "/state"})
    assert settings.experiments.store == "sqlite:/state/drpo/experiments.sqlite3"
    other = parsed(["--backend", "http://h:1/v1"], {})
    assert (other.experiments.store, other.injection.bundle, other.backends.backend) == ("", (), ("http://h:1",))


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"backend": ()}, "--backend"),
        ({"backend": ("h:1",)}, "--backend h:1"),
        ({"kind": ("m=vision",)}, "--kind m=vision"),
        ({"admin": "127.0.0.1"}, "--admin 127.0.0.1: expected ADDRESS:PORT"),
        ({"admin": "127.0.0.1:70000"}, "--admin 70000: a port is"),
        ({"judge": "http://h:1"}, "--judge: there is nothing to judge"),
        ({"trust_user_headers": True, "store": "sqlite:s"}, "only with --experiment or --store-content"),
        ({"judge": "h:1", "experiment": ("a.toml",)}, "--judge h:1: this is not a base URL"),
        ({"judge": "http://h:1?key=x"}, "Give --judge-api-key-file FILE"),
    ],
)
def test_wrong_value_or_contradiction_is_refused_with_its_flag(values: dict[str, Any], flag: str) -> None:
    with pytest.raises(StartupError, match=re.escape(flag)):
        make_settings(**values)


@pytest.mark.parametrize("admin", ["0.0.0.0:0", "[::]:0", "192.0.2.1:9"])
def test_reachable_admin_listener_is_refused(admin: str) -> None:
    with pytest.raises(StartupError, match="--admin"):
        check_reachability(make_settings(admin=admin))
    check_reachability(make_settings(admin=admin, allow_unauthenticated=True))
    check_reachability(make_settings(admin="off"))


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("*", "*"),
        ("null", "null"),
        ("https://app.test", "https://app.test"),
        ("https://app.test/", "https://app.test"),
        ("HTTPS://App.Test", "https://app.test"),
        ("https://app.test:443", "https://app.test"),
        ("http://app.test:80/", "http://app.test"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://[0:0:0:0:0:0:0:1]:3000", "http://[::1]:3000"),
        ("http://[2001:DB8::0:1]", "http://[2001:db8::1]"),
        ("http://127.1:3000", "http://127.0.0.1:3000"),
        ("http://0x7f.1", "http://127.0.0.1"),
        ("https://b\u00fccher.example", "https://xn--bcher-kva.example"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("tauri://localhost", "tauri://localhost"),
    ],
)
def test_origin_is_put_into_the_form_that_browsers_send(given: str, sent: str) -> None:
    assert make_settings(cors_origin=(given,)).api.cors_origin == (sent,)


@pytest.mark.parametrize(
    "given",
    [
        *("app.test", "localhost:3000", "https://app.test/page", "https://app.test?x", "https://app.test#x"),
        *("https://*.app.test", "https://", "https://a,https://b", "https://user@app.test", "file://", "http://a:b"),
        *(
            "https://stra\u00dfe.example",
            "http://[::g]",
            "http://1.2.3.4.5",
            "https://app test",
            "https:/app.test",
            "**",
            "",
            "http://a:99999",
            "https://app.test/*",
        ),
    ],
)
def test_origin_that_no_browser_sends_is_refused(given: str) -> None:
    with pytest.raises(StartupError, match="--cors-origin"):
        make_settings(cors_origin=(given,))


def test_key_of_a_judge_that_is_not_used_is_refused() -> None:
    with pytest.raises(StartupError, match="--judge URL"):
        make_settings(judge_api_key_file="key")
