"""Tests that the tests do not depend on the machine: its ports, environment variables, home folder and paths."""

import ast
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.neutral import ROOT, neutral_environment

TESTS = Path(__file__).parent
MODULES = sorted(path for path in TESTS.rglob("*.py") if "bench" not in path.relative_to(TESTS).parts)
LISTENS = {"create_server", "start_server", "TCPSite", "HTTPServer", "ThreadingHTTPServer"}
PORT_FLAGS = {"--port", "--admin", "DRPO_PORT", "DRPO_ADMIN"}
PORTS = range(1, 65536)
FOREIGN = {
    **dict.fromkeys(("DRPO_PORT", "DRPO_BACKEND", "DRPO_NEW_SETTING", "TZ", "COLUMNS", "FORCE_COLOR", "CDPATH"), "1"),
    **dict.fromkeys(("https_proxy", "HTTP_PROXY", "all_proxy", "NO_PROXY", "ftp_proxy"), "http://127.0.0.1:9"),
    **dict.fromkeys(("OPENAI_API_KEY", "OPENAI_BASE_URL", "HF_HOME", "VLLM_PORT", "OTEL_SDK_DISABLED"), "x"),
    **dict.fromkeys(("LC_ALL", "LC_NUMERIC", "LANG", "LANGUAGE", "PGHOST", "PGPASSWORD", "XDG_STATE_HOME"), "x"),
    **dict.fromkeys(("PYTHONWARNINGS", "PYTHONHASHSEED", "PYTHONPATH", "GIT_DIR", "MAKEFLAGS", "MAKELEVEL"), "x"),
    "TMPDIR": "/tmp/" + 60 * "x",
}


def test_variables_of_the_user_are_left_out_and_those_of_the_cache_and_the_data_stay() -> None:
    ours = {"PATH": "/bin", "USER": "me", "HOME": "/h", "DRPO_DATA": "/d", "SSL_CERT_FILE": "/c", "PIP_INDEX_URL": "u"}
    found = neutral_environment({**ours, **FOREIGN}, Path("/new"))
    saved = found.pop("DRPO_TESTS_OUTSIDE")
    assert '"https_proxy"' in saved
    fixed = {"HOME": "/new", "LC_ALL": "C.UTF-8", "TZ": "UTC", "DRPO_PORT": "0", "XDG_CACHE_HOME": "/h/.cache"}
    assert found == {**ours, **fixed}
    assert neutral_environment({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, Path("/new"))["XDG_CACHE_HOME"] == "/c"


def test_this_process_and_its_children_have_neutral_surroundings() -> None:
    assert time.tzname[0] == "UTC"
    assert not [name for name in os.environ if name.lower().endswith("_proxy")]
    report = "import os; old = os.umask(0); print(oct(old), os.environ['TZ'], os.environ['DRPO_PORT'])"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0o22", "UTC", "0"]


@pytest.mark.parametrize(("cache", "is_kept"), [("cache", True), ("file/cache", False)])
def test_byte_code_is_kept_outside_the_clone(cache: str, is_kept: bool, tmp_path: Path) -> None:
    """If no cache folder can be made, the user's PYTHONDONTWRITEBYTECODE applies, and Python writes no byte code."""
    (tmp_path / "file").touch()
    report = "import os, sys; print(sys.dont_write_bytecode, sys.pycache_prefix)"
    program = f"""
import subprocess, sys
from tests import neutral
neutral.apply()
{report}
print(flush=True)
subprocess.run([sys.executable, "-c", {report!r}], check=True)
"""
    ours = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "XDG_CACHE_HOME": str(tmp_path / cache)}
    ours = {name: ours[name] for name in ours.keys() - {"PYTHONPYCACHEPREFIX", "DRPO_TESTS_OUTSIDE"}}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=ours, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    this, child = done.stdout.split("\n\n")
    assert this.strip() == child.strip()
    is_off, place = this.split()
    assert is_off == str(not is_kept)
    assert place.startswith(str(tmp_path / cache / "drpo" / "bytecode-")) is is_kept


def test_no_test_listens_on_a_fixed_port() -> None:
    assert [found for path in MODULES for found in _fixed_ports(path)] == []


def _fixed_ports(path: Path) -> Iterator[str]:
    """Yield the place of each fixed port: an argument of a function that listens, or the value of a flag."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node.func) in LISTENS:
            places = [*node.args, *(one.value for one in node.keywords if one.arg == "port")]
            numbers = [one.value for place in places for one in ast.walk(place) if isinstance(one, ast.Constant)]
            if any(isinstance(one, int) and not isinstance(one, bool) and one in PORTS for one in numbers):
                yield f"{path.relative_to(TESTS)}:{node.lineno}"
        if isinstance(node, ast.List | ast.Tuple | ast.Call) and "test_settings" not in path.name:
            items = node.args if isinstance(node, ast.Call) else node.elts
            texts = [one.value if isinstance(one, ast.Constant) else None for one in items]
            for flag, value in pairwise(texts):
                if flag in PORT_FLAGS and re.fullmatch(r"(.*:)?[1-9]\d{0,4}", str(value or "")) and _is_port(value):
                    yield f"{path.relative_to(TESTS)}:{node.lineno}"


def _is_port(value: object) -> bool:
    """Return whether a server could listen on a port. `--port 99999` is a mistake that a test makes on purpose."""
    return int(str(value).rpartition(":")[2]) in PORTS


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


@pytest.mark.parametrize(
    "line",
    [
        "socket.create_server(('127.0.0.1', 8080))",
        "web.TCPSite(runner, '127.0.0.1', 8000)",
        "run('--port', '8080')",
        "command = [sys.executable, '--admin', '127.0.0.1:9000']",
    ],
)
def test_fixed_port_is_found(line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tests.test_neutral.TESTS", tmp_path)
    (tmp_path / "test_x.py").write_text(line, encoding="utf-8")
    assert list(_fixed_ports(tmp_path / "test_x.py")) == ["test_x.py:1"]


def test_no_test_names_the_home_folder_or_the_folder_of_this_clone() -> None:
    words = ("Path." + "home()", "expand" + "user(", str(ROOT))
    found = [path.name for path in MODULES for word in words if word in path.read_text(encoding="utf-8")]
    assert found == []
