"""Tests that the statistics agree with other libraries, where such libraries exist, and with simulations."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import scipy  # which imports scipy.stats when a test first uses it: that takes a second
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.experiments.analysis.analyze import analyse, compare, planned_units_of_equal_arms
from proxy.experiments.analysis.estimators import (
    POWER,
    EffectEstimate,
    adjusted,
    estimate_difference,
    estimate_log_ratio,
    holm,
    moments,
)
from proxy.experiments.analysis.samples import collect_samples, sample_ratio
from proxy.experiments.analysis.sequential import boundary, log_evidence, sample_ratio_log_evidence
from proxy.experiments.definition import Arm, Experiment, Guardrail, Metric
from proxy.experiments.records import UnitOutcomes
from tests.proxy.experiments import simulation as runs

EXPERIMENT = Experiment("demo", (Arm("raw", 50), Arm("new", 50)), "raw", (Metric("score"), Metric("other")), "salt")


def units(
    rng: np.random.Generator, count: int, lift: float = 0.0, share: float = 0.5, *, history: bool = False
) -> list[UnitOutcomes]:
    """Make units that arrive every minute, with a score that is normally distributed around 5."""
    found = []
    for number in range(count):
        arm = "new" if rng.random() < share else "raw"
        past = rng.normal()
        score = 5 + past + rng.normal() + (lift if arm == "new" else 0)
        metrics = {"score": (score, 1), "other": (3 * rng.random(), 3)}
        before = {"score": (past * 2, 2)} if history else {}
        propensity = share if arm == "new" else 1 - share
        found.append(UnitOutcomes(f"u{number:06}", arm, propensity, 1e9 + 60 * number, metrics, before))
    return found


def _two_samples() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    return rng.lognormal(0.1, 1, 700), rng.lognormal(0, 1, 400)


def test_single_look_equals_welchs_test_of_scipy_and_statsmodels() -> None:
    from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

    arm, control = _two_samples()
    found = estimate_difference(moments(arm, np.full(700, 2.0)), moments(control, np.full(400, 2.0)), 1000)
    assert found is not None
    expected = scipy.stats.ttest_ind(arm, control, equal_var=False)
    ends = CompareMeans(DescrStatsW(arm), DescrStatsW(control)).tconfint_diff(usevar="unequal")
    assert found.p_fixed == pytest.approx(expected.pvalue, rel=1e-9)
    assert (found.fixed(0.05).low, found.fixed(0.05).high) == pytest.approx(ends, rel=1e-9)


@pytest.mark.parametrize("weights", [(1, 1), (1, 1, 1), (1, 1, 1, 1, 1), (9, 1), (50, 30, 15, 5), (1, 1, 0)])
def test_information_fraction_is_one_at_the_planned_size_for_any_arms(weights: tuple[float, ...]) -> None:
    """The confidence sequence is tuned to this size: with a larger fraction, its intervals would be wider there."""
    planned, rng = 60_000, np.random.default_rng(3)
    arms = tuple(Arm(f"arm{index}", weight) for index, weight in enumerate(weights))
    experiment = Experiment("demo", arms, "arm0", (Metric("score"),), "salt", planned_units=planned)
    shares = np.array(weights) / sum(weights)
    drawn = rng.choice(len(weights), planned, p=shares)
    rows = [
        UnitOutcomes(f"u{number:06}", f"arm{arm}", shares[arm], number, {"score": (rng.normal(), 1)}, {})
        for number, arm in enumerate(drawn.tolist())
    ]
    samples = collect_samples(rows, [arm.name for arm in arms], ["score"])
    for arm in (one for one in arms[1:] if one.weight):
        found = compare(samples, "score", arm.name, "arm0", planned_units_of_equal_arms(experiment, arm.name))
        assert found.difference is not None
        assert found.difference.information == pytest.approx(1, rel=0.05)
    assert analyse(experiment, rows[:2000]).planned_units == planned


def test_lift_and_history_equal_those_of_tea_tasting() -> None:
    import tea_tasting as tea

    rng = np.random.default_rng(6)
    past = rng.normal(3, 1, 1100)
    values = past + rng.lognormal(0.1, 0.5, 1100)
    ours = np.arange(1100) < 700
    import pandas as pd

    table = pd.DataFrame({"variant": ours.astype(int), "value": values, "past": past})
    for covariate in (None, "past"):
        mean = tea.Mean("value", covariate, equal_var=False, use_t=True)
        theirs = tea.Experiment(value=mean).analyze(table)["value"]
        used = adjusted(values, past, np.ones(1100)) if covariate else values
        sides = moments(used[ours], np.ones(700)), moments(used[~ours], np.ones(400))
        difference, lift = estimate_difference(*sides, 1000), estimate_log_ratio(*sides, 1000)
        assert difference is not None
        assert lift is not None
        fixed, lifted = difference.fixed(0.05), lift.fixed(0.05)
        found = [difference.effect, fixed.low, fixed.high, difference.p_fixed]
        found += [math.expm1(one) for one in (lift.effect, lifted.low, lifted.high)]
        names = ("effect_size", "effect_size_ci_lower", "effect_size_ci_upper", "pvalue", "rel_effect_size")
        names += ("rel_effect_size_ci_lower", "rel_effect_size_ci_upper")
        assert found == pytest.approx([getattr(theirs, name) for name in names], rel=1e-9)


def test_detectable_effect_and_holm_equal_those_of_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests
    from statsmodels.stats.power import NormalIndPower

    values = np.tile([0.0, 2.0], 500)
    side = moments(values, np.ones(1000))
    found = estimate_difference(side, replace(side, mean=0.0), 1000)
    assert found is not None
    assert side.variance is not None
    effect = found.detectable(0.05) / math.sqrt(side.variance)
    assert NormalIndPower().power(effect, 1000, 0.025, alternative="larger") == pytest.approx(0.8, rel=1e-9)
    p_values = [0.01, 0.04, 0.03, 0.5, 0.009]
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], rel=1e-9)


def test_sample_ratio_evidence_is_a_dirichlet_multinomial_bayes_factor() -> None:
    rng = np.random.default_rng(1)
    shares = np.array([0.5, 0.3, 0.2])
    arms = rng.choice(3, 2000, p=[0.45, 0.35, 0.2])
    counts = np.bincount(arms)
    expected = scipy.stats.dirichlet_multinomial(1000 * shares, 2000).logpmf(counts)
    expected -= scipy.stats.multinomial(2000, shares).logpmf(counts)
    found = sample_ratio_log_evidence(arms, np.tile(shares, (2000, 1)))
    assert found == pytest.approx(expected, rel=1e-9)


def test_expected_evidence_is_one_without_a_difference() -> None:
    for progress in (0.01, 0.3, 1.0, 5.0):
        score = np.linspace(-14, 14, 200_001)
        for sides in (1, 2):
            evidence = np.exp(log_evidence(score, np.full_like(score, progress), sides=sides))
            average = np.trapezoid(evidence * scipy.stats.norm.pdf(score), score)
            assert average == pytest.approx(1.0, abs=1e-6)


def test_boundary_is_where_the_evidence_reaches_the_level() -> None:
    progress = np.geomspace(0.01, 1000, 30)
    for sides in (1, 2):
        bound = boundary(progress, 0.05, sides=sides)
        assert log_evidence(bound, progress, sides=sides) == pytest.approx(np.full(30, math.log(20)), rel=1e-9)
    widths = bound / np.sqrt(progress)
    assert (np.diff(widths) < 0).all()


def test_false_positive_rate_is_at_most_five_percent_over_all_looks() -> None:
    rng = np.random.default_rng(11)
    treated, propensity = runs.assign(rng, (1000, 2000), 0.5)
    looks = runs.look(runs.binary(0.3)(rng, (1000, 2000)), treated, propensity, 50, 2000)
    assert looks.any_time(0.05).mean() <= 0.05
    assert looks.naive(0.05).mean() > 0.15


def test_simulation_equals_the_report() -> None:
    found = units(np.random.default_rng(2), 600, share=0.3)
    samples = collect_samples(found, ["raw", "new"], ["score"])
    looks = runs.look(samples.values["score"][None], samples.arm[None] == 1, 1 / samples.weights[None], 50, 2000)
    for look, count in ((9, 500), (11, 600)):
        one = analyse(EXPERIMENT, found[:count]).comparisons[0]
        assert one.anytime is not None
        bound = boundary(looks.progress[:, look], 0.05)[0] * math.sqrt(looks.error[0, look])
        assert one.anytime.low == pytest.approx(looks.difference[0, look] - bound, rel=1e-9)


def test_ramp_does_not_look_like_a_difference() -> None:
    """Simpson's paradox: the first units score 5 higher, and few of them are in the treatment."""
    rng = np.random.default_rng(3)
    found, early = [], 1500
    for number in range(3000):
        share = 0.1 if number < early else 0.5
        arm = "new" if rng.random() < share else "raw"
        score = rng.normal() + (5 if number < early else 0)
        propensity = share if arm == "new" else 1 - share
        found.append(UnitOutcomes(f"u{number:06}", arm, propensity, 1e9 + number, {"score": (score, 1)}, {}))
    report = analyse(EXPERIMENT, found)
    one = report.comparisons[0]
    assert one.fixed is not None
    assert one.fixed.low < 0 < one.fixed.high
    plain = analyse(EXPERIMENT, [replace(unit, propensity=0.5) for unit in found]).comparisons[0]
    assert plain.fixed is not None
    assert plain.fixed.high < -1
    assert not report.sample_ratio.blocks


def test_missing_units_block_the_verdict() -> None:
    rng = np.random.default_rng(4)
    found = [unit for unit in units(rng, 8000, lift=1.0) if unit.arm == "raw" or rng.random() < 0.88]
    report = analyse(EXPERIMENT, found)
    assert report.verdict.decision == "blocked"
    assert "the sizes of the arms do not fit their weights" in report.verdict.sentence


def test_difference_is_detected_with_its_direction() -> None:
    verdict = analyse(EXPERIMENT, units(np.random.default_rng(4), 2000, lift=0.4)).verdict
    assert (verdict.decision, verdict.arm) == ("better", "new")
    lower = replace(EXPERIMENT, metrics=(Metric("score", "lower"),))
    assert analyse(lower, units(np.random.default_rng(4), 2000, lift=0.4)).verdict.decision == "worse"


def test_history_makes_intervals_narrower() -> None:
    rng = np.random.default_rng(8)
    without, with_it = (
        analyse(EXPERIMENT, units(np.random.default_rng(8), 1000, history=known)).comparisons[0]
        for known in (False, True)
    )
    assert rng is not None
    assert without.anytime is not None
    assert with_it.anytime is not None
    assert with_it.history is not None
    assert with_it.history.variance_kept == pytest.approx(0.5, abs=0.06)
    assert with_it.anytime.high - with_it.anytime.low < 0.8 * (without.anytime.high - without.anytime.low)


def test_guardrail_stops_only_beyond_its_tolerance() -> None:
    found = units(np.random.default_rng(9), 2000, lift=1.0)
    for tolerance, decision in ((0.5, "stop"), (1.5, "better")):
        guarded = replace(EXPERIMENT, guardrails=(Guardrail(Metric("score", "lower"), tolerance, stop=True),))
        assert analyse(guarded, found).verdict.decision == decision


def test_report_with_adaptive_weights_has_only_anytime_valid_results() -> None:
    report = analyse(replace(EXPERIMENT, adaptive="thompson"), units(np.random.default_rng(4), 1000))
    assert report.peeking_only
    assert all(one.fixed is None and one.p_fixed is None and one.lift_fixed is None for one in report.comparisons)
    assert report.comparisons[0].anytime is not None
    assert report.sample_ratio.p_fixed is None


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.integers(0, 260), st.floats(0.01, 1e4), st.floats(-1e3, 1e3))
def test_report_does_not_depend_on_order_scale_or_names(seed: int, count: int, scale: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    found = units(rng, count)
    report = analyse(EXPERIMENT, found)
    assert analyse(EXPERIMENT, [found[index] for index in rng.permutation(count)]) == report
    moved = [
        replace(unit, metrics={"score": (unit.metrics["score"][0] * scale + shift, 1), "other": unit.metrics["other"]})
        for unit in found
    ]
    one, other = report.comparisons[0], analyse(EXPERIMENT, moved).comparisons[0]
    assert (one.ready, one.difference is None) == (other.ready, other.difference is None)
    if one.difference is not None and other.difference is not None:
        assert other.difference == pytest.approx(one.difference * scale, rel=1e-5, abs=1e-6 * (scale + abs(shift)))
    if one.anytime and other.anytime:
        wide = one.anytime.high - one.anytime.low
        assert other.anytime.high - other.anytime.low == pytest.approx(wide * scale, rel=1e-5)
    renamed = replace(EXPERIMENT, arms=(Arm("a", 50), Arm("b", 50)), control="a")
    names = {"raw": "a", "new": "b"}
    again = analyse(renamed, [replace(unit, arm=names[unit.arm]) for unit in found]).comparisons[0]
    assert (again.difference, again.anytime, again.p_fixed) == (one.difference, one.anytime, one.p_fixed)


VALUE = st.sampled_from([0.0, 1.0, -1.0, 1e-12, 1e9, 0.5])


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from(["raw", "new", "gone"]), VALUE, st.sampled_from([0.01, 0.5, 1.0])), max_size=40)
)
def test_report_of_few_units_has_only_finite_numbers(rows: list[tuple[str, float, float]]) -> None:
    found = [
        UnitOutcomes(str(number), arm, share, 1e9, {"score": (value, 1)}, {"score": (value, 1)})
        for number, (arm, value, share) in enumerate(rows)
    ]
    guarded = replace(EXPERIMENT, guardrails=(Guardrail(Metric("score"), 0.1, stop=True),))
    report = analyse(guarded, found)
    assert json.loads(json.dumps(asdict(report), allow_nan=False))["units"] == report.units


def test_propensities_of_three_arms_follow_from_those_of_units() -> None:
    rng = np.random.default_rng(12)
    shares = np.array([0.5, 0.3, 0.2])
    arms = rng.choice(3, 3000, p=shares)
    names = ["a", "b", "c"]
    found = [UnitOutcomes(f"{i:05}", names[arm], shares[arm], 1e9 + i, {}, {}) for i, arm in enumerate(arms)]
    samples = collect_samples(found, names, [])
    assert samples.propensities == pytest.approx(np.tile(shares, (3000, 1)))
    ratio = sample_ratio(samples, adaptive=False)
    assert not ratio.blocks
    assert ratio.p_fixed == pytest.approx(scipy.stats.chisquare(np.bincount(arms), 3000 * shares).pvalue)


@given(variance=st.floats(1e-12, 1e6), information=st.floats(1e-6, 1e4), difference=st.floats(1e-12, 1e6))
def test_growth_until_detection_is_found_for_any_variance(
    variance: float, information: float, difference: float
) -> None:
    growth = EffectEstimate(0.0, 1.0, 10.0, variance, information).growth_until(difference, 0.05)
    bound = float(boundary(np.array(information * growth), 0.05)) + float(scipy.stats.norm.ppf(POWER))
    seen = bound * math.sqrt(variance / growth)
    if 1e-12 < growth < 1e12:
        assert seen == pytest.approx(difference, rel=1e-6)
    else:
        assert (seen > difference) is (growth > 1)


@pytest.mark.slow
def test_interval_with_history_is_narrower_and_valid_at_every_look() -> None:
    """CUPED in 60 experiments without a difference between the arms, with looks at 200, 300, ..., 600 units."""
    wrong, kept = 0, []
    for seed in range(60):
        everyone = units(np.random.default_rng(seed), 600, history=True)
        looks = [analyse(EXPERIMENT, everyone[:count]).comparisons[0] for count in range(200, 601, 100)]
        intervals = [look.anytime for look in looks if look.anytime is not None]
        wrong += any(not interval.low <= 0 <= interval.high for interval in intervals)
        history = looks[-1].history
        assert history is not None
        kept.append(history.variance_kept)
    assert wrong <= 6, "5 % of 60 are 3; 7 or more are seen in 3 % of such tests"
    assert np.mean(kept) == pytest.approx(0.5, abs=0.06), "half of the variance is the past's"


@pytest.mark.slow
def test_guardrail_stops_a_harmful_arm_and_not_a_harmless_one() -> None:
    """60 experiments have a harmless arm; in 60 others, the arm lowers the score by 0.8. Looks: 200, ..., 800 units."""
    guardrail = Guardrail(Metric("score"), 0.2, stop=True)
    guarded = replace(EXPERIMENT, guardrails=(guardrail,))

    def stops(lift: float) -> int:
        return sum(
            any(
                result.breached
                for count in range(200, 801, 100)
                for result in analyse(guarded, everyone[:count]).guardrail_results
            )
            for seed in range(60)
            for everyone in [units(np.random.default_rng(1000 + seed), 800, lift)]
        )

    assert stops(0.0) <= 2
    assert stops(-0.8) >= 50
