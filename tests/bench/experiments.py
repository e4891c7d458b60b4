"""Measures how often the verdict of an experiment is right when it is read repeatedly: docs/benchmarks.md.

The simulated experiments are read after every 50 units. In A/A runs both arms are equal. The table shows how often each
kind of test finds a difference in at least one look. In A/B runs the arms differ. The planned size is the number of
units with which a single look finds the difference in four of five runs. All runs are simulated and seeded.
"""

import argparse
from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np
from rich.console import Console
from rich.table import Table

from proxy.experiments.analysis.adaptive import thompson_weights
from proxy.experiments.analysis.estimators import Moments, moments
from proxy.experiments.analysis.sequential import p_value, sample_ratio_log_evidence
from tests.proxy.experiments import simulation as runs
from tests.proxy.experiments.simulation import Draw, Looks

Measure = Callable[[np.random.Generator, int], list[float]]

LOOK_EVERY, BATCH, LEVEL = 50, 250, 0.05  # units between looks; simulated runs at a time; error rate of a test
METRICS = {
    "normal": runs.normal(),
    "binary, 30 %": runs.binary(0.3),
    "binary, 2 %": runs.binary(0.02),
    "bounded": runs.bounded(),
    "log-normal, sigma 1": runs.skewed(1.0),
    "log-normal, sigma 1.5": runs.skewed(1.5),
}
# For each metric: the variance of the units of the control arm, and the difference of the means of the two arms.
EFFECTS = {"normal": (1.0, 0.1), "binary, 30 %": (0.2172, 0.04), "log-normal, sigma 1": (5.423, 0.15 * np.exp(0.5))}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    options = parser.parse_args(arguments)
    console, started = Console(width=120), perf_counter()
    for table in (aa_by_share, aa_with_ramp, power, mismatch, adaptive):
        console.print(table(options.runs))
        console.print(f"... {perf_counter() - started:.0f} s\n", style="dim")


def _averaged(rng: np.random.Generator, total: int, measure: "Measure") -> list[float]:
    """Return the mean of the results of `measure` over batches of runs."""
    return [float(one) for one in np.mean([measure(rng, BATCH) for _ in range(max(1, total // BATCH))], axis=0)]


def aa_by_share(total: int) -> Table:
    """Measure A/A runs with several shares of the treatment."""
    table = Table("metric", "share", "any time", "single look, naive", title=f"A/A, 4,000 units, {total:,} runs")
    for name, draw in METRICS.items():
        for share in (0.5, 0.2, 0.1):

            def judge(rng: np.random.Generator, count: int, draw: Draw = draw, share: float = share) -> list[float]:
                looks = _looks(rng, draw, count, 4000, share, 2000)
                return [looks.any_time(LEVEL).mean(), looks.naive(LEVEL).mean()]

            table.add_row(name, f"{share:.0%}", *_percents(_averaged(np.random.default_rng(1), total, judge)))
    return table


def _looks(rng: np.random.Generator, draw: Draw, count: int, units: int, share: object, planned: float) -> Looks:
    treated, propensity = runs.assign(rng, (count, units), np.asarray(share))
    return runs.look(draw(rng, (count, units)), treated, propensity, LOOK_EVERY, planned)


def aa_with_ramp(total: int) -> Table:
    """Measure A/A runs in which the share of the treatment and the mean of the units change (Simpson's paradox)."""
    table = Table(
        "weights of units", "any time", "single look, naive", title="A/A, share 10 to 50 %, early units + 1 deviation"
    )
    share = np.repeat([0.1, 0.25, 0.5], [1300, 1300, 1400])
    level = np.repeat([1.0, 0.5, 0.0], [1300, 1300, 1400])
    for name, known in (("1 / propensity", True), ("none", False)):

        def judge(rng: np.random.Generator, count: int, known: bool = known) -> list[float]:
            treated, propensity = runs.assign(rng, (count, 4000), share)
            values = rng.standard_normal((count, 4000)) + level
            looks = runs.look(values, treated, propensity if known else np.full_like(propensity, 0.5), LOOK_EVERY, 2000)
            return [looks.any_time(LEVEL).mean(), looks.naive(LEVEL).mean()]

        table.add_row(name, *_percents(_averaged(np.random.default_rng(2), total, judge)))
    return table


def power(total: int) -> Table:
    """Measure A/B runs with several numbers of units."""
    table = Table(
        "metric", "planned for", "size", "found", "truth inside, always", title="A/B, sizes of a single look's"
    )
    for name, (variance, effect) in EFFECTS.items():
        single = runs.fixed_size(effect, variance)
        for planned, factor in ((1, 1.0), (1, 1.25), (1, 1.5), (1, 2.0), (1 / 3, 1.5), (3, 1.5), (10, 1.5)):

            def judge(
                rng: np.random.Generator, count: int, name: str = name, size: int = int(single * factor)
            ) -> list[float]:
                treated, propensity = runs.assign(rng, (count, size), 0.5)
                values = _with_effect(name, rng, treated)
                looks = runs.look(values, treated, propensity, LOOK_EVERY, single * planned)  # noqa: B023
                return [looks.any_time(LEVEL).mean(), 1 - looks.any_time(LEVEL, effect).mean()]  # noqa: B023

            found = _percents(_averaged(np.random.default_rng(3), total, judge))
            table.add_row(name, f"{planned:.2g} x {single:,}", f"{factor} x", *found)
    return table


def _with_effect(name: str, rng: np.random.Generator, treated: np.ndarray) -> np.ndarray:
    if name.startswith("binary"):
        return (rng.random(treated.shape) < np.where(treated, 0.34, 0.3)).astype(float)
    if name.startswith("log"):
        return rng.lognormal(0, 1, treated.shape) * np.where(treated, 1.15, 1.0)
    return rng.standard_normal(treated.shape) + 0.1 * treated


def mismatch(total: int) -> Table:
    """Measure how often the check of the arms' sizes finds that one of two equal arms loses units."""
    table = Table("missing", "5,000 units", "20,000 units", title="Sample ratio mismatch, blocked at some look")
    for missing in (0.0, 0.02, 0.05, 0.1):
        rows = []
        for units in (5_000, 20_000):
            rng, caught, count = np.random.default_rng(4), 0, min(total, 500)
            for _ in range(count):
                arms = (rng.random(units) < (1 - missing) / (2 - missing)).astype(np.intp)
                caught += _is_caught(arms)
            rows.append(caught / count)
        table.add_row(f"{missing:.0%}", *_percents(rows))
    return table


def _is_caught(arms: np.ndarray) -> bool:
    """Return whether any look finds the mismatch.

    A closed form for constant propensities computes all looks. The last look is compared with the function under test.
    """
    from scipy.special import betaln

    ends = np.arange(LOOK_EVERY, len(arms) + 1, LOOK_EVERY)
    ones = np.cumsum(arms)[ends - 1]
    logs = betaln(500 + ones, 500 + ends - ones) - betaln(500, 500) + ends * np.log(2)
    last = sample_ratio_log_evidence(arms, np.full((len(arms), 2), 0.5))
    assert abs(last - logs[-1]) < 1e-6
    return p_value(float(logs.max())) < 0.01


def adaptive(total: int) -> Table:
    """Measure runs with Thompson weights that change after every 200 units."""
    table = Table(
        "difference", "truth inside, always", "share of the better arm", title="Adaptive weights, 4,000 units"
    )
    for effect in (0.0, 0.1, 0.3):
        rng, inside, shares = np.random.default_rng(5), [], []
        for _ in range(min(total, 500)):
            values, treated, propensity = _adaptive_run(rng, effect)
            looks = runs.look(values[None], treated[None], propensity[None], LOOK_EVERY, 2000)
            inside.append(not looks.any_time(LEVEL, effect)[0])
            shares.append(treated.mean())
        table.add_row(f"{effect}", *_percents([float(np.mean(inside)), float(np.mean(shares))]))
    return table


def _adaptive_run(rng: np.random.Generator, effect: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    share, parts = 0.5, []
    for _ in range(20):
        treated, propensity = runs.assign(rng, (1, 200), share)
        parts.append((rng.standard_normal(200) + effect * treated[0], treated[0], propensity[0]))
        values, chosen, weights = (np.concatenate(column) for column in zip(*parts, strict=True))
        share = thompson_weights([_moments(values, weights, chosen == bool(arm)) for arm in (0, 1)], 1)[1]
    return values, chosen, weights


def _moments(values: np.ndarray, propensity: np.ndarray, chosen: np.ndarray) -> Moments:
    return moments(values[chosen], 1 / propensity[chosen])


def _percents(values: Sequence[float]) -> list[str]:
    return [f"{value:.1%}" for value in values]


if __name__ == "__main__":
    main()
