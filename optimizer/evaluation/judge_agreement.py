"""Measures how often a judge agrees with people. The judge compares two answers to a query in both orders.

The data is a JSONL file. Each line is a pair of answers with the number of the answer that a person prefers:

    {"query": "...", "first": "...", "second": "...", "better": 1 | 2, "subset": "..."}

The keys of the data set LLMBar (instruction, output_1, output_2, label) are accepted too. A reply of the judge that
cannot be read is counted and not requested again, because the share of readable replies is part of the result.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from index.bundle.strict_json import is_integer, parse_json, without_nulls
from index.measures.confidence import Interval, wilson
from optimizer.core.errors import DataError, ModelError, UnparsableReplyError
from optimizer.data.dataset import read_lines
from optimizer.models.cached_calls import CachedCalls
from optimizer.models.request import Json, Request, reply_reader
from optimizer.rewards.judge_protocol import preference_request, read_preference

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

    Attributes:
        pairs: Number of pairs.
        accuracy: Share of readable replies that prefer the same answer as the person.
        both: Share of pairs for which both replies prefer the same answer as the person. Pairs with an unreadable reply
            are left out.
        consistent: Share of pairs for which both replies prefer the same answer, right or wrong. Pairs with an
            unreadable reply are left out.
        first_shown: Share of readable replies that prefer the answer shown first; 0.5 means no position bias.
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
        raise DataError(f"{path}: there is no pair")
    return tuple(pairs[:limit])


async def check_judge(calls: CachedCalls, pairs: Sequence[Pair]) -> list[Judgement]:
    """Judge every pair in both orders. Raises ModelError, BudgetSpentError."""
    return list(await asyncio.gather(*(_judge_pair(calls, pair) for pair in pairs)))


def agreement(judgements: Sequence[Judgement]) -> Agreement:
    """Compute how often the judge agrees with people."""
    preferences = [(one.pair.better, preferred) for one in judgements for preferred in (one.in_order, one.swapped)]
    complete = [one for one in judgements if one.in_order is not None and one.swapped is not None]
    first_shown = [one.in_order == 1 for one in judgements if one.in_order is not None]
    first_shown += [one.swapped == 2 for one in judgements if one.swapped is not None]
    return Agreement(
        pairs=len(judgements),
        accuracy=_share([preferred == better for better, preferred in preferences if preferred is not None]),
        both=_share([one.in_order == one.swapped == one.pair.better for one in complete]),
        consistent=_share([one.in_order == one.swapped for one in complete]),
        first_shown=_share(first_shown),
        readable=_share([preferred is not None for _, preferred in preferences]),
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
        table.add_row(f"{name} ({found.pairs})", *(_share_text(share) for share in shares))
    return table


@reply_reader("optimizer.judge_check.read_either")
def read_either(reply: Any) -> Json:
    """Read whether the judge prefers A or B. For a preference that cannot be read, `better` is None.

    An error would make CachedCalls request the reply again. Here a reply without a preference is part of the result.
    """
    try:
        return read_preference(reply)
    except (UnparsableReplyError, KeyError):
        return {"better": None}


async def _judge_pair(calls: CachedCalls, pair: Pair) -> Judgement:
    in_order, swapped = await asyncio.gather(
        _ask(calls, preference_request(pair.query, pair.first, pair.second)),
        _ask(calls, preference_request(pair.query, pair.second, pair.first)),
    )
    return Judgement(pair, _preferred_answer(in_order, "A"), _preferred_answer(swapped, "B"))


async def _ask(calls: CachedCalls, request: Request) -> Json:
    """Ask the judge. A request that the server refuses for good counts as a reply without a preference."""
    try:
        return await calls.ask(request, read_either)
    except ModelError as error:
        if not error.is_final:
            raise
        return {"better": None}


def _preferred_answer(reply: Json, letter_of_first: str) -> int | None:
    if reply["better"] is None:
        return None
    return 1 if reply["better"] == letter_of_first else 2


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
        raise DataError(f"{location}: needs query, first, second and better (1 or 2)")
    query, first, second, better = (record[name] for name in names)
    if not is_integer(better, 1, 2) or not all(isinstance(text, str) for text in (query, first, second)):
        raise DataError(f"{location}: query and both answers must be texts, and the better one 1 or 2")
    return Pair(query, first, second, better, str(record.get("subset", "")))


def _share(outcomes: Sequence[bool]) -> Interval:
    return wilson(sum(outcomes), len(outcomes))


def _share_text(share: Interval) -> str:
    return f"{share.estimate:.3f} [{share.low:.2f}, {share.high:.2f}]"
