"""The real proxy on the embedded model, as a user starts it: a process of its own, on a free port."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, Queue

_START_SECONDS = 300
_STOP_SECONDS = 30


@contextmanager
def served_proxy() -> Iterator[str]:
    """The base URL of `drpo-proxy --backend embedded` with the default bundle, once it is ready."""
    command = [sys.executable, "-m", "proxy", "--backend", "embedded", "--bundle", "default", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield _base_url(process)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _base_url(process: "subprocess.Popen[str]") -> str:
    lines: Queue[str | None] = Queue()
    threading.Thread(target=_read_lines, args=(process, lines), daemon=True).start()
    told: list[str] = []
    while True:
        try:
            line = lines.get(timeout=_START_SECONDS)
        except Empty:
            line = None
        if line is None:
            raise RuntimeError("the proxy did not start:\n" + "".join(told[-20:]))
        told.append(line)
        if found := re.search(r"Base URL\s+(\S+)", line):
            return found[1]


def _read_lines(process: "subprocess.Popen[str]", lines: "Queue[str | None]") -> None:
    """Reads to the end, so that the proxy never waits for a full pipe."""
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)
