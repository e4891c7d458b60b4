"""Tests the words of a verdict over many outcomes: they agree with the statistics, and have no absurd digits."""

import math
import re
from dataclasses import replace
from typing import Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.experiments.analysis.analyze import analyse
from proxy.experiments.analysis.comparisons import conclude
from proxy.experiments.analysis.conclusion import Headline
from proxy.experiments.analysis.headline import headline_of, side
from proxy.experiments.analysis.report import ArmMean, Comparison, Interval, Report
from proxy.experiments.definition import Arm, Better, Experiment, Metric
from proxy.experiments.records import UnitOutcomes

ARMS: Final = (Arm("raw", 50), Arm("new", 50))
MAX_DIGITS: Final = 4  # significant digits of a number in the words of a difference
MORE: Final = re.compile(r"about ([\d,]+) more units")


def experiment(metric: str = "thumbs_up", better: Better = "higher", arms: tuple[Arm, ...] = ARMS) -> Experiment:
    return Experiment("demo", arms, "raw", (Metric(metric, better),), "salt")


def report_on(
    raw: "np.ndarray", new: "np.ndarray", one: Experiment, *, requests: int = 1, stopped: bool = False
) -> Report:
    """Analyse units that have these values, as means over `requests` requests, and come every ten minutes in turn."""
    metric, found = one.metrics[0].name, []
    for number, values in enumerate(zip(raw, new, strict=True)):
        for arm, value in zip(("raw", "new"), values, strict=True):
            sums = {metric: (float(value) * requests, requests)}
            found.append(UnitOutcomes(f"{arm}{number:06}", arm, 0.5, 1e9 + 600 * number + (arm == "new"), sums, {}))
    return analyse(one, found, stopped=stopped)


def shares(
    count: int,
    before: float,
    after: float,
    seed: int = 1,
    one: Experiment | None = None,
    *,
    stopped: bool = False,
) -> Report:
    dice = np.random.default_rng(seed)
    raw, new = (np.asarray(dice.random(count) < rate, float) for rate in (before, after))
    return report_on(raw, new, one or experiment(), stopped=stopped)


def told(report: Report) -> Headline:
    headline = report.comparisons[0].headline
    assert headline is not None
    return headline


def numbers(text: str) -> list[str]:
    return re.findall(r"\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?", text)


def significant(number: str) -> int:
    """Return how many digits of a number carry information: 0.030 has 2, and 1,200 has 2."""
    digits = number.partition("e")[0].replace(",", "")
    whole, _, fraction = digits.partition(".")
    return len((whole + fraction).lstrip("0")) if fraction else len(whole.lstrip("0").rstrip("0"))


def check_headline(one: Comparison) -> None:
    """Check that the words of a comparison agree with its numbers."""
    headline, interval = one.headline, one.anytime
    assert (headline is None) == (one.difference is None)
    if headline is None or one.difference is None:
        return
    neutral = 1.0 if headline.scale == "times" else 0.0
    sign = np.sign(headline.estimate - neutral)
    assert sign in (0, np.sign(one.difference))
    words = f"{headline.words}; {headline.words_between}; {headline.short}; {headline.short_between}"
    assert all(significant(number) <= MAX_DIGITS for number in numbers(words)), words
    assert "nan" not in words
    assert "inf" not in words
    if headline.scale != "times":
        assert ("higher" in headline.words) == (one.difference > 0)
        assert ("lower" in headline.words) == (one.difference < 0)
    if interval is None:
        assert (headline.low, headline.high, headline.words_between) == (None, None, "")
        return
    assert headline.low is not None
    assert headline.high is not None
    assert headline.low <= headline.estimate <= headline.high
    if side(interval):  # rounding never moves a bound across the value of no difference
        assert side(Interval(headline.low - neutral, headline.high - neutral)) in (side(interval), 0)
        assert ("lower" in headline.words_between) <= (interval.high < 0)
    if headline.unit == "percentage points":
        assert -100 <= headline.low <= headline.high <= 100


finite = st.floats(-1e9, 1e9, allow_nan=False)
positive = st.floats(1e-9, 1e9)


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    """Return a comparison of any size, whose interval belongs to its means."""
    unit = draw(st.sampled_from(["share", "seconds", "tokens", ""]))
    high = 1.0 if unit == "share" else 1e9
    arm, control = (draw(st.floats(0, high) | st.floats(0, min(high, 1e-3))) for _ in range(2))
    error = draw(st.floats(1e-12, 1)) * max(arm, control, 1e-9)
    difference, ready = arm - control, draw(st.booleans())
    wide, narrow = Interval(difference - 3 * error, difference + 3 * error), Interval(difference - error, difference)
    ratio = math.log(arm / control) if min(arm, control) > 1e-12 else None
    spread = None if ratio is None else error / min(arm, control)
    lifts = None if ratio is None or spread is None or spread > 100 else _lifts(ratio, 3 * spread)
    means = (ArmMean(100, 100.0, mean, 1.0) for mean in (arm, control))
    plain = Comparison("score", unit, "higher", True, "new", "raw", *means, ready, difference, narrow)
    lift = None if ratio is None else math.expm1(ratio)
    return replace(
        plain, anytime=wide if ready else None, lift=lift, lift_anytime=lifts if ready else None, lift_fixed=lifts
    )


def _lifts(ratio: float, spread: float) -> Interval:
    return Interval(math.expm1(ratio - spread), math.expm1(min(ratio + spread, 690.0)))


@settings(max_examples=600)
@given(comparisons())
def test_words_agree_with_the_numbers_of_any_comparison(one: Comparison) -> None:
    (concluded,) = conclude([one])
    check_headline(concluded)


@settings(max_examples=40)
@given(
    st.integers(0, 10**6),
    st.integers(2, 400),
    st.sampled_from(["thumbs_up", "latency", "completion_tokens", "rating"]),
    st.sampled_from([0.0, 0.001, 0.3, 1.0, 30.0]),
    st.sampled_from([0.02, 1.0, 1.05, 3.0, 50.0]),
)
def test_verdict_of_random_outcomes_agrees_with_its_parts(
    seed: int, count: int, metric: str, level: float, factor: float
) -> None:
    dice = np.random.default_rng(seed)
    if metric == "thumbs_up":
        report = shares(count, min(level, 1.0), min(level * factor, 1.0), seed)
    else:
        raw, new = level * dice.lognormal(0, 1, count), level * factor * dice.lognormal(0, 1, count)
        report = report_on(raw, new, experiment(metric, "lower" if metric == "latency" else "higher"))
    (one,), verdict = report.comparisons, report.verdict
    check_headline(one)
    assert verdict.headline in (None, one.headline)
    assert verdict.advice.sentence.endswith((".", "users."))
    good = (one.difference or 0) * (1 if one.better == "higher" else -1)
    if verdict.decision in ("better", "worse"):
        assert (good > 0) == (verdict.decision == "better")
        assert verdict.advice.action in ("choose", "adopt" if good > 0 else "reject")
        assert one.anytime is not None
        assert side(one.anytime) == np.sign(one.difference)
    if found := MORE.search(verdict.advice.sentence):
        assert verdict.advice.more_units == pytest.approx(float(found[1].replace(",", "")), rel=0.06)
        assert verdict.advice.more_units > 0
    assert (found is None) == (verdict.advice.more_units is None)


def test_difference_of_a_share_near_zero_is_told_in_points() -> None:
    """Before, the same outcomes read: +2312.3% (between +161.0% and +22199.1%, however often one looks)."""
    report = shares(120, 0.04, 0.96)
    headline = told(report)
    assert (headline.scale, headline.unit) == ("difference", "percentage points")
    assert re.fullmatch(r"new is better than raw: thumbs_up is 9\d % against \d %, which is \d\d percentage points "
                        r"higher \(between \d\d and 1?\d\d percentage points higher, however often you look\)\.",
                        report.verdict.sentence)  # fmt: skip
    assert report.verdict.advice.action == "adopt"


@pytest.mark.parametrize("seed", range(8))
def test_written_means_of_a_share_differ_by_the_written_difference(seed: int) -> None:
    headline = told(shares(1000, 0.5, 0.5 + seed / 100, seed))
    arm, control = (float(number) for number in numbers(headline.means))
    assert arm - control == pytest.approx(
        headline.estimate, abs=0.5 * 10 ** -len(f"{headline.estimate:g}".partition(".")[2])
    )
    assert all(significant(number) <= MAX_DIGITS for number in numbers(headline.means))


def test_means_of_a_relative_difference_have_few_digits() -> None:
    dice = np.random.default_rng(1)
    report = report_on(40 * dice.lognormal(0, 0.3, 1000), 40.1 * dice.lognormal(0, 0.3, 1000), experiment("rating"))
    assert all(significant(number) <= 3 for number in numbers(told(report).means)), told(report).means


def test_control_near_zero_makes_the_absolute_difference_the_headline() -> None:
    dice = np.random.default_rng(2)
    raw = np.where(dice.random(400) < 0.02, 5.0, 0.0)
    report = report_on(raw, 5 + dice.normal(0, 1, 400), experiment("rating"))
    assert told(report).scale == "difference"
    assert "times" not in report.verdict.sentence
    assert "%" not in report.verdict.sentence


@pytest.mark.parametrize(
    ("metric", "factor", "words"),
    [
        ("latency", 3.0, r"about (3|2\.9|3\.1) times as long"),
        ("completion_tokens", 3.0, r"about (3|2\.9|3\.1) times as many"),
        ("rating", 1 / 3, "about a third as much"),
        ("rating", 0.4, r"about (39|40|41)(\.\d)? % of the control's"),
        ("rating", 0.8, r"(19|20|21)(\.\d)? % lower"),
    ],
)
def test_large_relative_differences_are_told_as_multiples(metric: str, factor: float, words: str) -> None:
    dice = np.random.default_rng(5)
    raw, new = 40 * dice.lognormal(0, 0.3, 2000), 40 * factor * dice.lognormal(0, 0.3, 2000)
    assert re.fullmatch(words, told(report_on(raw, new, experiment(metric))).words)


def test_means_of_flags_are_shares_and_other_values_between_0_and_1_are_not() -> None:
    dice = np.random.default_rng(5)
    rated = report_on(dice.random(300), dice.random(300), experiment("rating"))
    flags = report_on(dice.integers(0, 5, 300) / 4, dice.integers(0, 5, 300) / 4, experiment("liked"), requests=4)
    assert (rated.comparisons[0].unit, flags.comparisons[0].unit) == ("", "share")


def test_advice_names_how_many_units_are_missing() -> None:
    early = shares(60, 0.5, 0.5).verdict
    assert (early.decision, early.advice.action, early.advice.more_units) == ("waiting", "wait", 80)
    open_ = shares(1500, 0.5, 0.52).verdict
    assert (open_.decision, open_.advice.action) == ("undecided", "continue")
    words = r"points \(\d+ % of raw's mean\), the experiment needs about [\d,]+ more units \(about \d+ (days|hours)"
    assert re.search(words, open_.advice.sentence)


@pytest.mark.parametrize("rate", [0.0, 0.004, 0.02])
def test_rare_values_are_named_as_what_is_missing(rate: float) -> None:
    """With 500 units in each arm, only the values are missing, not the units."""
    report = shares(500, rate, rate, 4)
    varied = round(
        sum((one.mean or 0) * one.units for one in (report.comparisons[0].arm_mean, report.comparisons[0].control_mean))
    )
    assert varied < 30
    assert report.comparisons[0].missing == f"from 30 units with another value than most (now {varied})"
    assert report.verdict.decision == "waiting"
    assert f"thumbs_up has another value than most for only {varied} unit" in report.verdict.sentence
    assert "choose another first metric" in report.verdict.advice.sentence
    more = report.verdict.advice.more_units
    assert more == (math.ceil((30 - varied) / varied * 1000) if varied else None)


def test_missing_units_are_named_as_what_is_missing() -> None:
    assert shares(60, 0.5, 0.5).comparisons[0].missing == "from 100 units per arm (now 60)"
    assert shares(500, 0.5, 0.5).comparisons[0].missing == ""
    weights = [1.0, 0.02] * 60
    units = [
        UnitOutcomes(f"{arm}{number}", arm, weight, 1e9 + number, {"thumbs_up": (float(number % 2), 1)}, {})
        for number, weight in enumerate(weights)
        for arm in ("raw", "new")
    ]
    verdict = analyse(experiment(), units).verdict
    assert re.search(r"the smallest arm has \d+ effective units. Each arm needs 100", verdict.sentence)


def test_advice_for_a_worse_arm_names_the_command_that_stops() -> None:
    verdict = shares(1000, 0.6, 0.4).verdict
    assert (verdict.decision, verdict.advice.action) == ("worse", "reject")
    assert "`drpo-proxy experiment stop demo --store PLACE`" in verdict.advice.sentence


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        (Arm("new", 50, variant="aligned"), "Keep `--bundle`: without an experiment"),
        (Arm("new", 50), "Keep `--bundle`: without an experiment"),
        (Arm("new", 50, variant="raw"), "without `--bundle`"),
        (Arm("new", 50, variant="raw-matched"), "MODEL@raw-matched"),
        (Arm("new", 50, bundle="bundles/new"), "`--bundle bundles/new`"),
        (Arm("new", 50, model="other"), "name the model other"),
    ],
)
def test_advice_for_a_better_arm_names_how_all_users_get_it(arm: Arm, words: str) -> None:
    advice = shares(1000, 0.4, 0.6, one=experiment(arms=(ARMS[0], arm))).verdict.advice
    assert advice.action == "adopt"
    assert words in advice.sentence
    for way in ("restart the server without the experiment's file", "remove the file from it and reload"):
        assert way in advice.sentence


@pytest.mark.parametrize("rates", [(0.4, 0.6), (0.6, 0.4), (0.5, 0.5)], ids=["better", "worse", "undecided"])
def test_advice_after_a_stop_does_not_say_to_stop_or_to_collect(rates: tuple[float, float]) -> None:
    running, stopped = (shares(1000, *rates, stopped=stopped).verdict for stopped in (False, True))
    assert (stopped.decision, stopped.sentence) == (running.decision, running.sentence)
    assert stopped.advice.sentence.startswith("The experiment is stopped: all users get raw. ")
    assert "experiment stop" not in stopped.advice.sentence
    assert "Keep collecting" not in stopped.advice.sentence
    assert "restart the server" in stopped.advice.sentence
    assert ("experiment release demo" in stopped.advice.sentence) == (running.decision != "better")


def test_certain_and_small_difference_is_too_small_to_matter() -> None:
    dice = np.random.default_rng(5)
    raw, new = 100 + dice.normal(0, 3, 3000), 100.6 + dice.normal(0, 3, 3000)
    verdict = report_on(raw, new, experiment("rating")).verdict
    assert (verdict.decision, verdict.advice.action) == ("better", "choose")
    assert "too small to matter" in verdict.advice.sentence
    same = report_on(raw, 100 + dice.normal(0, 3, 3000), experiment("rating")).verdict
    assert (same.decision, same.advice.action) == ("alike", "choose")


def test_interval_that_only_several_arms_explain_is_not_called_a_winner() -> None:
    names = ("raw", *"abcdefgh")
    one = experiment(arms=tuple(Arm(name, 10) for name in names))
    for seed in range(200):
        dice, found = np.random.default_rng(seed), []
        for number in range(900):
            name = names[number % len(names)]
            value = float(dice.random() < (0.78 if name == "a" else 0.5))
            found.append(UnitOutcomes(f"u{number:06}", name, 1 / 9, 1e9 + number, {"thumbs_up": (value, 1)}, {}))
        verdict = analyse(one, found).verdict
        if verdict.decision == "undecided" and "compared" in verdict.sentence:
            assert "8 arms" in verdict.sentence
            return
    raise AssertionError("no outcome lay between the corrected level and the level of one arm")


def test_headline_of_an_unknown_difference_is_none() -> None:
    means = ArmMean(0, 0.0, None, None)
    assert headline_of(Comparison("score", "", "higher", True, "new", "raw", means, means, ready=False)) is None
