"""Tests how a report is printed: in any width, no name and no number is broken, and the digits fit the intervals."""

import io
import re
from collections.abc import Mapping

import numpy as np
import pytest
from rich.console import Console

from proxy.experiments.analysis.analyze import analyse
from proxy.experiments.analysis.report import Report
from proxy.experiments.console_report import print_report
from proxy.experiments.definition import Arm, Experiment, Guardrail, Metric
from proxy.experiments.records import UnitOutcomes

ARMS = (Arm("raw-matched", 50), Arm("aligned-with-sets", 50), Arm("third", 50))
METRICS = ("ended_by_itself", "completion_tokens", "latency", "thumbs_up", "time_to_first_token", "score")


def made_report(units: int, arms: int = 2, *, slower: float = 1.3) -> Report:
    latency = Metric("latency", "lower")
    metrics = tuple(Metric(name, "higher") for name in METRICS)
    one = Experiment("e", ARMS[:arms], "raw-matched", metrics, "s", guardrails=(Guardrail(latency, 0.5, stop=False),))
    dice = np.random.default_rng(1)
    found = []
    for number in range(units):
        for place, arm in enumerate(ARMS[:arms]):
            values = _values(dice, place, slower)
            sums = {name: (value, 1) for name, value in values.items()}
            found.append(UnitOutcomes(f"{arm.name}{number}", arm.name, 1 / arms, 1e9 + 600 * number, sums, {}))
    return analyse(one, found)


def _values(dice: np.random.Generator, place: int, slower: float) -> Mapping[str, float]:
    return {
        "ended_by_itself": float(dice.random() < 0.6 + 0.2 * place),
        "completion_tokens": float(dice.lognormal(5 + 0.1 * place, 0.8)),
        "latency": float(dice.lognormal(0.5, 0.5)) * slower**place,
        "thumbs_up": float(dice.random() < 0.004),
        "time_to_first_token": float(dice.lognormal(-3, 0.5)),
        "score": float(dice.normal(0.01, 12345.678)),
    }


def printed(report: Report, width: int) -> str:
    output = io.StringIO()
    print_report("e", report, Console(file=output, width=width, highlight=False, markup=False))
    return output.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120, 160])
@pytest.mark.parametrize(("units", "arms"), [(60, 2), (300, 2), (300, 3)])
def test_lines_fit_the_width_and_break_neither_names_nor_numbers(units: int, arms: int, width: int) -> None:
    text = printed(made_report(units, arms), width)
    assert not [line for line in text.splitlines() if len(line.rstrip()) > width]
    assert not re.search(r"^\s*%", text, re.MULTILINE), "a number is apart from its %"
    for name in METRICS:
        assert len(re.findall(rf"^{name}( \*)? ", text, re.MULTILINE)) == arms - 1
    for arm in ARMS[1:arms]:
        assert f"e: {arm.name} against raw-matched" in text
    assert ("one look" in text) == (width >= 110)


def test_missing_units_are_told_once_for_all_metrics_with_the_same_reason() -> None:
    few, rare = printed(made_report(60), 200), printed(made_report(300), 200)
    assert f"No interval at any time yet: {', '.join(METRICS)} (from 100 units per arm (now 60))." in few
    assert "No interval at any time yet: thumbs_up (from 30 units with another value than most (now 2))." in rare


@pytest.mark.parametrize(
    ("units", "slower", "words"),
    [
        (300, 1.3, r"worse by \d\.\d+ seconds \(at least (\d\.\d+)\), with a tolerance of 0\.5"),
        (60, 1.3, r"worse by \d\.\d+ seconds \(not certain\), with a tolerance of 0\.5"),
        (300, 0.5, r"better by \d\.\d+ seconds \(not certain\), with a tolerance of 0\.5"),
    ],
)
def test_guardrail_has_the_digits_that_its_interval_supports(units: int, slower: float, words: str) -> None:
    report = made_report(units, slower=slower)
    (guardrail,) = report.guardrail_results
    assert f"Guardrail latency, aligned-with-sets: {guardrail.words}." in printed(report, 200)
    assert re.fullmatch(words, guardrail.words)
    assert all(len(number) == 4 for number in re.findall(r"\d\.\d+", guardrail.words.partition(", with")[0]))


def test_breach_has_the_same_digits_as_the_guardrail() -> None:
    report = made_report(300, slower=2.0)
    (guardrail,) = report.guardrail_results
    (least,) = re.findall(r"at least ([\d.]+)\)", guardrail.words)
    assert f"worse in latency by at least {least}, and the tolerance is 0.5." in report.verdict.sentence
    assert f"{guardrail.words}. BREACHED" in printed(report, 200)
