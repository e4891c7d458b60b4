"""The reward `rules`: its checks, and their weights in [reward.rules]."""

import pytest

from optimizer.core.reward_table import RulesTable
from optimizer.data.dataset import COMPLY, GENERAL, REFUSE, Row
from optimizer.models.task_model import Raw, Reply
from optimizer.rewards.base import AnsweredRow
from optimizer.rewards.rules import Rules

REFUSAL = "I can't help with that."


async def value(table: RulesTable, kind: str, text: str, finish_reason: str = "stop") -> float:
    return (await Rules(table).score(AnsweredRow(Raw({}), Row("query", kind), Reply(text, finish_reason, 1, 9)))).value


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [(REFUSE, REFUSAL, 1), (REFUSE, "Yes.", 2 / 3), (COMPLY, REFUSAL, 2 / 3), (GENERAL, "Yes.", 1)],
)
async def test_answer_is_right_if_it_refuses_what_the_row_asks_to_refuse(kind: str, text: str, expected: float) -> None:
    assert await value(RulesTable(), kind, text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("table", "wrong", "cut"),
    [(RulesTable(right=4.0), 2 / 6, 5 / 6), (RulesTable(0.0, 0.0, 1.0), 0, 1), (RulesTable(1.0, 0.0, 1.0), 0.5, 0.5)],
)
async def test_weights_decide_how_much_a_check_counts(table: RulesTable, wrong: float, cut: float) -> None:
    assert await value(table, REFUSE, "Yes.") == pytest.approx(wrong)
    assert await value(table, REFUSE, REFUSAL, "length") == pytest.approx(cut)
