"""Tests the command line: its help, and one clear line instead of a stack trace for a mistake of the user."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from index.bundle.bundle import default_bundle_directory
from index.standard_output import READER_ENDED
from proxy.__main__ import main
from proxy.api.auth import new_key


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command in this process until it ends, which takes less time than a process of its own.

    It listens on a free port, unless the arguments name another: other tests and servers may run beside it.
    """
    with redirect_stdout(StringIO()) as output, redirect_stderr(StringIO()) as errors:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
    assert isinstance(ended.value.code, int)
    return subprocess.CompletedProcess(arguments, ended.value.code, output.getvalue(), errors.getvalue())


def start(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command in a process of its own, as users do."""
    command = [sys.executable, "-m", "proxy", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--bakend", "x"], ["--backend", "localhost:8000"], ["new-key", "a"]]
)
def test_command_in_a_process_of_its_own_prints_and_returns_the_same(arguments: list[str]) -> None:
    done = [run(*arguments), start(*arguments)]
    assert len({one.returncode for one in done}) == 1
    key = r"drpo-[\w-]+|[0-9a-f]{64}"
    assert len({re.sub(key, "", one.stdout) for one in done}) == 1
    assert len({re.sub(key, "", one.stderr) for one in done}) == 1


def test_reader_that_ends_early_gives_the_same_exit_code_as_in_the_other_commands() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "proxy", "new-key", "ann"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    os.close(writer)
    assert (done.returncode, READER_ENDED) == (141, 141)
    assert "Traceback" not in done.stderr


def test_help_shows_every_flag_with_its_variable() -> None:
    done = run("--help")
    assert done.returncode == 0
    for word in ("--backend", "DRPO_BACKEND", "--bundle", "--kind", "--port", "check", "@raw"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--backend", "http://127.0.0.1:9", "--bundle", "/no/such/place"], "--bundle /no/such/place"),
        (["--backend", "localhost:8000"], "--backend localhost:8000"),
        (["--backend", "http://127.0.0.1:9", "--kind", "m=vision"], "--kind m=vision"),
        (["--backend", "http://127.0.0.1:9", "--host", "0.0.0.0"], "--allow-unauthenticated"),
        (["--backend", "http://127.0.0.1:9", "--port", "99999"], "--port 99999"),
        (["--backend", "http://127.0.0.1:9", "--backend-api-key-file", "/no/key"], "--backend-api-key-file /no/key"),
        (["--backend", "http://127.0.0.1:9", "--api-keys-file", "/no/keys"], "--api-keys-file /no/keys"),
        (["--backend", "http://127.0.0.1:9", "--judge", "http://127.0.0.1:9"], "--judge"),
        (["--model-file", "/no/model.gguf"], "--model-file /no/model.gguf: no such file"),
        (["check", "--model-file", "/"], "--model-file /: this is a folder"),
        (["--model-name", "m"], "--model-name m"),
        (["--backend", "http://127.0.0.1:9", "--model-file", "/m.gguf"], "--backend embedded"),
        (["new-key", "two words"], "new-key 'two words'"),
    ],
)
def test_mistake_in_flags_is_one_line_that_names_the_flag(arguments: list[str], says: str) -> None:
    done = run(*arguments)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if not line.startswith("...")]) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--admin", "0.0.0.0:0"], "--admin 0.0.0.0:0"),
        (["--admin", "nowhere"], "--admin nowhere"),
        (["--backend-api-key-file", "/no/key"], "--backend-api-key-file /no/key"),
        (["--backend", "embedded", "--model-file", "/no/model.gguf"], "--model-file /no/model.gguf"),
        (["--store", "somewhere"], "--store"),
        (
            ["--store", "sqlite:/tmp/x", "--judge", "http://h", "--judge-api-key-file", "/no/key"],
            "--judge-api-key-file",
        ),
    ],
)
def test_mistake_in_flags_is_reported_before_the_port_is_tried(arguments: list[str], says: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        done = run("--backend", "http://127.0.0.1:9", "--port", str(port), *arguments)
    assert done.returncode == 1
    assert says in done.stderr
    assert "in use" not in done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--bundle", "{spy}"], "--allow-embedder 'openai:http://127.0.0.1:9/v1#spy'"),
        (["--bundle", "m={empty}"], "manifest.json"),
        (["--bundle", "a=default", "--bundle", "a=default"], "two bundles for the model a"),
        (["--experiment", "{experiment}"], "--allow-embedder 'openai:http://127.0.0.1:9/v1#spy'"),
        (["--backend", "embedded", "--context", "300"], "--context 300"),
    ],
)
def test_bundle_that_cannot_be_served_is_reported_before_the_port_is_tried(
    arguments: list[str], says: str, workers: str, tmp_path: Path
) -> None:
    places = {name: str(tmp_path / name) for name in ("spy", "empty", "experiment")}
    _copy_with_remote_embedder(tmp_path / "spy")
    (tmp_path / "empty").mkdir()
    arms = "".join(
        f'[[arms]]\nname = "{name}"\nweight = 1\n{bundle}' for name, bundle in (("a", ""), ("b", 'bundle = "spy"\n'))
    )
    (tmp_path / "experiment").write_text(f'name = "e"\nmetrics = ["x"]\ncontrol = "a"\n{arms}', encoding="utf-8")
    given = [argument.format(**places) for argument in arguments]
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        backend = [] if "--backend" in given else ["--backend", "http://127.0.0.1:9"]
        done = run(*backend, "--store", f"sqlite:{tmp_path}/s", "--port", port, "--workers", workers, *given)
    assert done.returncode == 1
    assert says in done.stderr
    assert "in use" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("context", [[], ["--context", "0"], ["--context", "512"]], ids=str)
def test_embedded_model_with_a_context_that_it_has_passes_the_checks_before_the_port(context: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        done = run("--backend", "embedded", "--port", str(busy.getsockname()[1]), *context)
    assert "in use" in done.stderr


def _copy_with_remote_embedder(bundle: Path) -> None:
    shutil.copytree(default_bundle_directory(), bundle)
    manifest = bundle / "manifest.json"
    manifest.write_text(
        manifest.read_text().replace('"name": "multilingual"', '"name": "openai:http://127.0.0.1:9/v1#spy"')
    )


def test_check_names_a_backend_that_does_not_answer() -> None:
    done = run("check", "--backend", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "problem: http://127.0.0.1:9" in done.stdout
    assert "Traceback" not in done.stderr


def test_unknown_flag_exits_with_a_usage_error() -> None:
    assert run("--bakend", "x").returncode == 2


def test_new_key_prints_its_line_and_the_key_on_different_streams() -> None:
    done = run("new-key", "alice")
    assert done.returncode == 0
    assert re.fullmatch(r"alice [0-9a-f]{64}\n", done.stdout)
    assert "drpo-" in done.stderr
    assert "Its line for --api-keys-file was written to standard output.\n" in done.stderr
    assert run("new-key").returncode == 2
    assert run("serve", "alice").returncode == 2


@pytest.mark.parametrize(("name", "value"), [("DRPO_BACKEND", "ftp://x"), ("DRPO_ADMIN", "x"), ("DRPO_KIND", "x")])
def test_new_key_is_made_whatever_the_other_settings_are(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert run("new-key", "alice").returncode == 0
    assert run("check").returncode == 1


def test_hangup_reloads_the_keys_and_a_mistake_in_them_changes_nothing(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(new_key("alice")[1], encoding="utf-8")
    command = [sys.executable, "-m", "proxy", "--backend", "http://127.0.0.1:9", "--port", "0"]
    command += ["--api-keys-file", str(keys), "--host", "0.0.0.0", "--log-format", "json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        _line_with(process, "Listening on")
        process.send_signal(signal.SIGHUP)
        assert '"keys":1' in _line_with(process, '"event":"reloaded"')
        keys.write_text("a mistake", encoding="utf-8")
        process.send_signal(signal.SIGHUP)
        assert "line 1: expected NAME SHA256" in _line_with(process, '"event":"reload refused"')
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


def _line_with(process: "subprocess.Popen[str]", wanted: str) -> str:
    assert process.stdout is not None
    return next(line for line in process.stdout if wanted in line)


def test_two_bundles_for_one_model_are_refused(tmp_path: Path) -> None:
    done = run("--backend", "http://127.0.0.1:9", "--bundle", "a=default", "--bundle", "a=default")
    assert done.returncode == 1
    assert "two bundles for the model a" in done.stderr


def test_bundle_with_a_remote_embedder_needs_allow_embedder(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    _copy_with_remote_embedder(bundle)
    done = run("--backend", "http://127.0.0.1:9", "--bundle", str(bundle))
    assert done.returncode == 1
    assert "--allow-embedder 'openai:http://127.0.0.1:9/v1#spy'" in done.stderr
    allowed = ("--allow-embedder", "openai:http://127.0.0.1:9/v1#spy")
    done = run("--backend", "http://127.0.0.1:9", "--bundle", str(bundle), *allowed)
    assert done.returncode == 1
    assert "127.0.0.1:9" in done.stderr
    assert "--allow-embedder" not in done.stderr, "the embedder was allowed, and then asked"
