"""Tests that the commands in advice about experiments work as they are printed."""

import re
import shlex
from pathlib import Path

import pytest

from proxy.__main__ import run
from proxy.core.settings import ExperimentSettings
from proxy.experiments.analysis.operator_commands import OperatorCommands
from proxy.experiments.dashboard import Dashboard
from proxy.experiments.records import Allocation
from proxy.experiments.store.dsn import dsn_of
from proxy.experiments.store.store import Store
from tests.proxy.experiments.analysis.test_report_builder import write_experiment

PRINTED = re.compile(r"`drpo-proxy (experiment [^`]+)`")


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "a folder"
    folder.mkdir()
    return folder


def _commands(text: str) -> list[list[str]]:
    return [shlex.split(found) for found in PRINTED.findall(text)]


@pytest.mark.parametrize("given", ["flag", "variable", "default"])
@pytest.mark.parametrize("command", [["check"], ["report"], ["report", "--json"]])
def test_printed_command_needs_no_further_flag(
    given: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, store = write_experiment(_folder(tmp_path))
    monkeypatch.delenv("DRPO_STORE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    if given == "variable":
        monkeypatch.setenv("DRPO_STORE", store)
    elif given == "default":
        (tmp_path / "drpo").mkdir()
        (tmp_path / "a folder" / "store.db").rename(tmp_path / "drpo" / "experiments.sqlite3")
    flags = ["--store", store] if given == "flag" else []
    if command[0] == "report":
        assert run(["experiment", "stop", "demo", *flags]) == 0
        Path(file).write_text(Path(file).read_text().replace('["thumbs_up"', '["thumbs_down"'))
    capsys.readouterr()
    assert run(["experiment", *command, file, *flags]) == 0
    (printed,) = _commands(capsys.readouterr().out)
    assert printed[1] == ("stop" if command[0] == "check" else "release")
    assert run(printed) == 0
    assert "demo" in capsys.readouterr().out


def test_page_names_commands_that_work_in_each_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _folder(tmp_path)
    file, _ = write_experiment(folder)
    monkeypatch.chdir(folder)
    dashboard = Dashboard(ExperimentSettings(experiment=(Path(file).name,), store="sqlite:empty.db"))
    for stopped, command, says in ((False, "check", "can be used"), (True, "release", "runs again")):
        monkeypatch.chdir(folder)
        with Store(dsn_of("sqlite:empty.db")) as store:
            store.set_allocation(Allocation("demo", "slow" if stopped else "", None, 1.0))
        (printed,) = _commands(dashboard.report("demo")["verdict"]["advice"]["sentence"])
        monkeypatch.chdir(tmp_path)
        assert printed[1] == command
        assert run(printed) == 0
        assert says in capsys.readouterr().out


def test_command_contains_no_password() -> None:
    commands = OperatorCommands.for_server("e.toml", "postgresql://u:secret@h/d")
    assert commands.stop("e") == "`drpo-proxy experiment stop e` (with the DRPO_STORE of the server)"
    assert (
        OperatorCommands.for_server("e.toml", "postgresql://u@h/d").stop("e").count("--store postgresql://u@h/d") == 1
    )
