"""The estimate counts the calls of every part of a run, and does not depend on a single row."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from optimizer.core.config import read_config
from optimizer.core.journal import Journal
from optimizer.data.split import read_split
from optimizer.stages.estimate import estimate, simulate
from optimizer.stages.run_context import open_run_context
from tests.optimizer.scripted_models import open_scripted_models, write_run


@pytest.mark.parametrize(("confirm", "calls"), [(0, 0), (5, 10), (12, 24), (500, 24)])
async def test_comparisons_of_the_sealed_evaluation_are_counted(confirm: int, calls: int, tmp_path: Path) -> None:
    reward = {"weights": {"rules": 1.0}, "confirm": confirm}
    config = read_config(write_run(tmp_path, "http://127.0.0.1:9", reward=reward))
    assert (await simulate(config, read_split(config.data, 0), 0))["judge"] == calls


async def test_row_that_cannot_be_used_does_not_end_the_estimate(tmp_path: Path) -> None:
    async with open_scripted_models() as (models, url):
        config = read_config(write_run(tmp_path, url))
        refused = read_split(config.data, config.search.seed).train[1].query

        def fault(body: Mapping[str, Any]) -> tuple[int, bytes] | None:
            return (400, b"{}") if body["messages"][-1]["content"] == refused else None

        models.fault = fault
        with Journal(tmp_path / "estimate") as journal:
            async with open_run_context(config, journal, print) as context:
                assert (await estimate(context)).calls.median > 0
