"""Tests that the assignment of units to arms follows the weights, is deterministic, and is stable."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import pytest
import scipy  # which imports scipy.stats when a test first uses it: that takes a second
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.experiments.definition import Arm, Experiment, Metric, assign, find_conflict, may_overlap

UNITS = [b"%d" % number for number in range(20_000)]


def experiment(weights: Sequence[float], salt: str = "salt", **fields: object) -> Experiment:
    arms = tuple(Arm(f"arm{number}", weight) for number, weight in enumerate(weights))
    default = Experiment(name=salt, arms=arms, control="arm0", metrics=(Metric("m"),), salt=salt)
    return replace(default, **fields)  # type: ignore[arg-type]


def arms_of(assigned_experiment: Experiment, units: Sequence[bytes] = UNITS) -> list[str]:
    return [assign(assigned_experiment, unit).name for unit in units]


def standard_errors(assigned_experiment: Experiment, units: Sequence[bytes]) -> list[float]:
    """Return the deviation of each arm's share from its weight, in binomial standard errors."""
    counts, n = Counter(arms_of(assigned_experiment, units)), len(units)
    shares = [(counts[arm.name] / n, assigned_experiment.propensity(arm)) for arm in assigned_experiment.arms]
    return [abs(share - p) / (p * (1 - p) / n) ** 0.5 for share, p in shares]


@pytest.mark.parametrize("weights", [(50, 50), (90, 10), (1, 2, 3)])
def test_shares_of_units_equal_the_weights(weights: Sequence[float]) -> None:
    for salt in ("a", "b", "c"):
        assert max(standard_errors(experiment(weights, salt), UNITS)) < 4


@pytest.mark.slow
def test_shares_of_a_million_units_equal_the_weights_for_twenty_salts() -> None:
    units = [b"user-%d" % number for number in range(1_000_000)]
    worst = [max(standard_errors(experiment((70, 30), f"salt-{number}"), units)) for number in range(20)]
    print(f"largest of 20 salts: {max(worst):.2f} binomial standard errors")
    assert max(worst) < 4


def test_experiments_are_independent_of_each_other() -> None:
    found = [arms_of(experiment((50, 30, 20), salt)) for salt in ("one", "two", "three")]
    for one, other in combinations(found, 2):
        together = Counter(zip(one, other, strict=True))
        names = sorted(set(one))
        assert scipy.stats.chi2_contingency([[together[a, b] for b in names] for a in names]).pvalue > 1e-4


def test_share_of_traffic_is_independent_of_the_arm() -> None:
    half = experiment((50, 50), share=0.3)
    inside = [half.includes(unit) for unit in UNITS]
    assert abs(sum(inside) / len(UNITS) - 0.3) < 4 * (0.3 * 0.7 / len(UNITS)) ** 0.5
    together = Counter(zip(inside, arms_of(half), strict=True))
    assert (
        scipy.stats.chi2_contingency([[together[a, b] for b in ("arm0", "arm1")] for a in (True, False)]).pvalue > 1e-4
    )


def test_unit_gets_the_same_arm_in_every_process() -> None:
    program = """
from hashlib import sha256
from proxy.experiments.definition import Arm, Experiment, Metric, assign

arms = tuple(Arm(f"arm{number}", weight) for number, weight in enumerate((50, 30, 20)))
told = Experiment(name="salt", arms=arms, control="arm0", metrics=(Metric("m"),), salt="salt")
names = " ".join(assign(told, b"%d" % number).name for number in range(20_000))
print(sha256(names.encode()).hexdigest())
"""
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "random")
    }
    assert len(digests) == 1


def test_ramp_moves_units_only_from_the_control_to_the_treatment() -> None:
    moves = Counter(zip(arms_of(experiment((90, 10))), arms_of(experiment((80, 20))), strict=True))
    assert moves["arm1", "arm0"] == 0
    assert abs(moves["arm0", "arm1"] / len(UNITS) - 0.1) < 4 * (0.1 * 0.9 / len(UNITS)) ** 0.5


@settings(max_examples=25)
@given(
    weights=st.lists(st.integers(0, 100), min_size=2, max_size=5).filter(any),
    gaining=st.integers(0, 4),
    by=st.integers(1, 100),
)
def test_arm_that_gains_weight_keeps_its_units(weights: list[int], gaining: int, by: int) -> None:
    gaining %= len(weights)
    more = [weight + by * (number == gaining) for number, weight in enumerate(weights)]
    units = UNITS[:500]
    for before, after in zip(arms_of(experiment(weights), units), arms_of(experiment(more), units), strict=True):
        assert after in (before, f"arm{gaining}")


def test_larger_share_of_traffic_keeps_the_units_of_a_smaller_one() -> None:
    smaller, larger = experiment((1, 1), share=0.1), experiment((1, 1), share=0.2)
    assert all(larger.includes(unit) for unit in UNITS if smaller.includes(unit))


def test_arm_without_weight_gets_no_unit() -> None:
    assert set(arms_of(experiment((1, 0)))) == {"arm0"}


def test_experiments_on_one_layer_share_no_unit() -> None:
    one = experiment((1, 1), "one", layer="page", slots=(0.0, 0.4))
    other = experiment((1, 1), "other", layer="page", slots=(0.4, 1.0))
    assert all(one.includes(unit) != other.includes(unit) for unit in UNITS)
    assert not may_overlap(one, other)
    assert may_overlap(one, replace(other, slots=(0.3, 1.0)))


def test_conflict_is_found_between_experiments_that_decide_the_same_setting() -> None:
    variant = (Arm("a", 1, variant="raw"), Arm("b", 1, variant="aligned"))
    model = (Arm("a", 1, model="small"), Arm("b", 1, model="large"))
    one = experiment((1, 1), "one", arms=variant)
    assert find_conflict([one, experiment((1, 1), "two", arms=variant)]) == ("two", "one", "variant")
    assert find_conflict([one, experiment((1, 1), "two", arms=model)]) is None
    assert find_conflict([one, experiment((1, 1), "two", arms=variant, keys=frozenset({"k"}))]) is not None
    keyed = replace(one, keys=frozenset({"other"}))
    assert find_conflict([keyed, experiment((1, 1), "two", arms=variant, keys=frozenset({"k"}))]) is None
    later = experiment((1, 1), "two", arms=variant, start=100.0)
    assert find_conflict([replace(one, end=100.0), later]) is None
