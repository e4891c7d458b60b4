"""Tests that no private string in the feedback reaches a file of an improvement, its output, or a model."""

import asyncio
import json
from pathlib import Path

import pytest

from optimizer.__main__ import main
from proxy.experiments.store.dsn import dsn_of
from tests.optimizer.harvest.planted_strings import PLANTED
from tests.optimizer.harvest.recorded import Recording
from tests.optimizer.harvest.test_command import plant
from tests.optimizer.scripted_models import open_scripted_models, write_run


async def test_no_planted_string_reaches_a_file_the_output_or_a_model(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recording, out = Recording(), tmp_path / "out"
    for number, (text, _) in enumerate(PLANTED):
        plant(number, text, recording)
    recording.write(dsn_of(f"sqlite:{tmp_path}/s.sqlite3"))
    async with open_scripted_models() as (models, url):
        write_run(tmp_path, url)
        (tmp_path / "run.toml").write_text("[search]\ndepth = 1\n[reward]\nweights = { rules = 1.0 }\n")
        flags = ["--bundle", str(tmp_path / "start"), "--config", str(tmp_path / "run.toml"), "--base-url", url]
        store = f"sqlite:{tmp_path}/s.sqlite3"
        flags += ["--model", "task", "--kind", "chat", "--store", store, "--out", str(out)]
        assert await asyncio.to_thread(main, ["improve", *flags]) == 0
    texts = {str(path): path.read_text(encoding="utf-8", errors="replace") for path in out.rglob("*") if path.is_file()}
    shown = capfd.readouterr()
    assert "give --review" in shown.out
    assert "--yes" not in shown.out, "the command improve has no such flag"
    texts |= {"output": shown.out, "errors": shown.err, "requests": "\n".join(text for _, text in models.requests)}
    assert len(models.requests) > len(PLANTED)
    for name, written in texts.items():
        leaked = [private for _, private in PLANTED if private in written or json.dumps(private)[1:-1] in written]
        assert not leaked, name
