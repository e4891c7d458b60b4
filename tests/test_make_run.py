"""Guards what the README promises first: `make run`, in a copy of the files and with no environment, ends in a server
that answers what the README and the command itself say to ask it."""

import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.bench.peers.machine import free_port
from tests.bench.start import copied, make_run
from tests.pages import blocks
from tests.test_repository import ROOT

WITHIN = 120.0  # seconds


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_make_run_ends_in_a_server_that_answers_as_the_readme_says(tmp_path: Path) -> None:
    port = free_port()
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "VIRTUAL_ENV"))}
    with make_run(copied(tmp_path / "drpo"), outside, port) as said:
        base_url, page = (re.search(rf"^{name} +(http\S+)", said, re.MULTILINE) for name in ("Base URL", "Page"))
        assert "drpo-proxy is ready" in said
        assert base_url
        assert page
        assert f":{port}/" in base_url[1]
        with urllib.request.urlopen(page[1], timeout=WITHIN) as answer:
            assert b"<title>" in answer.read()
        assert "rainbow" in _output([sys.executable, "-c", _first_python().replace("8080", str(port))]).lower()
        assert '"choices"' in _output(["bash", "-c", _curl(said)])


def _first_python() -> str:
    """What the README gives a reader to ask the server with."""
    return next(
        block.text for block in blocks((ROOT / "README.md").read_text(encoding="utf-8")) if block.language == "python"
    )


def _curl(said: str) -> str:
    """The command that `make run` prints, with its continued lines."""
    found = re.search(r"^ *(curl (?:.*\\\n)*.*)$", said, re.MULTILINE)
    assert found, said
    return found[1]


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
