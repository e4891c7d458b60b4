"""Tests of `make run`, in a copy of the repository's files without .venv.

`make run` must start a server that answers the commands in the README and in the output of `make run`.
"""

import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.bench.start import copied, make_run
from tests.pages import blocks
from tests.ports import free_port
from tests.test_repository import ROOT

TIMEOUT = 120.0  # seconds


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_make_run_starts_a_server_that_answers_the_readme_commands(tmp_path: Path) -> None:
    port = free_port()
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "VIRTUAL_ENV"))}
    with make_run(copied(tmp_path / "drpo"), outside, port) as output:
        base_url, page = (re.search(rf"^{name} +(http\S+)", output, re.MULTILINE) for name in ("Base URL", "Page"))
        assert "drpo-proxy is ready" in output
        assert base_url
        assert page
        assert f":{port}/" in base_url[1]
        with urllib.request.urlopen(page[1], timeout=TIMEOUT) as answer:
            assert b"<title>" in answer.read()
        assert "dna" in _output([sys.executable, "-c", _first_python().replace("8080", str(port))]).lower()
        assert '"choices"' in _output(["bash", "-c", _curl(output)])


def _first_python() -> str:
    """Return the first Python block of the README."""
    return next(
        block.text for block in blocks((ROOT / "README.md").read_text(encoding="utf-8")) if block.language == "python"
    )


def _curl(output: str) -> str:
    """Return the curl command that `make run` prints, with its continuation lines."""
    found = re.search(r"^ *(curl (?:.*\\\n)*.*)$", output, re.MULTILINE)
    assert found, output
    return found[1]


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
