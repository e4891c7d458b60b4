"""Tests that the published algorithm keeps and rewrites prompts as in the searches that DRPO's authors recorded."""

import json
from typing import Any, Final

import pytest

from optimizer.rewards.judge_model import JudgeRating
from optimizer.rewards.judge_replies import MAX_SCORE, MIN_SCORE
from optimizer.search.published import PublishedSettings, keeps_prompt
from optimizer.search.space import Outcome
from optimizer.stages.candidate_space import ScoreScale
from tests.measurement import DATA

TRACES: Final = DATA / "drpo" / "traces.json"
KEEP_ABOVE: Final = PublishedSettings().keep_above


def judged(scores: dict[str, int]) -> Outcome:
    """Return the outcome of scores, computed as in a run: as a reward from 0 to 1, which is mapped back to 1 to 5."""
    mean = JudgeRating(scores, dict.fromkeys(scores, "")).mean
    return Outcome(0, ScoreScale(1.0, 5.0).convert((mean - MIN_SCORE) / (MAX_SCORE - MIN_SCORE)))


@pytest.mark.skipif(not TRACES.is_file(), reason=f"the recorded searches are not at {TRACES}: set DRPO_DATA")
def test_prompts_are_kept_and_rewritten_as_in_the_recorded_searches() -> None:
    searches: dict[str, list[dict[str, Any]]] = json.loads(TRACES.read_text(encoding="utf-8"))
    recorded = [
        level for levels in searches.values() for level in levels if level.get("kept_for_next_level") is not None
    ]
    decided = [keeps_prompt(judged(level["scores"]), KEEP_ABOVE) for level in recorded]
    assert len(recorded) == 259
    assert decided == [level["kept_for_next_level"] for level in recorded]
    assert sum(decided) == 156


@pytest.mark.parametrize(
    ("scores", "is_kept"),
    [
        ({"a": 5, "b": 5}, True),
        ({"a": 5, "b": 4}, False),
        ({"a": 5, "b": 5, "c": 4}, True),
        ({"a": 5, "b": 5, "c": 5, "d": 3}, False),
        ({"a": 5, "b": 5, "c": 5, "d": 5, "e": 3}, True),
        ({"a": 4}, False),
    ],
)
def test_mean_above_4_5_keeps_the_prompt(scores: dict[str, int], is_kept: bool) -> None:
    assert keeps_prompt(judged(scores), KEEP_ABOVE) == is_kept


def test_full_marks_and_unreadable_judgements_keep_the_prompt_whatever_the_limit() -> None:
    assert keeps_prompt(judged({"a": 5, "b": 5}), 5.0)
    assert not keeps_prompt(judged({"a": 5, "b": 4}), 5.0)
    assert keeps_prompt(Outcome(0, 0.0, readable=False), 5.0)
