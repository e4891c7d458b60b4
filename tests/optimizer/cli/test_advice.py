"""Tests that advice fits the command: only commands with a run advise to resume it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from optimizer.__main__ import main
from optimizer.cli.run_command import show_result
from optimizer.core.model_tables import ModelTable
from optimizer.stages.run import Result
from tests.optimizer.scripted_models import open_scripted_models, write_run

SHORT: Mapping[str, Any] = {"search": {"actions": 2, "depth": 1, "first": 4, "queries": 8}, "tune": {"k": []}}


def _refuse_all(body: Mapping[str, Any]) -> tuple[int, bytes] | None:
    return (400, b'{"error": "the context is 64"}') if body["model"] == "task" else None


@asynccontextmanager
async def models(folder: Path, **settings: Any) -> AsyncIterator[Path]:
    """Serve scripted models; yields the path of a run.toml for them."""
    tables = {name: settings.pop(name) for name in ("budget", "data") if name in settings}
    async with open_scripted_models(**settings) as (_, url):
        yield write_run(folder / "run", url, rows=8, **SHORT, **tables)


async def call(*arguments: object) -> int:
    return await asyncio.to_thread(main, [str(one) for one in arguments])


@pytest.mark.parametrize("command", ["estimate", "doctor"])
@pytest.mark.parametrize(
    "settings",
    [
        {"fault": _refuse_all},
        {"budget": {"calls": 1}},
        {"budget": {"tokens": 300}},
        {"budget": {"money": 1e-9}},
    ],
    ids=["refused rows", "calls", "tokens", "money"],
)
async def test_command_without_a_run_does_not_advise_to_resume(
    command: str, settings: Mapping[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with models(tmp_path, **settings) as path:
        if "money" in settings.get("budget", {}):
            path.write_text(path.read_text().replace("[models.task]", "[models.task]\nprice_prompt = 5.0"))
        assert await call(command, path) == 1
    printed = "".join(capsys.readouterr())
    assert "resume" not in printed
    assert any(part in printed for part in ("drpo-optimizer doctor, and correct", "the context is 64", "in run.toml"))


async def test_run_advises_to_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with models(tmp_path, fault=_refuse_all) as path:
        assert await call("run", path, "--out", tmp_path / "out") == 1
        assert "and resume" in capsys.readouterr().err
        assert await call("resume", tmp_path / "out") == 1
        assert "and resume" in capsys.readouterr().err


async def test_run_whose_inputs_changed_is_not_told_to_continue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with models(tmp_path) as path:
        assert await call("run", path, "--out", tmp_path / "out") == 0
        rows = path.with_name("train.jsonl")
        rows.write_text(rows.read_text().replace("question", "other question"))
        capsys.readouterr()
        assert await call("resume", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "cannot be resumed" in said
    assert "To continue" not in said


@pytest.mark.parametrize("edit", ["content", "nothing", "removed", "only the copy"])
async def test_resume_says_that_run_toml_has_changed(
    edit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with models(tmp_path) as path:
        named = path.rename(path.with_name("my run.toml"))
        assert await call("run", named, "--out", tmp_path / "out") == 0
        if edit == "content":
            named.write_text(f"{named.read_text()}\n[budget]\ncalls = 100000\n")
        elif edit == "removed":
            named.unlink()
        elif edit == "only the copy":
            copy = tmp_path / "out" / "run.toml"
            copy.write_text(f"{copy.read_text()}\n[budget]\ncalls = 100000\n")
        capsys.readouterr()
        assert await call("resume", tmp_path / "out") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "has changed since the run began" in line]
    assert len(lines) == (edit == "content")
    if lines:
        assert str(named) in lines[0]
        assert str(tmp_path / "out" / "run.toml") in lines[0]
        assert "--out" in lines[0]


@pytest.mark.parametrize(
    ("model", "command"),
    [
        ("m", "drpo-proxy --backend http://h:1/v1 --bundle 'a run/bundle'"),
        ("m@raw", "drpo-proxy --bundle 'a run/bundle'"),
    ],
)
def test_result_says_how_to_serve_the_bundle(model: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = Result(Path("a run/bundle"), None, is_found=True, kept_start=False, spent_out=False)
    show_result(result, ModelTable("http://h:1/v1", model))
    assert f"Serve it:  {command}\n" in capsys.readouterr().out
