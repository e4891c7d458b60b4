"""Measures how often a judge agrees with people. The judge compares two answers to a query in both orders.

The data is a JSONL file. Each line is a pair of answers with the number of the answer that a person prefers:

    {"query": "...", "first": "...", "second": "...", "better": 1 | 2, "subset": "..."}

The keys of the data set LLMBar (instruction, output_1, output_2, label) are accepted too. The judge is asked as in a
run: in the first reply format that works, and with a reminder after a reply that cannot be read. A preference that
cannot be read even then is counted, because the share of readable preferences is part of the result.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from index.bundle.strict_json import is_integer, parse_json, without_nulls
from index.measures.confidence import Interval, clustered_share, wilson
from optimizer.core.concurrency import gather_or_cancel
from optimizer.core.errors import DataError, unless_final
from optimizer.data.dataset import read_lines
from optimizer.rewards.judge_model import Judge

_FIELD_NAMES = (("query", "first", "second", "better"), ("instruction", "output_1", "output_2", "label"))


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one query, and which one a person prefers.

    Attributes:
        query: The query.
        first: Answer 1.
        second: Answer 2.
        better: The number of the answer that a person prefers: 1 or 2.
        subset: The part of the data set that the pair belongs to; may be empty.
    """

    query: str
    first: str
    second: str
    better: int
    subset: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """The answer that the judge prefers in a pair, from two requests that show the answers in different orders.

    Attributes:
        pair: The pair that was judged.
        in_order: The number of the preferred answer (1 or 2) if the request shows answer 1 first. None if the reply
            cannot be read.
        swapped: The number of the preferred answer (1 or 2) if the request shows answer 2 first. None if the reply
            cannot be read.
    """

    pair: Pair
    in_order: int | None
    swapped: int | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """The agreement of a judge with people, as shares with 95 % intervals.

    The two replies for a pair depend on each other. So the intervals of shares of replies take each pair as a cluster.

    Attributes:
        pairs: Number of pairs.
        accuracy: Share of the readable preferences that are for the answer that the person prefers.
        both: Share of pairs for which both replies prefer the same answer as the person. Pairs with an unreadable reply
            are left out.
        consistent: Share of pairs for which both replies prefer the same answer, right or wrong. Pairs with an
            unreadable reply are left out.
        first_shown: Share of the readable preferences that are for the answer shown first; 0.5 means no position bias.
        readable: Share of all replies that are readable.
    """

    pairs: int
    accuracy: Interval
    both: Interval
    consistent: Interval
    first_shown: Interval
    readable: Interval


def read_pairs(path: Path, limit: int | None) -> tuple[Pair, ...]:
    """Read the first `limit` pairs of a JSONL file; None reads all pairs. Raises DataError."""
    pairs = [pair for _, pair in read_lines(path, _parse_pair)]
    if not pairs:
        raise DataError(f"{path} contains no pair. Write at least one pair, as a line of JSON.")
    return tuple(pairs[:limit])


async def check_judge(judge: Judge, pairs: Sequence[Pair], on_preference: Callable[[], None]) -> list[Judgement]:
    """Judge every pair in both orders.

    Args:
        judge: The judge.
        pairs: The pairs.
        on_preference: Called after each comparison, whether it can be read or not. Each pair has two comparisons.

    Raises:
        ModelError: The judge gave no usable reply, but a later call may succeed.
        BudgetSpentError: The budget does not allow a call.
    """
    return await gather_or_cancel(_judge_pair(judge, pair, on_preference) for pair in pairs)


def agreement(judgements: Sequence[Judgement]) -> Agreement:
    """Compute how often the judge agrees with people."""
    complete = [one for one in judgements if one.in_order is not None and one.swapped is not None]
    replies = [(one, ((one.in_order, 1), (one.swapped, 2))) for one in judgements]
    read = [(one, [(found, shown) for found, shown in both if found is not None]) for one, both in replies]
    return Agreement(
        pairs=len(judgements),
        accuracy=clustered_share([[found == one.pair.better for found, _ in both] for one, both in read]),
        both=_share([one.in_order == one.swapped == one.pair.better for one in complete]),
        consistent=_share([one.in_order == one.swapped for one in complete]),
        first_shown=clustered_share([[found == shown for found, shown in both] for _, both in read]),
        readable=clustered_share([[found is not None for found, _ in both] for _, both in replies]),
    )


def agreement_table(judgements: Sequence[Judgement], model: str) -> Table:
    """Return a table of the agreement on all pairs and, if there are several subsets, on each subset."""
    table = Table(title=f"{model} against people", title_justify="left")
    for name in ("pairs", "accuracy", "right in both orders", "consistent", "prefers first shown", "readable"):
        table.add_column(name, justify="right")
    table.columns[0].justify = "left"
    for name, group in _groups(judgements):
        found = agreement(group)
        shares = (found.accuracy, found.both, found.consistent, found.first_shown, found.readable)
        table.add_row(f"{name} ({found.pairs})", *(share_text(share) for share in shares))
    return table


async def _judge_pair(judge: Judge, pair: Pair, on_preference: Callable[[], None]) -> Judgement:
    async def prefers_shown_first(first: str, second: str) -> bool | None:
        """Return whether the judge prefers the first answer; None if its reply cannot be read or it refuses."""
        try:
            return await unless_final(judge.prefers(pair.query, first, second))
        finally:
            on_preference()

    in_order, swapped = await gather_or_cancel(
        [prefers_shown_first(pair.first, pair.second), prefers_shown_first(pair.second, pair.first)]
    )
    return Judgement(pair, _number(in_order), _number(None if swapped is None else not swapped))


def _number(prefers_first: bool | None) -> int | None:
    """Return the number of the preferred answer; None if there is no preference."""
    return None if prefers_first is None else 2 - prefers_first


def _groups(judgements: Sequence[Judgement]) -> Iterator[tuple[str, Sequence[Judgement]]]:
    yield "all", judgements
    subsets = dict.fromkeys(one.pair.subset for one in judgements)
    if len(subsets) > 1:
        for subset in subsets:
            yield subset or "others", [one for one in judgements if one.pair.subset == subset]


def _parse_pair(line: bytes, location: str) -> Pair:
    record = without_nulls(parse_json(line, location))
    names = next((names for names in _FIELD_NAMES if isinstance(record, dict) and record.keys() >= set(names)), None)
    if not isinstance(record, dict) or names is None:
        raise DataError(f"{location}: a pair needs query, first, second and better (1 or 2)")
    query, first, second, better = (record[name] for name in names)
    if not is_integer(better, 1, 2) or not all(isinstance(text, str) for text in (query, first, second)):
        raise DataError(f"{location}: query and both answers must be texts, and better must be 1 or 2")
    return Pair(query, first, second, better, str(record.get("subset", "")))


def _share(outcomes: Sequence[bool]) -> Interval:
    return wilson(sum(outcomes), len(outcomes))


def share_text(share: Interval) -> str:
    """Return a share with its interval, as the tables show it."""
    return f"{share.estimate:.3f} [{share.low:.2f}, {share.high:.2f}]"
