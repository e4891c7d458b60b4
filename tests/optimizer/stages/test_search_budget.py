"""A search with a small budget has several levels, also if run.toml does not set the length of its races."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from optimizer.core.config import read_config
from optimizer.core.journal import RACE_LENGTH, Event, Journal, read_journal
from optimizer.estimation.estimate import estimate
from optimizer.stages.run_context import open_run_context
from tests.optimizer.scripted_models import open_scripted_models, run_config, write_run

UNSEALED: Mapping[str, Any] = {"data": {"sealed": None}, "bundle": {"write": "found"}, "tune": {"k": []}}
SEARCH: Mapping[str, Any] = {"depth": 6, "queries": None, "alpha": 0.001, "indifference": 0.0, "patience": 6}


def close_scores(quality: int, query: str) -> Mapping[str, int]:
    """Return scores with which no race ends early: the better prompt is worse on three of seven queries."""
    is_worse = int(query.rsplit(maxsplit=1)[-1]) % 7 in (0, 2, 5)
    return {"helpfulness": 5 - min(quality, 4) if is_worse else 1 + min(quality, 4), "clarity": 3}


def notes(folder: Path, name: str) -> list[Event]:
    return [event for event in read_journal(folder) if event.get("note") == name]


@pytest.mark.parametrize("budget", [{"calls": 600}, {"tokens": 60_000}, {"money": 20.0}], ids=str)
async def test_search_with_a_small_budget_has_several_levels(budget: Mapping[str, Any], tmp_path: Path) -> None:
    prices = {f"models__{role}": {"price_prompt": 1000.0} for role in ("task", "judge", "optimizer")}
    async with open_scripted_models(scores=close_scores) as (_, url):
        config = write_run(tmp_path, url, rows=200, search=SEARCH, budget=budget, **UNSEALED, **prices)
        await run_config(config, tmp_path / "out")
    (found,) = notes(tmp_path / "out", RACE_LENGTH)
    assert found["limit"] == next(iter(budget))
    assert 4 <= found["queries"] < 120
    levels = notes(tmp_path / "out", "level")
    assert len(levels) >= 2
    assert max(len(one["scores"]) for level in levels for one in level["ranked"]) <= found["queries"]


@pytest.mark.parametrize(("search", "budget"), [({"queries": 40}, {"calls": 600}), ({"queries": None}, {})], ids=str)
async def test_length_that_is_set_or_not_limited_stays(
    search: Mapping[str, Any], budget: Mapping[str, Any], tmp_path: Path
) -> None:
    async with open_scripted_models(scores=close_scores) as (_, url):
        keys = {**SEARCH, "depth": 1, **search}
        await run_config(write_run(tmp_path, url, rows=200, search=keys, budget=budget, **UNSEALED), tmp_path / "out")
    assert not notes(tmp_path / "out", RACE_LENGTH)
    (level,) = notes(tmp_path / "out", "level")
    longest = search["queries"] or 120
    assert longest - 12 < len(level["ranked"][0]["scores"]) <= longest


async def test_resumed_run_with_more_budget_repeats_its_races(tmp_path: Path) -> None:
    found = []
    async with open_scripted_models(scores=close_scores) as (models, url):
        for calls in (50, 2_000):
            config = write_run(tmp_path, url, rows=200, search=SEARCH, budget={"calls": calls}, **UNSEALED)
            await run_config(config, tmp_path / "out")
            found.append(notes(tmp_path / "out", "level"))
    first, both = found
    assert 1 <= len(first) < len(both)
    assert both[: len(first)] == first
    assert len(notes(tmp_path / "out", RACE_LENGTH)) == 1
    assert max(models.paid.values()) == 1


async def test_estimate_knows_that_a_small_budget_has_short_races(tmp_path: Path) -> None:
    medians = []
    async with open_scripted_models() as (_, url):
        for calls in (400, 100_000):
            search = {**SEARCH, "depth": 3}
            config = read_config(write_run(tmp_path, url, rows=200, search=search, budget={"calls": calls}))
            with Journal(tmp_path / str(calls)) as journal:
                async with open_run_context(config, journal, print) as context:
                    medians.append((await estimate(context)).calls.median)
    assert medians[0] < medians[1] / 2
