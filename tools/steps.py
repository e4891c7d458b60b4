"""Runs long commands: prints progress, keeps the output in a log, and shows the end of the log when a command fails.

This module does not depend on which commands it runs.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

_PROGRESS_INTERVAL: Final = 15.0  # seconds between two lines of progress
_PR_SET_PDEATHSIG: Final = 1  # the option of prctl(2) for a signal at the death of the parent

Say = Callable[[str], None]
"""Receives lines of progress."""


class StepError(Exception):
    """A step failed or took too long. The message ends with the last output of the step."""


def run_step(title: str, command: Sequence[str], log: Path, say: Say, within: float, env: Mapping[str, str]) -> None:
    """Run a command to its end.

    Args:
        title: The name of the step in lines of progress and errors.
        command: The command and its arguments.
        log: The file that receives its output.
        say: Receives lines of progress.
        within: The timeout in seconds.
        env: The environment variables of the command.

    Raises:
        StepError: The command failed or exceeded its timeout.
    """
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
    """Start a command in a new process group. On Linux it gets SIGTERM if this process dies."""
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
    """Wait until `done()` is true. Meanwhile, `say` gets a line of progress every 15 seconds.

    Raises:
        StepError: `done()` is still false after `within` seconds.
    """
    started = reported = time.monotonic()
    while not done():
        now = time.monotonic()
        if now - started > within:
            raise StepError(f"{title}: not finished after {within:.0f} s\n{tail(log)}")
        if now - reported > _PROGRESS_INTERVAL:
            reported = now
            say(f"{title}: {now - started:.0f} s; {_last_line(log)}")
        time.sleep(0.5)


def end_group(process: subprocess.Popen[bytes], grace: float = 30.0) -> None:
    """End a process and its children: SIGTERM first, SIGKILL after `grace` seconds."""
    _signal_group(process, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    _signal_group(process, signal.SIGKILL)
    process.wait()


def tail(log: Path, lines: int = 40) -> str:
    """Return the last lines of a log, for an error message."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return "\n".join(text.replace("\r", "\n").splitlines()[-lines:])


def _last_line(log: Path) -> str:
    return tail(log, 1)[:100]


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)  # start_new_session made it the leader of its group


def _end_with_parent() -> None:
    """Make the kernel send SIGTERM when the parent dies, so that a killed test run leaves no server behind (Linux)."""
    if sys.platform == "linux":  # no other system has prctl
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
