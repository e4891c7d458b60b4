"""Reads the commands of a page from its fenced blocks, and runs them as a reader would.

The info string of a block of sh or python has one of these marks:

- `run`: The block is run to its end, and must succeed.
- `serve`: The block is started, and runs until the end of the page.
- `not-run`: The block is not run.

`run in NAME` uses the Python of tests/clients/requirements/NAME.txt. All blocks of a page run in one copy of its
folder. Free ports replace the ports in PORTS, in the page and in its .toml files.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.clients.environments import python_of
from tests.ports import free_port

PORTS: Final = ("8080", "8000")
MARKS: Final = ("run", "serve", "not-run")
_FENCE: Final = re.compile(r"^```(sh|python)(?: ([^\n]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NOT_COPIED: Final = (".*", "kubernetes", "build", "dist", "runs", "multilingual_weights")
_RUN_TIMEOUT: Final = 300.0  # seconds
_START_TIMEOUT: Final = 120.0


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        language: sh or python.
        mark: One of MARKS, or an empty string.
        environment: The name of the client's environment, or an empty string.
        text: The commands.
        line: The number of its first line.
    """

    language: str
    mark: str
    environment: str
    text: str
    line: int


def blocks(page: str) -> list[Block]:
    """Return the blocks of sh and python in the text of a page."""
    found = []
    for match in _FENCE.finditer(page):
        mark, _, environment = (match[2] or "").partition(" in ")
        found.append(Block(match[1], mark, environment, match[3], page.count("\n", 0, match.start()) + 1))
    return found


def follow(page: Path) -> None:
    """Run the commands of the page.

    Raises:
        AssertionError: A command failed.
    """
    ports = {port: str(free_port()) for port in PORTS}
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as serving:
        folder = Path(temporary) / "page"
        shutil.copytree(page.parent, folder, ignore=shutil.ignore_patterns(*_NOT_COPIED))
        for file in folder.glob("*.toml"):
            file.write_text(_with_free_ports(file.read_text(encoding="utf-8"), ports), encoding="utf-8")
        for block in blocks(page.read_text(encoding="utf-8")):
            text = _with_free_ports(block.text, ports)
            where = f"{page.parent.name}/{page.name}:{block.line}"
            if block.mark == "run":
                _run(_command(block, text), folder, block, where)
            elif block.mark == "serve":
                port = ports[re.findall(r"--port (\d+)", block.text)[0]]
                serving.enter_context(_serve(_command(block, text), folder, port, where))


def _with_free_ports(text: str, ports: Mapping[str, str]) -> str:
    return re.sub("|".join(PORTS), lambda found: ports[found[0]], text)


def _command(block: Block, text: str) -> list[str]:
    return [sys.executable, "-c", text] if block.language == "python" else ["bash", "-euo", "pipefail", "-c", text]


def _environment(block: Block) -> dict[str, str]:
    first = [str(python_of(block.environment, print).parent)] if block.environment else []
    path = os.pathsep.join([*first, str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONWARNINGS": "ignore"}


def _run(command: list[str], folder: Path, block: Block, where: str) -> None:
    environment = _environment(block)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_RUN_TIMEOUT, check=False
    )
    print(f"{where}\n{done.stdout}{done.stderr}")
    assert done.returncode == 0, f"{where}: {done.stdout[-1000:]}{done.stderr[-1000:]}"


@contextmanager
def _serve(command: list[str], folder: Path, port: str, where: str) -> Iterator[None]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with tempfile.TemporaryFile() as log:
        command = [*command[:-1], f"exec {command[-1]}"]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            until = time.monotonic() + _START_TIMEOUT
            while not _is_ready(port):
                log.seek(0)
                assert process.poll() is None, f"{where}: {log.read()[-1000:].decode()}"
                assert time.monotonic() < until, f"{where}: not ready in {_START_TIMEOUT:.0f} s"
                time.sleep(0.2)
            yield
        finally:
            process.terminate()
            process.wait(60)


def _is_ready(port: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5):
            return True
    except OSError:
        return False
