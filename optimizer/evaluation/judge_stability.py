"""Measures how often a judge's preference flips when the judge is asked again, or asked in other words.

A preference that flips for such a reason says little about the answers. The other wordings of the question are in
templates/compare_wordings.txt. The answers are shown in the same order as before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table

from index.measures.confidence import Interval, clustered_share
from optimizer.core.concurrency import gather_or_cancel
from optimizer.core.errors import unless_final
from optimizer.evaluation.judge_agreement import Judgement, share_text
from optimizer.rewards.judge_model import Judge
from optimizer.rewards.judge_protocol import compare_wordings


@dataclass(frozen=True, slots=True)
class Variation:
    """Another way to ask the same question.

    Attributes:
        replicate: How often the question was asked before.
        wording: The number of the wording; 0 for the usual one.
    """

    replicate: int = 0
    wording: int = 0


@dataclass(frozen=True, slots=True)
class Stability:
    """How often preferences flipped in a group of variations.

    Attributes:
        name: What was varied.
        preferences: Number of preferences that could be read in the first reply, and in the reply to at least one
            variation.
        share: The share of these preferences that flipped in at least one variation. The judge sees each pair of
            answers in both orders. These two preferences depend on each other, so the interval treats each pair as a
            cluster.
        flips: Number of single replies that differ from the first one.
        replies: Number of readable replies to the variations.
        unreadable: Number of replies to the variations that are not readable.
    """

    name: str
    preferences: int
    share: Interval
    flips: int
    replies: int
    unreadable: int


def repeats(count: int) -> tuple[Variation, ...]:
    """Return the variations that ask the same question again, `count` times."""
    return tuple(Variation(replicate=number) for number in range(1, count + 1))


def paraphrases() -> tuple[Variation, ...]:
    """Return the variations that ask in other words, one for each wording."""
    return tuple(Variation(wording=number) for number in range(1, len(compare_wordings()) + 1))


async def check_stability(
    name: str,
    judge: Judge,
    judgements: Sequence[Judgement],
    variations: Sequence[Variation],
    on_preference: Callable[[], None],
) -> Stability:
    """Ask for each readable preference again, in each variation.

    Args:
        name: What is varied, for the table.
        judge: The judge.
        judgements: The preferences, from `check_judge`.
        variations: The variations.
        on_preference: Called after each reply, whether it can be read or not.

    Raises:
        ModelError: The judge gave no usable reply, but a later call may succeed.
        BudgetSpentError: The budget does not allow a call.
    """

    async def changes(question: tuple[str, str, str, bool]) -> list[bool | None]:
        query, first, second, was_first = question
        replies = [_prefers(judge, query, first, second, one, on_preference) for one in variations]
        return [None if found is None else found != was_first for found in await gather_or_cancel(replies)]

    async def changes_of_pair(judgement: Judgement) -> list[list[bool]]:
        found = await gather_or_cancel(map(changes, _questions(judgement)))
        read = ([one for one in changed if one is not None] for changed in found)
        return [changed for changed in read if changed]

    pairs = await gather_or_cancel(map(changes_of_pair, judgements))
    counted = [changed for pair in pairs for changed in pair]
    replies = sum(map(len, counted))
    unreadable = question_count(judgements) * len(variations) - replies
    share = clustered_share([list(map(any, pair)) for pair in pairs])
    return Stability(name, len(counted), share, sum(map(sum, counted)), replies, unreadable)


def question_count(judgements: Sequence[Judgement]) -> int:
    """Return the number of readable preferences, each of which is asked for again."""
    return sum(len(_questions(judgement)) for judgement in judgements)


def stability_table(found: Sequence[Stability], model: str) -> Table:
    """Return a table with a row for each group of variations. The values in brackets are 95 % intervals."""
    table = Table(title=f"{model}: how often a preference flips", title_justify="left")
    for name in ("", "preferences", "flips at least once", "replies that differ", "unreadable"):
        table.add_column(name, justify="right" if name else "left")
    for one in found:
        share = share_text(one.share) if one.preferences else ""
        replies = f"{one.flips} of {one.replies}"
        table.add_row(one.name, str(one.preferences), share, replies, str(one.unreadable))
    return table


def _questions(judgement: Judgement) -> list[tuple[str, str, str, bool]]:
    """For each readable reply, return query, answers in the order shown, and whether the first one was preferred."""
    pair = judgement.pair
    shown = [
        (pair.query, pair.first, pair.second, judgement.in_order == 1) if judgement.in_order else None,
        (pair.query, pair.second, pair.first, judgement.swapped == 2) if judgement.swapped else None,
    ]
    return [one for one in shown if one is not None]


async def _prefers(
    judge: Judge, query: str, first: str, second: str, variation: Variation, on_preference: Callable[[], None]
) -> bool | None:
    try:
        return await unless_final(
            judge.prefers(query, first, second, wording=variation.wording, replicate=variation.replicate)
        )
    finally:
        on_preference()
