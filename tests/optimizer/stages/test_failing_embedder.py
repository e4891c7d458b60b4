"""Tests that a row whose text the embedder cannot embed is left out, and that a broken embedder ends the session."""

import re
from pathlib import Path
from typing import Any

import pytest

from index.errors import DrpoError, EmbedderError
from tests.optimizer.scripted_models import open_scripted_models, run_config, write_run
from tests.optimizer.stages.test_unusable_rows import notes

EMBEDDER = """
import numpy as np
from index.embedders.base import unit_rows
from index.errors import EmbedderError
from index.types import EmbedderSpec

IS_BROKEN = False


class Own:
    spec = EmbedderSpec("python:{module}:Own", "1", 4)

    def embed(self, texts):
        if IS_BROKEN or any("{part} question number 3" in text for text in texts):
            {failure}
        return unit_rows([[len(text) + 1.0, text.count("e"), 1.0, 2.0] for text in texts], "own")
"""
FAILURES = {
    "status 400 of a server": "raise EmbedderError('the embedder answered status 400')",
    "error in own code": "raise ValueError('the text is: ' + texts[0])",
    "too few vectors": "return np.zeros((0, 4), np.float32)",
    "other dimension": "return np.ones((len(texts), 3), np.float32)",
    "not a number": "return np.full((len(texts), 4), np.nan, np.float32)",
    "None": "return None",
}
PARTS = ("train", "validation", "sealed")


@pytest.fixture
def own_embedder(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    module = re.sub(r"\W", "_", f"embedder_{request.node.name}")
    failure, part = request.getfixturevalue("failure"), request.getfixturevalue("part")
    code = EMBEDDER.format(module=module, part=part, failure=failure)
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    return module


CASES = [(PARTS[number % 3], failure) for number, failure in enumerate(FAILURES.values())]


@pytest.mark.parametrize(("part", "failure"), CASES, ids=FAILURES)
async def test_row_that_the_embedder_cannot_embed_is_left_out(
    part: str, failure: str, own_embedder: str, tmp_path: Path
) -> None:
    async with open_scripted_models() as (_, url):
        bundle = {"embedder": f"python:{own_embedder}:Own"}
        config = write_run(tmp_path, url, rows=8, search={"depth": 1}, bundle=bundle)
        result = await run_config(config, tmp_path / "out")
    assert result.sealed.improved, failure
    left_out = {(event["part"], event["row"], event["why"]) for event in notes(tmp_path / "out", "unusable")}
    assert left_out == {(part, f"{part}.jsonl, line 4", "the embedder fails at a text")}


@pytest.mark.parametrize(("part", "failure"), CASES[:2], ids=list(FAILURES)[:2])
async def test_embedder_that_fails_at_all_texts_ends_the_session(
    part: str, failure: str, own_embedder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_scripted_models() as (_, url):
        bundle = {"embedder": f"python:{own_embedder}:Own"}
        config = write_run(tmp_path, url, rows=8, search={"depth": 1}, bundle=bundle)
        monkeypatch.setattr(f"{own_embedder}.IS_BROKEN", True)
        with pytest.raises(DrpoError) as caught:
            await run_config(config, tmp_path / "out")
        assert isinstance(caught.value, EmbedderError)
        assert "question number" not in str(caught.value)
        monkeypatch.setattr(f"{own_embedder}.IS_BROKEN", False)
        result = await run_config(config, tmp_path / "out")
    assert result.sealed.improved
    left_out = notes(tmp_path / "out", "unusable")
    assert {event["part"] for event in left_out} == {part}, failure
