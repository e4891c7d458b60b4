"""The tuning stage adopts a value only if its lead is significant, and keeps adopted values when the budget ends."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from index.bundle.bundle import default_bundle_directory, load_bundle
from index.embedders.registry import DEFAULT_EMBEDDER, open_embedder
from optimizer.core.candidate import Candidate, from_bundle
from optimizer.core.config import read_config
from optimizer.core.config_tables import TuneTable
from optimizer.core.errors import BudgetSpentError
from optimizer.core.journal import Journal
from optimizer.data.dataset import Row
from optimizer.data.unusable_rows import UnusableRows
from optimizer.models.task_model import Reply
from optimizer.rewards.scorer import ScoredReply, Scorer
from optimizer.search.levels import RacedSettings
from optimizer.search.race import RaceSettings
from optimizer.stages.candidate_gate import CandidateGate
from optimizer.stages.scored_rows import ScoredRows
from optimizer.stages.tuning_stage import tune
from tests.optimizer.scripted_models import write_run

ROWS = [Row(f"query {number}") for number in range(60)]
SETTINGS = RacedSettings(2, 3, 8, 2, RaceSettings(max_queries=60))


class Scripted:
    """Scores a candidate by a function of the candidate, with the noise of real rewards."""

    def __init__(self, quality: Callable[[Candidate], float]) -> None:
        self._quality = quality

    async def score(self, candidate: Candidate, row: Row, replicate: int = 0) -> ScoredReply:
        # The noise must not depend on the texts of the bundle, or a reworded example would change the result.
        settings = f"{sorted(candidate.sampling.items())} {candidate.retrieval} {candidate.layout}"
        noise = random.Random(f"{settings} {row.query} {replicate}").gauss(0, 0.1)
        return ScoredReply(Reply("Yes.", "stop", 1, 1, ()), self._quality(candidate) + noise, {})


async def tuned(table: TuneTable, quality: Callable[[Candidate], float], folder: Path) -> dict[str, Any]:
    start = from_bundle(load_bundle(default_bundle_directory(), open_embedder(DEFAULT_EMBEDDER)))
    kept = [replace(start, retrieval=replace(start.retrieval, policy="set", k=3))]
    with Journal(folder) as journal:
        scorer = cast("Scorer", Scripted(quality))
        rows = ScoredRows("tune", ROWS, scorer, journal, UnusableRows(journal, "validation", len(ROWS), 0.05))
        config = read_config(write_run(folder, "http://127.0.0.1:9"))
        gate = CandidateGate(config, kept[0].bank.embedder, journal, ())
        try:
            await tune(kept[0], table, rows, gate, SETTINGS, kept.append)
        except BudgetSpentError:
            return {"spent": True, **kept[-1].sampling}
    return {**kept[-1].sampling}


async def test_values_without_effect_are_not_adopted(tmp_path: Path) -> None:
    values = tuple(number / 20 for number in range(12))
    before = await tuned(TuneTable(k=(), order=()), lambda _: 0.5, tmp_path / "none")
    after = await tuned(
        TuneTable(k=(), order=(), frequency_penalty=values, temperature=values), lambda _: 0.5, tmp_path / "many"
    )
    assert after == before


async def test_number_of_nearest_is_tuned_only_under_a_policy_that_shows_them(tmp_path: Path) -> None:
    for best, expected in (
        ("set", {("set", 3), ("nearest", 3), ("set_and_nearest", 3)}),
        ("nearest", {("set", 3), ("nearest", 3), ("set_and_nearest", 3), ("nearest", 1), ("nearest", 5)}),
        (
            "set_and_nearest",
            {("set", 3), ("nearest", 3), ("set_and_nearest", 3), ("set_and_nearest", 1), ("set_and_nearest", 5)},
        ),
    ):
        scored = set()

        def quality(candidate: Candidate, best: str = best, scored: set[tuple[str, int]] = scored) -> float:
            scored.add((candidate.retrieval.policy, candidate.retrieval.k))
            return 0.9 if candidate.retrieval.policy == best else 0.1

        table = TuneTable(policy=("nearest", "set_and_nearest"), k=(1, 5), order=())
        await tuned(table, quality, tmp_path / best)
        assert scored == expected


async def test_adopted_values_are_kept_when_the_budget_ends(tmp_path: Path) -> None:
    def quality(candidate: Candidate) -> float:
        if candidate.sampling.get("temperature") == 0.7:
            raise BudgetSpentError("calls")
        return 0.5 + (candidate.sampling["frequency_penalty"] == 0.9) / 5

    table = TuneTable(k=(), order=(), frequency_penalty=(0.3, 0.9), temperature=(0.7,))
    found = await tuned(table, quality, tmp_path)
    assert found["spent"]
    assert found["frequency_penalty"] == pytest.approx(0.9)
