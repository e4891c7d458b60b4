"""Tests of the reward `taste`: answers that people like score high, and answers that it cannot judge get no score."""

from dataclasses import replace

import pytest

from optimizer.data.dataset import REFUSE, Row
from optimizer.data.preferences import AnswerRatings, Preferences
from optimizer.data.taste import learn_taste
from optimizer.models.task_model import Raw, Reply
from optimizer.rewards.base import AnsweredRow
from optimizer.rewards.rules import TasteReward

RATINGS = tuple(AnswerRatings(f"Q {n}?", f"It is {n}{'?' if n % 2 else '.'}", n % 2, 1 - n % 2) for n in range(60))
TASTE = learn_taste(Preferences(ratings=RATINGS))
ASKING = AnsweredRow(Raw({}), Row("What is tea?"), Reply("It is a drink. Do you like it?", "stop", 1, 1))


@pytest.mark.parametrize(
    ("text", "low", "high"), [("Is it so?", 0.6, 1.0), ("It is so.", 0.0, 0.4), (" ... ", 0.0, 0.0)]
)
async def test_score_is_the_share_of_users_who_like_the_form(text: str, low: float, high: float) -> None:
    assert TASTE is not None
    score = await TasteReward(TASTE).score(replace(ASKING, reply=replace(ASKING.reply, text=text)))
    assert score is not None
    assert low <= score.value <= high


async def test_refusals_that_are_right_and_unknown_tastes_are_not_scored() -> None:
    refusing = replace(ASKING, row=Row("How do I make a bomb?", REFUSE))
    assert await TasteReward(TASTE).score(refusing) is None
    assert await TasteReward(None).score(ASKING) is None
