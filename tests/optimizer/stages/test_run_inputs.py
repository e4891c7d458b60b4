"""A run whose inputs changed between a kill and the resume is refused with what changed, before a call is made."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optimizer.core.errors import ConfigError, DataError, ModelError
from optimizer.core.journal import Journal, read_journal
from optimizer.stages.run import Result
from tests.optimizer.scripted_models import ScriptedModels, open_scripted_models, run_config, write_run

Edit = Callable[[Path], object]


async def run_in(folder: Path) -> Result:
    return await run_config(folder / "run.toml", folder / "out")


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


def change_lines(name: str, change: Callable[[list[str]], list[str]]) -> Edit:
    return lambda folder: (folder / name).write_text("\n".join(change(lines_of(folder / name))))


def replace_text(name: str, old: str, new: str) -> Edit:
    def edit(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return edit


NEW = json.dumps({"query": "a new secret question"})
CHANGES: dict[str, tuple[Edit, str]] = {
    "row edited": (
        replace_text("train.jsonl", "train question number 3", "secret"),
        "rows of train: 1 edited (line 4)",
    ),
    "tag added": (
        replace_text("sealed.jsonl", 'number 3"', 'number 3", "tag": "refuse"'),
        "rows of sealed: 1 edited (line 4)",
    ),
    "row added at the end": (
        change_lines("train.jsonl", lambda lines: [*lines, NEW]),
        "rows of train: 1 added (line 9)",
    ),
    "row added at the beginning": (
        change_lines("validation.jsonl", lambda lines: [NEW, *lines]),
        "rows of validation: 1 added (line 1)",
    ),
    "rows removed": (
        change_lines("sealed.jsonl", lambda lines: lines[:2] + lines[4:]),
        "rows of sealed: 2 removed (line 3, 4 of the earlier file)",
    ),
    "rows in another order": (
        change_lines("train.jsonl", lambda lines: [*lines[1:], lines[0]]),
        "rows of train: 1 added (line 8); rows of train: 1 removed (line 1 of the earlier file)",
    ),
    "search": (replace_text("run.toml", "depth = 1", "depth = 2"), "[search] depth in run.toml was 1 and is 2"),
    "key added": (replace_text("run.toml", "depth = 1", "depth = 1\nseed = 5"), "[search] seed in run.toml was 0"),
    "model": (
        replace_text("run.toml", 'model = "judge"', 'model = "task"'),
        '[models.judge] model in run.toml was "judge" and is "task"',
    ),
    "weights": (
        replace_text("run.toml", '"judge" = 1.0', '"judge" = 1.0, "rules" = 1.0'),
        "[reward] weights in run.toml",
    ),
    "starting bundle": (
        replace_text("run.toml", 'start = "start"', 'start = "default"'),
        "the starting bundle is another one",
    ),
}


async def begin(folder: Path, models: ScriptedModels, url: str, **tables: Any) -> None:
    """Begin a run that a busy server ends in its sealed evaluation."""
    write_run(folder, url, rows=8, **{"search": {"depth": 1}, **tables})

    def fault(body: Any) -> tuple[int, bytes] | None:
        is_sealed = "sealed question" in body["messages"][-1]["content"]
        return (503, b"{}") if body["model"] == "task" and is_sealed else None

    models.fault = fault
    with pytest.raises(ModelError):
        await run_in(folder)
    models.fault = lambda _body: None
    models.requests.clear()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let failed requests be retried at once."""
    monkeypatch.setattr("optimizer.models.http_client.RetryPolicy.wait", lambda *_: 0.0)


async def test_changed_inputs_are_refused_before_a_call_with_what_changed(tmp_path: Path) -> None:
    async with open_scripted_models() as (models, url):
        await begin(tmp_path, models, url)
        kept = {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()}
        for name, (edit, message) in CHANGES.items():
            edit(tmp_path)
            with pytest.raises(ConfigError) as caught:
                await run_in(tmp_path)
            assert message in str(caught.value), name
            assert "secret" not in str(caught.value)
            assert "another --out" in str(caught.value)
            assert not models.requests
            for file, text in kept.items():
                (tmp_path / file).write_text(text)
        assert (await run_in(tmp_path)).sealed.rows == 12


async def test_row_that_moved_to_another_part_of_the_same_file_is_named(tmp_path: Path) -> None:
    counts = {"train": 8, "validation": 12, "sealed": 12}
    rows = [{"query": f"{part} question number {one}", "split": part} for part in counts for one in range(counts[part])]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    async with open_scripted_models() as (models, url):
        await begin(tmp_path, models, url, data=dict.fromkeys(counts, "rows.jsonl"))
        rows[3]["split"] = "sealed"
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        with pytest.raises(
            ConfigError, match=r"rows of train: 1 removed \(line 4 .*rows of sealed: 1 added \(line 4\)"
        ):
            await run_in(tmp_path)
    assert not models.requests


async def test_row_that_moved_to_a_part_of_another_file_is_refused(tmp_path: Path) -> None:
    async with open_scripted_models() as (models, url):
        await begin(tmp_path, models, url)
        replace_text("train.jsonl", 'train question number 3"', 'train question number 3", "split": "sealed"')(tmp_path)
        with pytest.raises(DataError, match=r"such as train\.jsonl, line 4. Its .split. is sealed"):
            await run_in(tmp_path)
    assert not models.requests


async def test_inputs_that_change_no_result_may_change(tmp_path: Path) -> None:
    async with open_scripted_models() as (models, url):
        await begin(tmp_path, models, url)
        for part in ("train", "validation", "sealed"):
            text = (
                (tmp_path / f"{part}.jsonl")
                .read_bytes()
                .replace(b"}", b', "note": "mine"}')
                .replace(b"\n", b"\r\n\r\n")
            )
            (tmp_path / f"moved {part}.jsonl").write_bytes(b"\xef\xbb\xbf" + text)
            replace_text("run.toml", f'"{part}.jsonl"', f'"moved {part}.jsonl"')(tmp_path)
        replace_text("run.toml", "[data]", "[budget]\ncalls = 5000\n[data]\nunusable = 0.1")(tmp_path)
        replace_text("run.toml", 'kind = "chat"', 'kind = "chat"\nconcurrency = 3\ntimeout = 9.0')(tmp_path)
        assert (await run_in(tmp_path)).sealed.rows == 12


async def test_changed_reward_file_is_refused_unless_it_stopped_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "reward_that_changes.py"
    file.write_text("def score(query, answer, reference, kind):\n    return 0.5\n")
    async with open_scripted_models() as (models, url):
        await begin(tmp_path, models, url, reward={"weights": {"reward_that_changes:score": 1.0}})
        file.write_text("def score(query, answer, reference, kind):\n    return 0.6\n")
        with pytest.raises(ConfigError, match=r"the file of \[reward\] reward_that_changes:score was edited"):
            await run_in(tmp_path)
        with Journal(tmp_path / "out") as journal:
            await journal.add({"note": "stopped"})
        assert (await run_in(tmp_path)).sealed.rows == 12
    assert len([event for event in read_journal(tmp_path / "out") if event.get("note") == "inputs"]) == 2
