"""Tests of the parts of tools/steps.py that depend on the operating system."""

import ctypes
import sys
from pathlib import Path

import pytest

from tools.steps import StepError, run_step


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_command_runs_on_each_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    """Only Linux has prctl. On other systems, the process that starts the command must not call it."""
    monkeypatch.setattr(sys, "platform", platform)
    if platform != "linux":
        monkeypatch.setattr(ctypes, "CDLL", _no_library)
    run_step("a step", [sys.executable, "-c", "print('done')"], tmp_path / "log", lambda _: None, 60, {})
    assert (tmp_path / "log").read_text() == "done\n"


def test_failed_command_shows_the_end_of_its_output(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('what was wrong')"]
    with pytest.raises(StepError, match=r"a step: exit status 1\nwhat was wrong"):
        run_step("a step", command, tmp_path / "log", lambda _: None, 60, {})


def _no_library(name: str | None) -> ctypes.CDLL:
    raise AttributeError(f"prctl: symbol not found in {name}")
