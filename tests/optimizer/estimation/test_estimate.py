"""Tests that the estimate counts the calls of every part of a run, and does not depend on a single row."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from optimizer.core.config import read_config
from optimizer.core.journal import Journal
from optimizer.data.split import read_split
from optimizer.estimation.estimate import estimate
from optimizer.estimation.simulated_space import SimulatedSpace
from optimizer.estimation.simulation import by_role, simulate
from optimizer.search.space import Step
from optimizer.stages.run_context import open_run_context
from tests.optimizer.rewards.test_judge_formats import with_log_probabilities
from tests.optimizer.scripted_endpoint import completion
from tests.optimizer.scripted_models import open_scripted_models, write_run


@pytest.mark.parametrize(("confirm", "calls"), [(0, 0), (5, 10), (12, 24), (500, 24)])
async def test_comparisons_of_the_sealed_evaluation_are_counted(confirm: int, calls: int, tmp_path: Path) -> None:
    reward = {"weights": {"rules": 1.0}, "confirm": confirm}
    config = read_config(write_run(tmp_path, "http://127.0.0.1:9", reward=reward))
    assert by_role(await simulate(config, read_split(config.data, 0), 0))["judge"] == calls


async def test_writer_is_counted_for_the_slots_of_its_proposers(tmp_path: Path) -> None:
    async def writer_calls(*propose: str) -> int:
        search = {"propose": list(propose), "depth": 6, "patience": 6}
        tables: dict[str, Any] = {"reward": {"weights": {"rules": 1.0}}, "search": search, "models__judge": None}
        config = read_config(write_run(tmp_path, "http://127.0.0.1:9", **tables))
        runs = [await simulate(config, read_split(config.data, 0), seed) for seed in range(10)]
        return sum(by_role(run)["optimizer"] for run in runs)

    assert await writer_calls("edits", "retrieval") == 0
    assert 0 < await writer_calls("examples") < await writer_calls("writer", "edits") < await writer_calls("writer")


async def test_slot_without_a_new_rewrite_goes_to_another_proposer(tmp_path: Path) -> None:
    async def made(*propose: str) -> list[int]:
        config = read_config(write_run(tmp_path, "http://127.0.0.1:9", search={"propose": list(propose)}))
        spaces = [SimulatedSpace(config, random.Random(seed)) for seed in range(20)]
        return [len(await space.expand((Step(0, ()),), 6, 0)) for space in spaces]

    assert min(await made("writer")) < 6, "some rewrites repeat an earlier prompt"
    assert set(await made("writer", "edits")) == {6}


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


@pytest.mark.parametrize(
    ("tables", "roles"),
    [
        ({"models__judge": None, "models__optimizer": None, "reward": {"weights": {"rules": 1.0}}}, {"task"}),
        ({"models__judge": None, "reward": {"weights": {"rules": 1.0}}}, {"task", "optimizer"}),
        ({"models__optimizer": None}, {"task", "judge"}),
    ],
    ids=["rules alone", "no judge", "no writer"],
)
async def test_run_without_a_model_is_estimated_without_calls_to_it(
    tables: Mapping[str, Any], roles: set[str], tmp_path: Path
) -> None:
    async with open_scripted_models() as (_, url):
        config = read_config(write_run(tmp_path, url, **tables))
        with Journal(tmp_path / "estimate") as journal:
            async with open_run_context(config, journal, print) as context:
                found = await estimate(context)
    assert found.by_role.keys() == roles
    assert found.tokens.low > 0


@pytest.mark.parametrize("weights", [{"judge": 1.0}, {"judge": 0.5, "rules": 0.5}])
@pytest.mark.parametrize("examples", [0, 10])
async def test_judge_that_replies_with_digits_is_called_for_each_criterion(
    weights: Mapping[str, float], examples: int, tmp_path: Path
) -> None:
    tables: dict[str, Any] = {"reward": {"weights": weights, "confirm": 4}, "examples": {"queries": examples}}
    config = read_config(write_run(tmp_path, "http://127.0.0.1:9", **tables))
    data = read_split(config.data, 0)
    for seed in range(3):
        whole = by_role(await simulate(config, data, seed))
        letters = by_role(await simulate(config, data, seed, asks_for_letters=True))
        ratings = letters["task"]
        assert letters["judge"] >= 2 * ratings, "at least two criteria for each answer"
        assert letters["judge"] <= 5 * ratings + 300
        assert whole["judge"] < letters["judge"]


async def test_estimate_finds_out_that_the_judge_replies_with_digits(tmp_path: Path) -> None:
    def only_digits(body: Mapping[str, Any]) -> tuple[int, bytes] | None:
        if body["model"] != "judge":
            return None
        is_digit = "one digit" in body["messages"][0]["content"]
        return with_log_probabilities("4", _4=1.0)[::2] if is_digit else completion("I would rather not.")[::2]

    medians = []
    async with open_scripted_models() as (models, url):
        config = read_config(write_run(tmp_path, url, examples={"queries": 4}))
        for fault in (models.fault, only_digits):
            models.fault = fault
            with Journal(tmp_path / fault.__name__) as journal:
                async with open_run_context(config, journal, print) as context:
                    medians.append((await estimate(context)).by_role["judge"].median)
    assert medians[1] > 2 * medians[0]
