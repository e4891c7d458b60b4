"""Stage 4: compares the best candidate with the baseline and two raw variants, on rows that no earlier stage has used.

A raw variant has no system prompt and no examples. The result says whether the best candidate is better than the
baseline, and by how much.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Final

from index.measures.answer_form import ends_by_itself
from index.measures.confidence import Interval, bootstrap_mean, wilson
from index.measures.refusals import refuses
from optimizer.core.candidate import Candidate
from optimizer.core.concurrency import gather_or_cancel
from optimizer.core.config_tables import RunConfig
from optimizer.core.errors import UnusableRowsError
from optimizer.data.dataset import COMPLY, GENERAL, REFUSE, Row
from optimizer.data.split import SEALED
from optimizer.models.task_model import Raw, Variant
from optimizer.rewards.judge_protocol import ROLE as JUDGE
from optimizer.rewards.registry import calls_per_score, reward_kind
from optimizer.rewards.scorer import ScoredReply
from optimizer.stages.run_context import RunContext
from optimizer.stages.scored_rows import ScoredRows
from optimizer.stages.sealed_result import (
    BASELINE,
    BUNDLE,
    RAW,
    RAW_MATCHED,
    Comparison,
    SealedResult,
    VariantSummary,
    result_values,
)

_RAW_SAMPLING: Final = ("max_tokens", "temperature")
"""Sampling parameters that the variant `raw` shares with the bundle, for equal length limit and equal randomness."""
_REPEATS: Final = 1.1
"""Calls to reserve for each needed call: 10 % more, because a call is repeated if its reply cannot be parsed."""
ComparePair = Callable[[str, str, str], Awaitable[float]]
"""A function of a query and two answers. It returns 1 if the first is better, 0 if the second is better, else 0.5."""


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
        """Number of answers to score: of the bundle, the baseline and the two raw variants together."""
        return sum(answers_by_variant(len(self.rows), self.raw).values())


def answers_by_variant(rows: int, raw: int | None) -> Mapping[str, int]:
    """Return how many sealed rows each variant answers, by the name of the variant.

    Args:
        rows: Number of sealed rows.
        raw: Number of rows that each raw variant answers at most; None for all rows.
    """
    raw = rows if raw is None else min(raw, rows)
    return {BUNDLE: rows, BASELINE: rows, RAW_MATCHED: raw, RAW: raw}


def sealed_calls(config: RunConfig, rows: int, *, asks_for_letters: bool = False) -> int:
    """Return the maximum number of calls that the sealed evaluation makes, with a reserve for calls that are repeated.

    Args:
        config: The settings of run.toml.
        rows: Number of sealed rows.
        asks_for_letters: Whether the judge replies with one letter or digit. It then needs one call per criterion.
    """
    answers = sum(answers_by_variant(rows, config.data.raw).values())
    per_answer = calls_per_score(config.reward.weights)
    if asks_for_letters:
        per_answer[JUDGE] *= config.reward.judge.most
    per_row = sum(sum(reward_kind(name).calls_per_query.values()) for name in config.reward.weights)
    comparisons = 2 * min(config.reward.confirm, rows)
    return ceil(_REPEATS * (per_answer.total() * answers + per_row * rows + comparisons))


async def run_sealed_evaluation(context: RunContext, best: Candidate, baseline: Candidate) -> SealedResult:
    """Compare the best candidate with the baseline and the raw variants. [data] and [reward] contain the settings.

    The stage journals one `stage` event, one `score` event per answer, and one `sealed` event.

    Raises:
        ModelError: A model gives no usable answer.
        BudgetSpentError: The budget is spent.
        JournalError: The journal cannot be written.
    """
    config = context.config
    rows = context.scored_rows("sealed", SEALED, baseline)
    plan = SealedPlan(rows.rows, config.data.raw, config.reward.confirm, context.judge.better)
    await context.journal.note("stage", stage="sealed", rows=len(plan.rows), judgements=plan.judgements)
    return await evaluate_sealed(best, baseline, rows, plan)


async def evaluate_sealed(bundle: Candidate, baseline: Candidate, rows: ScoredRows, plan: SealedPlan) -> SealedResult:
    """Score the answers of all four variants, and compare the bundle with each of the other three variants.

    If a row cannot be answered and scored with the bundle or with the baseline, it is left out for all variants. There
    is one exception: if the server refuses the request with the bundle but accepts it with the baseline, the row stays,
    and the bundle gets the score 0 for it, because a user would get no answer. A row that cannot be answered and scored
    with a raw variant is left out only for this variant, because raw variants do not decide which bundle is written.
    """
    variants: dict[str, Variant] = {
        BUNDLE: bundle,
        BASELINE: baseline,
        RAW_MATCHED: Raw(bundle.sampling),
        RAW: Raw({name: bundle.sampling[name] for name in _RAW_SAMPLING if name in bundle.sampling}),
    }
    # The variants answer one after the other, so that only one variant at a time uses the server's prefix cache.
    scored = {
        name: await _score_variant(name, variant, rows, plan.rows_of(variant)) for name, variant in variants.items()
    }
    preferred = await _preference_share(plan, rows, scored[BUNDLE], scored[BASELINE])
    result = compare_all(plan.rows, scored, preferred)
    await rows.journal.note("sealed", **result_values(result))
    return result


def compare_all(
    rows: Sequence[Row], scored: Mapping[str, Sequence[ScoredReply | None]], preferred: Interval | None = None
) -> SealedResult:
    """Summarize every variant, and compare the bundle with each of the other variants.

    Args:
        rows: All sealed rows.
        scored: The scored answers of each variant, by the name of the variant. None stands for a row that cannot be
            used. If a variant has fewer answers than `rows` has rows, these are the answers to the first rows.
        preferred: Share of rows on which the judge prefers the bundle to the baseline; None if it compared no row.

    Raises:
        UnusableRowsError: The bundle and the baseline have no row in common.
    """
    both = [
        ours is not None and theirs is not None for ours, theirs in zip(scored[BUNDLE], scored[BASELINE], strict=True)
    ]
    usable = {
        name: {index: one for index, one in enumerate(answers) if one is not None and both[index]}
        for name, answers in scored.items()
    }
    if not usable[BUNDLE]:
        raise UnusableRowsError("no sealed row can be answered and scored. Run drpo-optimizer doctor, and resume")
    summaries = {
        name: _summarize([rows[index] for index in one], list(one.values())) for name, one in usable.items() if one
    }
    against = {name: _compare_rows(usable[BUNDLE], usable[name]) for name in summaries if name != BUNDLE}
    against[BASELINE] = replace(against[BASELINE], preferred=preferred)
    return SealedResult(sum(both), summaries, against)


def _compare_rows(bundle: Mapping[int, ScoredReply], other: Mapping[int, ScoredReply]) -> Comparison:
    """Compare the bundle with another variant on the rows of the other variant."""
    return compare([bundle[index].score for index in other], [one.score for one in other.values()])


def compare(bundle: Sequence[float], other: Sequence[float]) -> Comparison:
    """Compare the scores of two variants on the same rows in the same order."""
    differences = [one - two for one, two in zip(bundle, other, strict=True)]
    wins = sum((difference > 0) + 0.5 * (difference == 0) for difference in differences) / len(differences)
    return Comparison(bootstrap_mean(differences), wins)


async def _score_variant(
    name: str, variant: Variant, scored_rows: ScoredRows, rows: Sequence[Row]
) -> list[ScoredReply | None]:
    is_counted = not isinstance(variant, Raw)
    return await gather_or_cancel(scored_rows.score(name, variant, row, is_counted=is_counted) for row in rows)


async def _preference_share(
    plan: SealedPlan, rows: ScoredRows, bundle: Sequence[ScoredReply | None], baseline: Sequence[ScoredReply | None]
) -> Interval | None:
    """Return the share of rows on which the judge prefers the bundle to the baseline; None if it compares no row.

    A row is left out if one of the two answers is missing, or if the judge cannot compare them, because its server
    refuses the request or its reply cannot be parsed.
    """
    triples = list(zip(plan.rows, bundle, baseline, strict=True))[: plan.confirmed]
    if not triples:
        return None
    comparisons = [
        rows.unusable.attempt(row, plan.compare(row.query, ours.reply.text, other.reply.text))
        for row, ours, other in triples
        if ours is not None and other is not None
    ]
    return bootstrap_mean([share for share in await gather_or_cancel(comparisons) if share is not None])


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
