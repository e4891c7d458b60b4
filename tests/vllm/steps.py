"""Runs a long command with progress and a log whose end is shown when it fails. Knows nothing of what it runs."""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

_EVERY: Final = 15.0  # seconds between two lines of progress
_PR_SET_PDEATHSIG: Final = 1

Say = Callable[[str], None]


class StepError(Exception):
    """A step failed or took too long; the message ends with its last output."""


def run_step(title: str, command: Sequence[str], log: Path, say: Say, within: float, env: Mapping[str, str]) -> None:
    """Run `command` to its end, output to `log`. within: seconds. Raises StepError."""
    say(f"{title} ...")
    started = time.monotonic()
    process = spawn(command, log, env)
    try:
        wait_for(title, lambda: process.poll() is not None, log, say, within)
    finally:
        end_group(process)
    if process.returncode != 0:
        raise StepError(f"{title}: exit status {process.returncode}\n{tail(log)}")
    say(f"{title}: done in {time.monotonic() - started:.0f} s")


def spawn(command: Sequence[str], log: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start `command` in a process group of its own, which is told to end if this process dies."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )


def wait_for(title: str, done: Callable[[], bool], log: Path, say: Say, within: float) -> None:
    """Return when `done()`; say how long it has taken now and then. Raises StepError after `within` seconds."""
    started = said = time.monotonic()
    while not done():
        now = time.monotonic()
        if now - started > within:
            raise StepError(f"{title}: not finished after {within:.0f} s\n{tail(log)}")
        if now - said > _EVERY:
            said = now
            say(f"{title}: {now - started:.0f} s; {_last_line(log)}")
        time.sleep(0.5)


def end_group(process: subprocess.Popen[bytes], grace: float = 30.0) -> None:
    """End the process and all that it started: asked first, killed after `grace` seconds."""
    _signal_group(process, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    _signal_group(process, signal.SIGKILL)
    process.wait()


def tail(log: Path, lines: int = 40) -> str:
    """The last lines of a log, for an error message."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return "\n".join(text.replace("\r", "\n").splitlines()[-lines:])


def _last_line(log: Path) -> str:
    return tail(log, 1)[:100]


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)  # the leader of its group, as start_new_session made it


def _end_with_parent() -> None:
    """A killed test run leaves no server behind (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
