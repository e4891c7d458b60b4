"""Guards that flags win over variables and variables over defaults, and that a wrong value is named."""

import argparse
from pathlib import Path

import pytest

from proxy.api.app import parse_kinds
from proxy.backends.backend import Backend, backend_url
from proxy.core.errors import StartupError
from proxy.core.key_file import read_key
from proxy.core.settings import Settings, parse_settings
from proxy.server.lifecycle import bind


def parsed(arguments: list[str], environment: dict[str, str]) -> Settings:
    return parse_settings(arguments, environment, argparse.ArgumentParser())[0]


def test_flag_wins_over_variable_and_variable_over_default() -> None:
    environment = {"DRPO_PORT": "9000", "DRPO_HOST": "::1", "DRPO_CORS_ORIGIN": "https://a, https://b"}
    settings = parsed(["--port", "9001", "--backend", "http://a", "--backend", "http://b"], environment)
    assert (settings.port, settings.host, settings.backend) == (9001, "::1", ("http://a", "http://b"))
    assert settings.cors_origin == ("https://a", "https://b")
    assert settings.max_in_flight == Settings().max_in_flight


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DRPO_PORT", "many"),
        ("DRPO_READ_TIMEOUT", "soon"),
        ("DRPO_FORWARD_AUTHORIZATION", "maybe"),
        ("DRPO_LOG_FORMAT", "xml"),
    ],
)
def test_wrong_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(StartupError, match=name):
        parsed([], {name: value})


def test_true_variable_sets_a_switch() -> None:
    assert parsed([], {"DRPO_FORWARD_AUTHORIZATION": "yes"}).forward_authorization
    assert not parsed([], {"DRPO_FORWARD_AUTHORIZATION": "0"}).forward_authorization


def test_busy_port_names_the_flag() -> None:
    with bind(Settings(port=0)) as first:
        with pytest.raises(StartupError, match="--port"):
            bind(Settings(port=first.getsockname()[1]))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.test"])
def test_host_open_to_others_is_refused_with_the_flag_that_allows_it(host: str) -> None:
    with pytest.raises(StartupError, match="--allow-unauthenticated"):
        bind(Settings(host=host, port=0))


@pytest.mark.parametrize("port", [70000, -1])
def test_impossible_port_is_refused(port: int) -> None:
    with pytest.raises(StartupError, match="--port"):
        bind(Settings(port=port))


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_backend_url_is_the_root_with_or_without_v1(url: str) -> None:
    assert backend_url(url) == "http://h:1"


@pytest.mark.parametrize("url", ["h:1", "ftp://h", "http://", "http://h#x", "file:///etc/passwd"])
def test_what_is_no_base_url_is_refused(url: str) -> None:
    with pytest.raises(StartupError, match="--backend"):
        backend_url(url)


@pytest.mark.parametrize("url", ["http://[::1", "http://h:abc", "http://h:99999", "http://h:0"])
def test_port_or_address_that_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(StartupError, match="not a base URL"):
        backend_url(url)


@pytest.mark.parametrize("url", ["http://u:SECRET@h", "ftp://u:SECRET@h", "http://h/v1?key=SECRET"])
def test_secret_in_a_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(StartupError, match="--backend-api-key-file") as caught:
        backend_url(url)
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
def test_number_that_nothing_can_be_served_with_is_refused(arguments: list[str]) -> None:
    with pytest.raises(StartupError, match=arguments[0]):
        parsed(arguments, {})


def test_clients_key_does_not_take_the_place_of_the_embedded_models_own() -> None:
    sent = {"Authorization": "Bearer client"}
    own = Backend("http://h:1", "ours", takes_client_keys=False).request("POST", "/v1/x", b"", sent)
    other = Backend("http://h:1", "ours").request("POST", "/v1/x", b"", sent)
    assert (own.headers["Authorization"], other.headers["Authorization"]) == ("Bearer ours", "Bearer client")


@pytest.mark.parametrize("argument", ["chat", "=chat", "m=vision", "m="])
def test_wrong_kind_is_refused(argument: str) -> None:
    with pytest.raises(StartupError, match="--kind"):
        parse_kinds([argument])


def test_kind_of_a_model_whose_name_has_an_equals_sign() -> None:
    assert parse_kinds(["a=b=chat"]) == {"a=b": "chat"}


def test_key_file_is_read_and_its_absence_named(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(" secret \n")
    assert read_key(str(file), "--backend-api-key-file") == "secret"
    with pytest.raises(StartupError, match="cannot be read"):
        read_key(str(tmp_path / "none"), "--backend-api-key-file")
    file.write_text("two\nlines")
    with pytest.raises(StartupError) as caught:
        read_key(str(file), "--backend-api-key-file")
    assert "two" not in str(caught.value)
