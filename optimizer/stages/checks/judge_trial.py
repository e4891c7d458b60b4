"""Checks at the start of a run, and in `doctor`, whether the judge can be trusted. The result is only a warning.

The check sends the same requests as the run: the criteria of the training rows are chosen in this check, and used again
in the search. optimizer.rewards.judge_trust explains what is measured.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Final

from optimizer.core.candidate import Candidate
from optimizer.core.config_checks import MIN_TRUST_CASES
from optimizer.core.config_tables import RunConfig
from optimizer.core.errors import unless_final
from optimizer.core.journal import JUDGE_TRUST
from optimizer.data.dataset import REFUSE, Row
from optimizer.rewards.judge import judged_text
from optimizer.rewards.judge_model import Judge
from optimizer.rewards.judge_protocol import ROLE
from optimizer.rewards.judge_trust import (
    COMPARISONS,
    SCORES,
    Trust,
    TrustCase,
    compare_cases,
    score_cases,
    trust_cases,
)
from optimizer.rewards.registry import uses_judge
from optimizer.stages.run_context import RunContext

_ROWS_PER_CASE: Final = 4
"""For each case, the number of rows from which the cases are chosen."""
_MIN_TELLING_ROWS: Final = 2
"""If fewer rows than this do not ask for a refusal, the rows that ask for a refusal are used, too."""


async def run_judge_trial(context: RunContext, candidate: Candidate) -> None:
    """Journal one `judge_trust` event for each way in which the run uses the judge.

    The raised errors are those of `try_judge`.
    """
    for trust in await try_judge(context, candidate):
        await context.journal.note(JUDGE_TRUST, **trust_values(trust))


async def try_judge(context: RunContext, candidate: Candidate) -> list[Trust]:
    """Check whether the judge prefers the answers to training rows over the answers to other training rows.

    The answers are the references of the rows. If the references give too few cases, the task model answers the rows.

    Args:
        context: What the stages of the run share.
        candidate: The prompt and examples under which the task model answers, if it has to.

    Returns:
        The results by scores and by comparisons, as far as the run uses the judge in these ways. The list is empty if
        the run does not use the judge, or if the setting `trust` of [reward] is 0. If there are too few cases, it has
        one result, which says that the judge was not checked.

    Raises:
        ModelError: A model gave no usable reply, but a later call may succeed.
        BudgetSpentError: The budget is spent.
        JournalError: The journal cannot be written.
    """
    table = context.config.reward
    judge = scoring_judge(context)
    if not table.trust or ROLE not in context.config.models or (judge is None and not table.confirm):
        return []
    cases = await _cases(context, candidate, table.trust)
    if len(cases) < MIN_TRUST_CASES:
        return [Trust(SCORES if judge else COMPARISONS, right=0, equal=0, cases=0, unreadable=0)]
    await context.journal.note("stage", stage="judge", rows=len(cases))
    scored = [await score_cases(judge, cases)] if judge else []
    return scored + ([await compare_cases(context.judge, cases)] if table.confirm else [])


def scoring_judge(context: RunContext) -> Judge | None:
    """Return the judge with the settings with which it scores in this run; None if it scores nothing.

    If a reward uses the judge, these are the settings of [reward.judge], or else those of [examples.judge]. The model
    is the same.
    """
    if uses_judge(context.config.reward):
        return context.judge
    return context.example_judge if context.config.examples.queries else None


def trial_counts(config: RunConfig) -> tuple[int, int]:
    """Return the maximum number of cases that the judge scores, and the maximum number of cases that it compares."""
    if ROLE not in config.models:
        return 0, 0
    trust = config.reward.trust
    is_scored = uses_judge(config.reward) or config.examples.queries > 0
    return trust * is_scored, trust * (config.reward.confirm > 0)


def trust_values(trust: Trust) -> dict[str, object]:
    """Return a result as plain values for the journal."""
    share = trust.share
    return {
        "way": trust.way,
        "text": trust.text,
        "trusted": trust.is_trusted,
        "checked": trust.is_checked,
        "caution": trust.caution,
        "advice": trust.advice,
        "right": trust.right,
        "equal": trust.equal,
        "cases": trust.cases,
        "unreadable": trust.unreadable,
        "share": [share.estimate, share.low, share.high] if trust.cases > trust.equal else None,
    }


def needs_answers(rows: Sequence[Row], count: int) -> bool:
    """Return whether the task model answers training rows, because their references give too few cases."""
    return len(_telling_rows(rows)) >= MIN_TRUST_CASES > len(_reference_cases(rows, count))


async def _cases(context: RunContext, candidate: Candidate, count: int) -> tuple[TrustCase, ...]:
    train = context.data.train
    if not needs_answers(train, count):
        return _reference_cases(train, count)
    rows = _telling_rows(train)[:count]
    answers = [(judged_text(row), await _answer(context, candidate, row)) for row in rows]
    return trust_cases([(query, text) for query, text in answers if text], count)


def _reference_cases(rows: Sequence[Row], count: int) -> tuple[TrustCase, ...]:
    given = ((judged_text(row), row.reference) for row in _telling_rows(rows) if row.reference is not None)
    return trust_cases(list(islice(given, count * _ROWS_PER_CASE)), count)


def _telling_rows(rows: Sequence[Row]) -> Sequence[Row]:
    """Return the rows that ask for no refusal, because a refusal fits many queries. If they are too few, return all."""
    telling = [row for row in rows if row.kind != REFUSE]
    return telling if len(telling) >= _MIN_TELLING_ROWS else rows


async def _answer(context: RunContext, candidate: Candidate, row: Row) -> str:
    reply = await unless_final(context.task.answer(candidate, row))
    return reply.text.strip() if reply is not None else ""
