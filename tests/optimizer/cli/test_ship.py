"""Tests of `drpo-optimizer ship`: it writes a bundle with its provenance, without texts of rows."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from index.bundle.bundle import read_bundle
from index.bundle.provenance import VALIDATION, figures_record, json_bytes, parse_provenance
from index.bundle.shipped import GENERAL, choose_shipped, read_shipped
from index.embedders.registry import DEFAULT_EMBEDDER, open_embedder
from optimizer.__main__ import main
from tests.index.shipped_library import figures, write_library
from tests.optimizer.scripted_models import open_scripted_models, write_run

FLAGS = ("--licence", "Apache-2.0", "--texts", "written for the tests")


async def finished_run(folder: Path, **tables: Any) -> Path:
    """Return a finished run of scripted models, of one level, and its directory."""
    async with open_scripted_models() as (_, url):
        small: Mapping[str, Any] = {"search": {"depth": 1}, "tune": {"k": [], "order": []}}
        config = write_run(folder, url, rows=8, **{**small, **tables})
        assert await asyncio.to_thread(main, ["run", str(config), "--out", str(folder / "out")]) == 0
    return folder / "out"


async def ship(run: Path, *arguments: str | Path) -> int:
    return await asyncio.to_thread(main, ["ship", str(run), *FLAGS, *map(str, arguments)])


def write_figures(path: Path, bundle_id: str, lead: float = 0.05) -> Path:
    found = figures(name="scripted", model="task", lead=lead)
    path.write_bytes(json_bytes(figures_record(replace(found, ids={"scripted": bundle_id, GENERAL: "2" * 64}))))
    return path


async def test_ship_writes_the_bundle_with_its_provenance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = await finished_run(tmp_path / "run")
    bundle = read_bundle(run / "bundle")
    measured = write_figures(tmp_path / "validation.json", bundle.id)
    assert await ship(run, "--out", tmp_path / "scripted", "--figures", measured, "--note", "made by a test") == 0
    shipped = read_bundle(tmp_path / "scripted")
    assert (shipped.id, shipped.prompt) == (bundle.id, bundle.prompt)
    assert (tmp_path / "scripted" / "run.toml").read_bytes() == (run / "run.toml").read_bytes()
    provenance = parse_provenance((tmp_path / "scripted" / "provenance.json").read_bytes(), "provenance")
    assert (provenance.bundle, provenance.made, provenance.licence) == (bundle.id, "learned", "Apache-2.0")
    assert provenance.notes == ("made by a test",)
    assert provenance.of(VALIDATION).own.composite.estimate == 0.75
    assert provenance.run is not None
    assert provenance.run["models"] == {"task": "task", "optimizer": "optimizer", "judge": "judge"}
    assert (provenance.run["start"], provenance.run["levels"]) == ("start", 1)
    assert provenance.run["calls"]["judge"]["calls"] > 0
    train, *_ = provenance.run["data"]
    assert (train["part"], train["file"], train["rows"], len(train["sha256"])) == ("train", "train.jsonl", 8, 64)
    assert "It has figures of these splits: validation." in capsys.readouterr().out


async def test_summary_of_the_journal_says_what_happened_without_the_rows(tmp_path: Path) -> None:
    run = await finished_run(tmp_path / "run")
    assert await ship(run, "--out", tmp_path / "scripted") == 0
    text = (tmp_path / "scripted" / "journal.json").read_text(encoding="utf-8")
    summary = json.loads(text)
    (level,) = summary["levels"]
    assert summary["finished"]
    assert (level["number"], set(level["calls"])) == (0, {"task", "optimizer", "judge"})
    assert list(level["proposed"]) == ["writer"]
    assert level["kept"][0]["mean"][1] <= level["kept"][0]["mean"][0] <= level["kept"][0]["mean"][2]
    assert summary["proposers"]["writer"]["tried"] == len(level["proposed"]["writer"])
    assert summary["sealed"]["against"]["baseline"]["difference"]
    for word in ("question number", "An answer worth", "Answer well"):
        assert word not in text, "rows, answers and prompts stay out"
    assert "question number" not in (tmp_path / "scripted" / "provenance.json").read_text(encoding="utf-8")


async def test_a_shipped_bundle_is_the_default_of_its_model(tmp_path: Path) -> None:
    run = await finished_run(tmp_path / "run")
    library = write_library(tmp_path / "shipped", embedder=open_embedder(DEFAULT_EMBEDDER))
    measured = write_figures(tmp_path / "validation.json", read_bundle(run / "bundle").id)
    assert await ship(run, "--out", library / "scripted", "--figures", measured) == 0
    assert choose_shipped(["org/Task"], read_shipped(library)).bundle.name == "scripted"
    assert choose_shipped(["other"], read_shipped(library)).bundle.name == GENERAL


async def test_ship_refuses_what_does_not_belong_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = await finished_run(tmp_path / "run")
    foreign = write_figures(tmp_path / "foreign.json", "3" * 64)
    own = write_figures(tmp_path / "own.json", read_bundle(run / "bundle").id)
    refused: Mapping[str, tuple[str | Path, ...]] = {
        "figures of another bundle": ("--out", tmp_path / "scripted", "--figures", foreign),
        "two files are of the same split": ("--out", tmp_path / "scripted", "--figures", own, "--figures", own),
        "the bundle is called scripted": ("--out", tmp_path / "other"),
        "exists already": ("--out", tmp_path / "run"),
        "cannot be read": ("--out", tmp_path / "scripted", "--figures", tmp_path / "none.json"),
    }
    for message, arguments in refused.items():
        assert await ship(run, *arguments) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "scripted").exists()


async def test_ship_refuses_a_run_that_has_written_no_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = await finished_run(tmp_path / "a run")
    events = (run / "events.jsonl").read_bytes().splitlines(keepends=True)
    (run / "events.jsonl").write_bytes(b"".join(line for line in events if b'"note":"bundle"' not in line))
    assert await ship(run, "--out", tmp_path / "scripted") == 1
    assert f"has written no bundle yet. End the run with `drpo-optimizer resume '{run}'`." in capsys.readouterr().err
    assert await ship(tmp_path, "--out", tmp_path / "scripted") == 1
    assert "contains no run" in capsys.readouterr().err


async def test_a_missing_data_file_has_no_hash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = await finished_run(tmp_path / "run")
    (tmp_path / "run" / "sealed.jsonl").unlink()
    assert await ship(run, "--out", tmp_path / "scripted") == 0
    output = capsys.readouterr().out
    assert "sealed.jsonl (sealed) is not where the run read it" in output
    assert "so drpo never chooses it as a default" in output
