"""Completes the comparisons of a report: adjusts their p-values for the number of tests, and adds their headlines."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from proxy.experiments.analysis.estimators import holm
from proxy.experiments.analysis.headline import headline_of
from proxy.experiments.analysis.report import Comparison


def conclude(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Adjust the p-values in two groups (the primary metric, and all others), and add the headlines."""
    groups = [[one for one in comparisons if one.primary], [one for one in comparisons if not one.primary]]
    adjusted = chain.from_iterable(_adjusted_group(group) for group in groups)
    return tuple(replace(one, headline=headline_of(one)) for one in adjusted)


def _adjusted_group(group: Sequence[Comparison]) -> list[Comparison]:
    """Adjust the p-values of one group of tests by Holm's method.

    An unknown p-value counts as 1. Therefore the number of tests, which determines how strongly p-values are adjusted,
    does not change when a metric gets its first values.
    """
    fixed = holm([1.0 if one.p_fixed is None else one.p_fixed for one in group])
    anytime = holm([1.0 if one.p_anytime is None else one.p_anytime for one in group])
    return [
        replace(
            one,
            p_fixed_adjusted=None if one.p_fixed is None else p_fixed,
            p_anytime_adjusted=None if one.p_anytime is None else p_anytime,
        )
        for one, p_fixed, p_anytime in zip(group, fixed, anytime, strict=True)
    ]
