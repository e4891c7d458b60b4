"""Runs the real proxy on the embedded model as a user starts it, in its own process and on a free port."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from typing import Final

_HERE: Final = (sys.executable, "-m", "proxy")
_START_TIMEOUT = 300
_STOP_TIMEOUT = 30
_RETRIEVAL_TIMEOUT = 30  # seconds; with a shorter timeout, a query on busy cores could get an answer without examples


@contextmanager
def served_proxy(*flags: str, program: Sequence[str] = _HERE, folder: Path | None = None) -> Iterator[str]:
    """Run `drpo-proxy --backend embedded` with the default bundle and further flags. Yield its base URL when ready.

    Args:
        flags: Further flags.
        program: How `drpo-proxy` is called.
        folder: The folder in which it runs; None for the current one.
    """
    command = [*program, "--backend", "embedded", "--bundle", "default", "--port", "0"]
    command += ["--retrieval-timeout", str(_RETRIEVAL_TIMEOUT), *flags]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield _base_url(process)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _base_url(process: "subprocess.Popen[str]") -> str:
    lines: Queue[str | None] = Queue()
    threading.Thread(target=_read_lines, args=(process, lines), daemon=True).start()
    output: list[str] = []
    while True:
        try:
            line = lines.get(timeout=_START_TIMEOUT)
        except Empty:
            line = None
        if line is None:
            raise RuntimeError("the proxy did not start:\n" + "".join(output[-20:]))
        output.append(line)
        if found := re.search(r"Base URL\s+(\S+)", line):
            return found[1]


def _read_lines(process: "subprocess.Popen[str]", lines: "Queue[str | None]") -> None:
    """Read all output, so that the proxy never blocks on a full pipe."""
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)
