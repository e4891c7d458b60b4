"""How far a judge agrees with people: pairs of answers with a human label, each judged in both orders. Knows pairs and
counts; a reply that cannot be read is counted, and asked for once.

    {"query": "...", "first": "...", "second": "...", "better": 1 | 2, "subset": "..."}

LLMBar's names for the same (instruction, output_1, output_2, label) are read too.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.table import Table

from optimizer.core.confidence import Interval, wilson
from optimizer.core.errors import DataError, UnparsableReplyError
from optimizer.models.cached_calls import Calls, Json
from optimizer.rewards.judge import preference_request, read_preference

_NAMES = (("query", "first", "second", "better"), ("instruction", "output_1", "output_2", "label"))


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to a query; better: 1 or 2, by a person."""

    query: str
    first: str
    second: str
    better: int
    subset: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the judge preferred, 1 or 2 as the pair numbers them, shown in order and swapped; None: unreadable."""

    pair: Pair
    in_order: int | None
    swapped: int | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """accuracy: of all readable replies; both: pairs judged right in both orders; consistent: pairs judged alike in
    both; first_shown: replies that prefer what was shown first (0.5 is no bias); readable: of all replies."""

    pairs: int
    accuracy: Interval
    both: Interval
    consistent: Interval
    first_shown: Interval
    readable: Interval


def read_pairs(path: Path, limit: int | None) -> tuple[Pair, ...]:
    """The pairs of a JSONL file. Raises DataError."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    pairs = [_pair(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not pairs:
        raise DataError(f"{path}: there is no pair")
    return tuple(pairs[:limit])


async def check_judge(calls: Calls, pairs: Sequence[Pair]) -> list[Judgement]:
    """Every pair in both orders. Raises ModelError, BudgetSpentError."""
    return list(await asyncio.gather(*(_judge(calls, pair) for pair in pairs)))


def agreement(judgements: Sequence[Judgement]) -> Agreement:
    """What the judgements come to."""
    said = [(one.pair.better, choice) for one in judgements for choice in (one.in_order, one.swapped)]
    right = [choice == better for better, choice in said if choice is not None]
    whole = [one for one in judgements if one.in_order is not None and one.swapped is not None]
    shown_first = [one.in_order == 1 for one in judgements if one.in_order is not None]
    shown_first += [one.swapped == 2 for one in judgements if one.swapped is not None]
    return Agreement(
        pairs=len(judgements),
        accuracy=_share(right),
        both=_share([one.in_order == one.swapped == one.pair.better for one in whole]),
        consistent=_share([one.in_order == one.swapped for one in whole]),
        first_shown=_share(shown_first),
        readable=_share([choice is not None for _, choice in said]),
    )


def agreement_table(judgements: Sequence[Judgement], model: str) -> Table:
    """All pairs, and each subset."""
    table = Table(title=f"{model} against people", title_justify="left")
    for name in ("pairs", "accuracy", "right in both orders", "consistent", "prefers first shown", "readable"):
        table.add_column(name, justify="right")
    table.columns[0].justify = "left"
    for name, group in _groups(judgements):
        found = agreement(group)
        shares = (found.accuracy, found.both, found.consistent, found.first_shown, found.readable)
        table.add_row(f"{name} ({found.pairs})", *(_text(share) for share in shares))
    return table


def read_either(reply: Any) -> Json:
    """`better`: A or B, or None where the reply cannot be read: that is what is measured here."""
    try:
        return read_preference(reply)
    except (UnparsableReplyError, KeyError):
        return {"better": None}


async def _judge(calls: Calls, pair: Pair) -> Judgement:
    in_order, swapped = await asyncio.gather(
        calls.ask(preference_request(pair.query, pair.first, pair.second), read_either),
        calls.ask(preference_request(pair.query, pair.second, pair.first), read_either),
    )
    return Judgement(pair, _number(in_order, "A"), _number(swapped, "B"))


def _number(kept: Json, first_is: str) -> int | None:
    if kept["better"] is None:
        return None
    return 1 if kept["better"] == first_is else 2


def _groups(judgements: Sequence[Judgement]) -> Iterator[tuple[str, Sequence[Judgement]]]:
    yield "all", judgements
    subsets = dict.fromkeys(one.pair.subset for one in judgements)
    if len(subsets) > 1:
        for subset in subsets:
            yield subset or "others", [one for one in judgements if one.pair.subset == subset]


def _pair(line: bytes, place: str) -> Pair:
    try:
        fields: Mapping[str, Any] = orjson.loads(line)
        names = next(names for names in _NAMES if all(name in fields for name in names))
    except (orjson.JSONDecodeError, StopIteration, TypeError):
        raise DataError(f"{place}: needs query, first, second and better (1 or 2)") from None
    query, first, second, better = (fields[name] for name in names)
    if better not in (1, 2) or not all(isinstance(text, str) for text in (query, first, second)):
        raise DataError(f"{place}: query and both answers must be texts, and the better one 1 or 2")
    return Pair(query, first, second, better, str(fields.get("subset", "")))


def _share(outcomes: Sequence[bool]) -> Interval:
    return wilson(sum(outcomes), len(outcomes))


def _text(share: Interval) -> str:
    return f"{share.estimate:.3f} [{share.low:.2f}, {share.high:.2f}]"
