"""Stage 4: the bundle against baseline and raw, on queries that nothing before has seen. Knows scores and their
differences; says whether the run improved, and by how much.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from optimizer.core.candidate import Candidate
from optimizer.core.confidence import Interval, bootstrap_mean, wilson
from optimizer.core.journal import Journal
from optimizer.core.text_rules import ends_by_itself, refuses
from optimizer.data.dataset import COMPLY, GENERAL, REFUSE, Row
from optimizer.models.task_model import Raw, Variant
from optimizer.rewards.rewards import Judged, Scorer
from optimizer.stages.prompt_stage import journal_score

BUNDLE, BASELINE, RAW, RAW_MATCHED = "bundle", "baseline", "raw", "raw-matched"
_ENDINGS_MAY_LOSE: Final = 0.02
_EVEN: Final = 0.5
CompareAnswers = Callable[[str, str, str], Awaitable[float]]
"""Of a query and two answers: 1 if the first is better, 0 if the second is, 0.5 for neither (Judge.better)."""
_RAW_KEEPS: Final = ("max_tokens", "temperature")
"""What raw answers are asked with as well: else they would be compared at another length, and at random."""


@dataclass(frozen=True, slots=True)
class VariantSummary:
    """One variant on the sealed rows: mean score, shares and lengths, each with its 95 % interval; parts by reward."""

    score: Interval
    by_kind: Mapping[str, Interval]
    parts: Mapping[str, Interval]
    ends: Interval
    refuses_unsafe: Interval
    refuses_safe: Interval
    rows: int
    words: float
    prompt_tokens: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The bundle against another variant, row by row: mean difference with a paired bootstrap interval, and the share
    of rows on which it is better (ties count half). preferred: the share of pairs in which a judge, shown both answers
    in both orders, prefers the bundle's (0.5 where the order decides); None where it was not asked."""

    difference: Interval
    wins: float
    preferred: Interval | None = None


@dataclass(frozen=True, slots=True)
class SealedResult:
    """What the sealed evaluation came to."""

    rows: int
    figures: Mapping[str, VariantSummary]
    against: Mapping[str, Comparison]

    @property
    def improved(self) -> bool:
        """Better than the baseline beyond chance, not worse by more than 2 points at ending by itself, and not the one
        that a judge likes less, where a judge was asked to compare."""
        ends = self.figures[BUNDLE].ends.estimate - self.figures[BASELINE].ends.estimate
        against = self.against[BASELINE]
        is_confirmed = against.preferred is None or against.preferred.estimate >= _EVEN
        return against.difference.low > 0 and ends >= -_ENDINGS_MAY_LOSE and is_confirmed


@dataclass(frozen=True, slots=True)
class SealedPlan:
    """How much is asked on the sealed rows. raw: how many the raw variants are asked, None for all; confirmed: on how
    many `confirm` compares bundle and baseline, 0 for none."""

    rows: Sequence[Row]
    raw: int | None
    confirmed: int
    confirm: CompareAnswers

    def part(self, variant: Variant) -> Sequence[Row]:
        """The rows that a variant is asked."""
        return self.rows[: self.raw] if isinstance(variant, Raw) else self.rows

    @property
    def judgements(self) -> int:
        """Answers to be scored: of two variants on all rows, of the two raw ones on theirs."""
        return 2 * len(self.rows) + 2 * len(self.rows[: self.raw])


async def evaluate_sealed(
    bundle: Candidate, baseline: Candidate, scorer: Scorer, journal: Journal, plan: SealedPlan
) -> SealedResult:
    """Score all four variants, and compare. Raises ModelError, BudgetSpentError, JournalError."""
    variants: dict[str, Variant] = {
        BUNDLE: bundle,
        BASELINE: baseline,
        RAW_MATCHED: Raw(bundle.sampling),
        RAW: Raw({name: bundle.sampling[name] for name in _RAW_KEEPS if name in bundle.sampling}),
    }
    judged = {name: await _judge_all(name, one, scorer, journal, plan.part(one)) for name, one in variants.items()}
    preferred = await _preferred(plan, judged[BUNDLE], judged[BASELINE])
    verdict = compare_all(plan.rows, judged, preferred)
    await journal.note("sealed", rows=len(plan.rows), improved=verdict.improved, **_told(verdict))
    return verdict


async def _preferred(plan: SealedPlan, ours: Sequence[Judged], theirs: Sequence[Judged]) -> Interval | None:
    """How the judge likes the bundle's answers beside the baseline's."""
    triples = list(zip(plan.rows, ours, theirs, strict=True))[: plan.confirmed]
    if not triples:
        return None
    asked = (plan.confirm(row.query, one.reply.text, other.reply.text) for row, one, other in triples)
    return bootstrap_mean(await asyncio.gather(*asked))


def compare_all(
    rows: Sequence[Row], judged: Mapping[str, Sequence[Judged]], preferred: Interval | None = None
) -> SealedResult:
    """Summarize every variant on the rows that it answered, and compare the bundle with each of the others there."""
    figures = {name: _figures(rows[: len(found)], found) for name, found in judged.items()}
    ours = [one.score for one in judged[BUNDLE]]
    theirs = {name: [one.score for one in found] for name, found in judged.items() if name != BUNDLE}
    against = {name: compare(ours[: len(found)], found) for name, found in theirs.items()}
    against[BASELINE] = replace(against[BASELINE], preferred=preferred)
    return SealedResult(len(rows), figures, against)


def compare(ours: Sequence[float], theirs: Sequence[float]) -> Comparison:
    """Two variants' scores of the same rows, in the same order."""
    differences = [one - other for one, other in zip(ours, theirs, strict=True)]
    wins = sum((difference > 0) + 0.5 * (difference == 0) for difference in differences) / len(differences)
    return Comparison(bootstrap_mean(differences), wins)


async def _judge_all(
    name: str, variant: Variant, scorer: Scorer, journal: Journal, rows: Sequence[Row]
) -> list[Judged]:
    """One variant after the other, so that each has the server's prefix cache to itself."""

    async def judge(row: Row) -> Judged:
        judged = await scorer.judge(variant, row)
        await journal_score(journal, "sealed", name, row, judged)
        return judged

    return list(await asyncio.gather(*(judge(row) for row in rows)))


def _figures(rows: Sequence[Row], judged: Sequence[Judged]) -> VariantSummary:
    pairs = list(zip(rows, judged, strict=True))
    kinds = {kind: [one.score for row, one in pairs if row.kind == kind] for kind in (GENERAL, COMPLY, REFUSE)}
    names = dict.fromkeys(name for one in judged for name in one.parts)
    unsafe = [refuses(one.reply.text) for row, one in pairs if row.kind == REFUSE]
    safe = [refuses(one.reply.text) for row, one in pairs if row.kind != REFUSE]
    ends = [ends_by_itself(one.reply.finish_reason) for one in judged]
    return VariantSummary(
        score=bootstrap_mean([one.score for one in judged]),
        by_kind={kind: bootstrap_mean(found) for kind, found in kinds.items() if found},
        parts={name: bootstrap_mean([one.parts[name].value for one in judged if name in one.parts]) for name in names},
        ends=wilson(sum(ends), len(ends)),
        refuses_unsafe=wilson(sum(unsafe), len(unsafe)),
        refuses_safe=wilson(sum(safe), len(safe)),
        rows=len(rows),
        words=sum(len(one.reply.text.split()) for one in judged) / len(judged),
        prompt_tokens=sum(one.reply.prompt_tokens for one in judged) / len(judged),
    )


def _told(verdict: SealedResult) -> dict[str, Any]:
    """The verdict as plain values, for the journal and the bundle's provenance."""
    return {
        "figures": {name: _plain(figures) for name, figures in verdict.figures.items()},
        "against": {
            name: {
                "difference": _three(one.difference),
                "wins": round(one.wins, 4),
                "preferred": _three(one.preferred) if one.preferred else None,
            }
            for name, one in verdict.against.items()
        },
    }


def provenance(verdict: SealedResult) -> dict[str, Any]:
    """What a bundle says of its own evaluation."""
    return {"rows": verdict.rows, "improved": verdict.improved, **_told(verdict)}


def _plain(figures: VariantSummary) -> dict[str, Any]:
    return {
        "score": _three(figures.score),
        "by_kind": {kind: _three(found) for kind, found in figures.by_kind.items()},
        "parts": {name: _three(found) for name, found in figures.parts.items()},
        "ends": _three(figures.ends),
        "refuses_unsafe": _three(figures.refuses_unsafe),
        "refuses_safe": _three(figures.refuses_safe),
        "rows": figures.rows,
        "words": round(figures.words, 1),
        "prompt_tokens": round(figures.prompt_tokens, 1),
    }


def _three(interval: Interval) -> list[float | None]:
    """Estimate, low, high; None for what is not known."""
    values = (interval.estimate, interval.low, interval.high)
    return [None if value != value else round(value, 4) for value in values]
