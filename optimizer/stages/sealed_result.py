"""Defines the result of the sealed evaluation, and converts it to plain values for the journal and the manifest."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan
from typing import Any, Final

from index.measures.confidence import Interval

BUNDLE, BASELINE, RAW, RAW_MATCHED = "bundle", "baseline", "raw", "raw-matched"
_MAX_ENDING_LOSS: Final = 0.02
_EVEN: Final = 0.5


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
        rows: Number of sealed rows that bundle and baseline answered. Rows that cannot be used are left out.
        summaries: The summary of each variant, by the name of the variant. A raw variant without a usable row is left
            out.
        against: The comparisons of the bundle with the other variants, by the name of the other variant.
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


def result_values(result: SealedResult) -> dict[str, Any]:
    """Return the result as plain values, with the keys of the journal and of the manifest."""
    return {
        "rows": result.rows,
        "improved": result.improved,
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
