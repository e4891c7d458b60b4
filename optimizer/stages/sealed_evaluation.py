"""Stage 4: compares the best candidate with the baseline and two raw variants, on rows that no earlier stage has used.

A raw variant has no system prompt and no examples. The result says whether the best candidate is better than the
baseline, and by how much.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from typing import Any, Final

from index.measures.answer_form import ends_by_itself
from index.measures.confidence import Interval, bootstrap_mean, wilson
from index.measures.refusals import refuses
from optimizer.core.candidate import Candidate
from optimizer.core.journal import Journal
from optimizer.data.dataset import COMPLY, GENERAL, REFUSE, Row
from optimizer.models.task_model import Raw, Variant
from optimizer.rewards.scorer import ScoredReply, Scorer
from optimizer.stages.prompt_stage import journal_score
from optimizer.stages.run_context import RunContext

BUNDLE, BASELINE, RAW, RAW_MATCHED = "bundle", "baseline", "raw", "raw-matched"
_MAX_ENDING_LOSS: Final = 0.02
_EVEN: Final = 0.5
_RAW_SAMPLING: Final = ("max_tokens", "temperature")
"""Sampling parameters that the variant `raw` shares with the bundle, for equal length limit and equal randomness."""
ComparePair = Callable[[str, str, str], Awaitable[float]]
"""A function of a query and two answers. It returns 1 if the first is better, 0 if the second is better, else 0.5."""


@dataclass(frozen=True, slots=True)
class VariantSummary:
    """The results of one variant on the sealed rows that it answered. Intervals are 95 % intervals.

    Attributes:
        score: Mean score.
        by_kind: Mean score on the rows of each kind, by kind.
        parts: Mean value of each reward, by the name of the reward.
        ends: Share of answers that the model ended before the length limit.
        refuses_unsafe: Share of refusals on the rows of kind `refuse`.
        refuses_safe: Share of refusals on the rows of the other kinds.
        rows: Number of rows that the variant answered.
        words: Mean number of words of an answer.
        prompt_tokens: Mean number of tokens of a prompt.
    """

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
    """The bundle compared with another variant, row by row.

    Attributes:
        difference: Mean difference of the scores on the same row (the bundle's score minus the other variant's score),
            with a bootstrap interval.
        wins: Share of rows on which the bundle has the higher score; a row with equal scores counts half.
        preferred: Share of rows on which the judge prefers the bundle's answer. The judge compares the two answers in
            both orders, and a row counts half if the order changes the preference. None if the judge did not compare
            these variants.
    """

    difference: Interval
    wins: float
    preferred: Interval | None = None


@dataclass(frozen=True, slots=True)
class SealedResult:
    """The result of the sealed evaluation.

    Attributes:
        rows: Number of sealed rows.
        summaries: The summary of each variant, by the name of the variant.
        against: The comparisons of the bundle with the other three variants, by the name of the other variant.
    """

    rows: int
    summaries: Mapping[str, VariantSummary]
    against: Mapping[str, Comparison]

    @property
    def improved(self) -> bool:
        """Whether the bundle is better than the baseline.

        The whole interval of the score difference must be above 0. The share of answers that the model ended before the
        length limit must be at most 2 percentage points below the baseline's share. If the judge compared the answers,
        `preferred` must be at least 0.5.
        """
        ending_gain = self.summaries[BUNDLE].ends.estimate - self.summaries[BASELINE].ends.estimate
        against = self.against[BASELINE]
        is_confirmed = against.preferred is None or against.preferred.estimate >= _EVEN
        return against.difference.low > 0 and ending_gain >= -_MAX_ENDING_LOSS and is_confirmed


@dataclass(frozen=True, slots=True)
class SealedPlan:
    """The sealed rows, and how many of them each part of the evaluation uses.

    Attributes:
        rows: All sealed rows.
        raw: Number of rows that each raw variant answers, from the first row on; None for all rows.
        confirmed: Number of rows on which the judge compares the bundle with the baseline, from the first row on.
        compare: The function by which the judge compares two answers.
    """

    rows: Sequence[Row]
    raw: int | None
    confirmed: int
    compare: ComparePair

    def rows_of(self, variant: Variant) -> Sequence[Row]:
        """Return the rows that a variant answers."""
        return self.rows[: self.raw] if isinstance(variant, Raw) else self.rows

    @property
    def judgements(self) -> int:
        """Number of answers to score: those of the bundle, the baseline and the two raw variants together."""
        return 2 * len(self.rows) + 2 * len(self.rows[: self.raw])


async def run_sealed_evaluation(context: RunContext, best: Candidate, baseline: Candidate) -> SealedResult:
    """Compare the best candidate with the baseline and the raw variants. [data] and [reward] contain the settings.

    The stage journals one `stage` event, one `score` event per answer, and one `sealed` event.

    Raises:
        ModelError: A model gives no usable answer.
        BudgetSpentError: The budget is spent.
        JournalError: The journal cannot be written.
    """
    config = context.config
    plan = SealedPlan(context.data.sealed, config.data.raw, config.reward.confirm, context.judge.better)
    await context.journal.note("stage", stage="sealed", rows=len(plan.rows), judgements=plan.judgements)
    return await evaluate_sealed(best, baseline, context.sealed, context.journal, plan)


async def evaluate_sealed(
    bundle: Candidate, baseline: Candidate, scorer: Scorer, journal: Journal, plan: SealedPlan
) -> SealedResult:
    """Score the answers of all four variants, and compare the bundle with each of the other three variants."""
    variants: dict[str, Variant] = {
        BUNDLE: bundle,
        BASELINE: baseline,
        RAW_MATCHED: Raw(bundle.sampling),
        RAW: Raw({name: bundle.sampling[name] for name in _RAW_SAMPLING if name in bundle.sampling}),
    }
    # The variants answer one after the other, so that only one variant at a time uses the server's prefix cache.
    scored = {
        name: await _score_variant(name, variant, scorer, journal, plan.rows_of(variant))
        for name, variant in variants.items()
    }
    preferred = await _preference_share(plan, scored[BUNDLE], scored[BASELINE])
    result = compare_all(plan.rows, scored, preferred)
    await journal.note("sealed", rows=len(plan.rows), improved=result.improved, **_as_values(result))
    return result


def compare_all(
    rows: Sequence[Row], scored: Mapping[str, Sequence[ScoredReply]], preferred: Interval | None = None
) -> SealedResult:
    """Summarize every variant, and compare the bundle with each of the other variants.

    Args:
        rows: All sealed rows.
        scored: The scored answers of each variant, by the name of the variant. If a variant has fewer answers than
            `rows` has rows, these are the answers to the first rows.
        preferred: Share of rows on which the judge prefers the bundle to the baseline; None if it compared no row.
    """
    summaries = {name: _summarize(rows[: len(answers)], answers) for name, answers in scored.items()}
    scores = {name: [one.score for one in answers] for name, answers in scored.items()}
    bundle = scores.pop(BUNDLE)
    against = {name: compare(bundle[: len(other)], other) for name, other in scores.items()}
    against[BASELINE] = replace(against[BASELINE], preferred=preferred)
    return SealedResult(len(rows), summaries, against)


def compare(bundle: Sequence[float], other: Sequence[float]) -> Comparison:
    """Compare the scores of two variants on the same rows in the same order."""
    differences = [one - two for one, two in zip(bundle, other, strict=True)]
    wins = sum((difference > 0) + 0.5 * (difference == 0) for difference in differences) / len(differences)
    return Comparison(bootstrap_mean(differences), wins)


def provenance(result: SealedResult) -> dict[str, Any]:
    """Return the result as plain values, to be stored in the manifest of a bundle."""
    return {"rows": result.rows, "improved": result.improved, **_as_values(result)}


async def _score_variant(
    name: str, variant: Variant, scorer: Scorer, journal: Journal, rows: Sequence[Row]
) -> list[ScoredReply]:
    async def score(row: Row) -> ScoredReply:
        scored = await scorer.score(variant, row)
        await journal_score(journal, "sealed", name, row, scored)
        return scored

    return list(await asyncio.gather(*(score(row) for row in rows)))


async def _preference_share(
    plan: SealedPlan, bundle: Sequence[ScoredReply], baseline: Sequence[ScoredReply]
) -> Interval | None:
    """Return the share of rows on which the judge prefers the bundle to the baseline; None if it compares no row."""
    triples = list(zip(plan.rows, bundle, baseline, strict=True))[: plan.confirmed]
    if not triples:
        return None
    comparisons = (plan.compare(row.query, ours.reply.text, other.reply.text) for row, ours, other in triples)
    return bootstrap_mean(await asyncio.gather(*comparisons))


def _summarize(rows: Sequence[Row], scored: Sequence[ScoredReply]) -> VariantSummary:
    pairs = list(zip(rows, scored, strict=True))
    kinds = {kind: [one.score for row, one in pairs if row.kind == kind] for kind in (GENERAL, COMPLY, REFUSE)}
    rewards = dict.fromkeys(name for one in scored for name in one.parts)
    unsafe = [refuses(one.reply.text) for row, one in pairs if row.kind == REFUSE]
    safe = [refuses(one.reply.text) for row, one in pairs if row.kind != REFUSE]
    ends = [ends_by_itself(one.reply.finish_reason) for one in scored]
    return VariantSummary(
        score=bootstrap_mean([one.score for one in scored]),
        by_kind={kind: bootstrap_mean(scores) for kind, scores in kinds.items() if scores},
        parts={
            name: bootstrap_mean([one.parts[name].value for one in scored if name in one.parts]) for name in rewards
        },
        ends=wilson(sum(ends), len(ends)),
        refuses_unsafe=wilson(sum(unsafe), len(unsafe)),
        refuses_safe=wilson(sum(safe), len(safe)),
        rows=len(rows),
        words=sum(len(one.reply.text.split()) for one in scored) / len(scored),
        prompt_tokens=sum(one.reply.prompt_tokens for one in scored) / len(scored),
    )


def _as_values(result: SealedResult) -> dict[str, Any]:
    """Return the result as plain values, with the keys of the journal and of the manifest."""
    return {
        "figures": {name: _summary_values(summary) for name, summary in result.summaries.items()},
        "against": {name: _comparison_values(comparison) for name, comparison in result.against.items()},
    }


def _summary_values(summary: VariantSummary) -> dict[str, Any]:
    return {
        "score": _interval_values(summary.score),
        "by_kind": {kind: _interval_values(interval) for kind, interval in summary.by_kind.items()},
        "parts": {name: _interval_values(interval) for name, interval in summary.parts.items()},
        "ends": _interval_values(summary.ends),
        "refuses_unsafe": _interval_values(summary.refuses_unsafe),
        "refuses_safe": _interval_values(summary.refuses_safe),
        "rows": summary.rows,
        "words": round(summary.words, 1),
        "prompt_tokens": round(summary.prompt_tokens, 1),
    }


def _comparison_values(comparison: Comparison) -> dict[str, Any]:
    return {
        "difference": _interval_values(comparison.difference),
        "wins": round(comparison.wins, 4),
        "preferred": _interval_values(comparison.preferred) if comparison.preferred else None,
    }


def _interval_values(interval: Interval) -> list[float | None]:
    """Return estimate, low and high, with None for a value that is not a number."""
    values = (interval.estimate, interval.low, interval.high)
    return [None if isnan(value) else round(value, 4) for value in values]
