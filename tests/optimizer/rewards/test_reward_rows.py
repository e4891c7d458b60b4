"""Tests that `[reward] rows` limits a reward to kinds of rows, and that no row may be left without a reward."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest

from optimizer.core.config import read_config
from optimizer.core.errors import ConfigError
from optimizer.data.dataset import COMPLY, GENERAL, KINDS, REFUSE, Row
from optimizer.models.task_model import Raw, Reply, TaskModel
from optimizer.rewards.judge_model import Judge
from optimizer.rewards.registry import RewardResources, build_rewards, check_rewards
from optimizer.rewards.scorer import ScoredReply, Scorer
from tests.optimizer.scripted_models import write_run

BOTH = {"rules": 0.5, "reference": 0.5}


class OneAnswer:
    """A task model that gives one answer to all rows."""

    async def answer(self, _variant: object, _row: Row, _replicate: int = 0) -> Reply:
        return Reply("I'm sorry, but I can't help with that.", "stop", 1, 2)


async def score(folder: Path, kind: str, rows: Mapping[str, list[str]]) -> ScoredReply:
    run = write_run(folder, "http://127.0.0.1:9", reward={"weights": BOTH, "rows": rows})
    table, task = read_config(run).reward, cast("TaskModel", OneAnswer())
    rewards = build_rewards(RewardResources(table, task, cast("Judge", None)))
    row = Row("How?", kind, "I'm sorry, but I can't help with that.")
    return await Scorer(task, rewards, table.weights).score(Raw({}), row)


@pytest.mark.parametrize("kind", KINDS)
async def test_reward_scores_only_rows_of_its_kinds(kind: str, tmp_path: Path) -> None:
    limited = await score(tmp_path, kind, {"reference": [GENERAL, COMPLY]})
    everywhere = await score(tmp_path, kind, {})
    assert set(everywhere.parts) == set(BOTH)
    assert set(limited.parts) == ({"rules"} if kind == REFUSE else set(BOTH))
    assert limited.score == (limited.parts["rules"].value if kind == REFUSE else everywhere.score)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"judge": ["general"]}, "rows names judge, which is no reward of this run. It may name reference, rules"),
        ({"reference": ["harmful"]}, "rows: reference needs a list of kinds of rows: comply, general, refuse"),
        ({"reference": []}, "rows: reference needs a list of kinds of rows"),
        ({"reference": ["general"], "rules": ["comply"]}, "no reward of weights scores the rows of the kind refuse"),
    ],
)
def test_rows_that_cannot_be_scored_are_refused(rows: Mapping[str, list[str]], message: str, tmp_path: Path) -> None:
    run = write_run(tmp_path, "http://127.0.0.1:9", reward={"weights": BOTH, "rows": rows})
    with pytest.raises(ConfigError, match=r"\[reward\] rows") as raised:
        check_rewards(read_config(run))
    assert message in str(raised.value)


def test_rewards_of_the_search_must_score_all_rows_too(tmp_path: Path) -> None:
    table = {"weights": BOTH, "screen": {"reference": 1.0}, "rows": {"reference": ["general"]}}
    with pytest.raises(ConfigError, match="no reward of screen scores the rows of the kind comply"):
        check_rewards(read_config(write_run(tmp_path, "http://127.0.0.1:9", reward=table)))
