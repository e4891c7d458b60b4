"""Starts, measures and stops processes on given cores. It does not depend on gateways or load."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import psutil

SERVER_CORE: Final = 0
OTHERS_CORE: Final = 1
_START_TIMEOUT: Final = 180.0  # seconds: LiteLLM takes up to a minute


class CannotRunError(Exception):
    """A program is missing or does not start. The message gives the reason."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The CPU seconds that a process and its descendants have used, and their memory in bytes."""

    seconds: float
    memory: int


def program(name: str, package: str) -> str:
    """Return the path of an installed program.

    Raises:
        CannotRunError: It is not installed. The message names its Debian package.
    """
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if found is None:
        raise CannotRunError(f"`{name}` is not installed (Debian: apt-get install {package})")
    return found


@contextmanager
def running(
    command: Sequence[str], core: int | None, is_up: Callable[[], bool], extra: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Run a process on a core, or (None) on all cores, and yield its id once `is_up` is true.

    Raises:
        CannotRunError: It did not start in time.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(extra or {})},
            preexec_fn=lambda: os.sched_setaffinity(0, range(os.cpu_count() or 1) if core is None else {core}),
            start_new_session=True,
        )
        try:
            _wait_for(process, is_up, log)
            yield process.pid
        finally:
            _stop(process)


def listens(port: int) -> Callable[[], bool]:
    """Return a check whether a process listens on the port."""

    def ask() -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    return ask


def _wait_for(process: "subprocess.Popen[bytes]", is_up: Callable[[], bool], log: IO[bytes]) -> None:
    until = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < until and process.poll() is None:
        if is_up():
            return
        time.sleep(0.1)
    log.seek(0)
    output = log.read().decode("utf-8", "replace").strip().splitlines()[-3:]
    raise CannotRunError(f"it did not start: {' / '.join(output)}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    processes = _process_tree(process.pid)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(5)
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()


def usage(pid: int) -> Usage:
    """Return the usage of a process and all its descendants until now."""
    seconds, memory = 0.0, 0
    for one in _process_tree(pid):
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            seconds += times.user + times.system
            memory += one.memory_info().rss
    return Usage(seconds, memory)


def proportional_memory(pid: int) -> int:
    """Return the memory in bytes of a process and its descendants. Shared pages count once (PSS)."""
    total = 0
    for one in _process_tree(pid):
        with suppress(OSError):
            lines = Path(f"/proc/{one.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
            total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def _process_tree(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    return []


def write(folder: Path, name: str, text: str) -> Path:
    """Write a file and return its path."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path
