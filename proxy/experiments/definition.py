"""Defines experiments, and computes which units take part in an experiment and which arm each unit gets.

All functions are pure and have no state. They do not depend on files, requests or the store.

A unit is a user or a conversation. A unit gets the same arm each time, as long as the weights of the arms do not
change. The function `assign` computes the arm from a hash of the experiment's salt and the unit, so all workers and
replicas compute the same arm without communication.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Final, Literal

Better = Literal["higher", "lower"]
Adaptive = Literal["thompson"]
MIN_PROPENSITY: Final = 1e-9
"""The smallest probability of an arm with which the statistics can work. Units of rarer arms are left out."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One of the ways to serve a request that an experiment compares.

    If `variant`, `model` or `bundle` is None, the arm does not determine it. The method `treatment` of the class
    `assignment.ActiveExperiments` documents which variant, model or bundle the request then gets.

    Attributes:
        name: Name of the arm, unique in its experiment.
        weight: Share of the units, relative to the other arms' weights. 0 means that no unit gets this arm.
        variant: Variant with which the arm's requests are served: aligned, raw or raw-matched.
        model: Id of the model that serves the arm's requests, as a backend lists it.
        bundle: Directory of the bundle for the arm's requests, or the name of a bundle that comes with drpo.
    """

    name: str
    weight: float
    variant: str | None = None
    model: str | None = None
    bundle: str | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """A quantity by which an experiment compares its arms.

    Attributes:
        name: Name of an automatic metric (see `automatic_metrics`), or a name that clients use in feedback.
        better: Whether higher or lower values of the metric are better.
    """

    name: str
    better: Better = "higher"


@dataclass(frozen=True, slots=True)
class Guardrail:
    """A metric that no arm may make worse by more than a tolerance.

    Attributes:
        metric: The metric.
        tolerance: Maximum difference by which an arm's mean may be worse than the control's mean, in the unit of the
            metric.
        stop: Whether the experiment stops once a test shows that an arm exceeds the tolerance. If False, the experiment
            continues and the verdict contains a warning.
    """

    metric: Metric
    tolerance: float
    stop: bool


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment, as its file defines it.

    Attributes:
        name: Name of the experiment.
        arms: The arms, at least two.
        control: Name of the arm that each other arm is compared with.
        metrics: The metrics by which the arms are compared. The first one is the primary metric, which determines
            whether the verdict calls an arm better or worse.
        salt: Text that is hashed together with each unit. If two experiments have different salts, the arms that a unit
            gets in these experiments are independent of each other.
        guardrails: Metrics that no arm may make worse by more than a tolerance.
        models: Only requests for these models take part. Empty means all models.
        keys: Only requests with the client keys of these names take part. Empty means all keys.
        share: Fraction of the units that take part, 0 to 1.
        start: Time in Unix seconds at which units begin to get arms. Earlier requests are only recorded as history.
        end: Time in Unix seconds at which the experiment ends. Later requests do not take part.
        layer: Name of a group of experiments that divide the units among themselves. For each layer, a hash gives each
            unit a number from 0 to 1. Empty if the experiment is in no layer.
        slots: Range [low, high) within [0, 1). Only units whose number in the layer is in this range take part.
            Experiments in the same layer whose ranges do not overlap share no unit.
        adaptive: The rule that computes new weights of the arms from outcomes. If None, the weights of the file apply.
        planned_units: Planned number of units, over all arms. The anytime-valid intervals are tuned to be narrow near
            this number (see `analysis.sequential`).
        total_weight: Sum of the arms' weights.
    """

    name: str
    arms: tuple[Arm, ...]
    control: str
    metrics: tuple[Metric, ...]
    salt: str
    guardrails: tuple[Guardrail, ...] = ()
    models: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    share: float = 1.0
    start: float = -math.inf
    end: float = math.inf
    layer: str = ""
    slots: tuple[float, float] = (0.0, 1.0)
    adaptive: Adaptive | None = None
    planned_units: int = 2000
    total_weight: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "total_weight", math.fsum(arm.weight for arm in self.arms))

    @property
    def all_metrics(self) -> tuple[Metric, ...]:
        """The metrics by which the arms are compared, followed by those of the guardrails."""
        return (*self.metrics, *(guardrail.metric for guardrail in self.guardrails))

    def arm(self, name: str) -> Arm:
        """Return the arm with this name. Raises KeyError if no arm has this name."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise KeyError(name)

    def propensity(self, arm: Arm) -> float:
        """Return the probability that a unit of the experiment gets this arm."""
        return arm.weight / self.total_weight

    def applies_to(self, model: str, key: str | None) -> bool:
        """Return whether requests for this model, sent with the client key of this name, take part."""
        return (not self.models or model in self.models) and (not self.keys or key in self.keys)

    def includes(self, unit: bytes) -> bool:
        """Return whether a unit takes part in the experiment.

        The unit's number in the layer must be in `slots`. A second hash then selects the fraction `share` of the units.
        """
        low, high = self.slots
        if self.layer and not low <= uniform("layer", self.layer, unit) < high:
            return False
        return self.share >= 1.0 or uniform("share", self.salt, unit) < self.share


def assign(experiment: Experiment, unit: bytes) -> Arm:
    """Return the arm of a unit, by weighted rendezvous hashing.

    A hash of the salt, the arm's name and the unit gives each arm a pseudo-random time from an exponential
    distribution, whose rate is the arm's weight. The unit gets the arm with the earliest time. If an arm's weight
    increases, some units move from other arms to this arm, and all other units keep their arm. No rule that works
    without stored assignments moves fewer units in the worst case (Bavarian et al., arXiv 1612.01041).

    Args:
        experiment: The experiment, with at least one positive weight.
        unit: Digest of the unit (see `units`). Simulations may use any bytes.
    """
    return min(experiment.arms, key=lambda arm: _exponential_draw(experiment.salt, arm, unit))


def _exponential_draw(salt: str, arm: Arm, unit: bytes) -> float:
    return -math.log(uniform("arm", f"{salt}\0{arm.name}", unit)) / arm.weight if arm.weight else math.inf


def uniform(purpose: str, salt: str, unit: bytes) -> float:
    """Return a pseudo-random number that is uniformly distributed between 0 and 1, without 0 and 1 themselves.

    The number is a keyed hash of the unit, so the same arguments always give the same number.

    Args:
        purpose: What the caller uses the number for: layer, share or arm. The numbers of a unit for different purposes
            are independent of each other.
        salt: Text that is hashed together with the unit: the layer's name, the experiment's salt, or the salt and the
            arm's name.
        unit: Digest of the unit.
    """
    digest = blake2b(unit, digest_size=8, key=_hash_key(purpose, salt)).digest()
    return ((int.from_bytes(digest) >> 12) + 0.5) / 2**52


@lru_cache(maxsize=1024)
def _hash_key(purpose: str, salt: str) -> bytes:
    return blake2b(f"{purpose}\0{salt}".encode(), digest_size=32).digest()


def may_overlap(one: Experiment, other: Experiment) -> bool:
    """Return whether the same request can take part in both experiments."""
    is_disjoint = (
        one.layer and one.layer == other.layer and not _ranges_overlap(one.slots, other.slots),
        one.models and other.models and not one.models & other.models,
        one.keys and other.keys and not one.keys & other.keys,
        not _ranges_overlap((one.start, one.end), (other.start, other.end)),
    )
    return not any(is_disjoint)


def _ranges_overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def decided_settings(experiment: Experiment) -> frozenset[str]:
    """Return the settings that at least one arm of the experiment changes: `model`, `variant`, both or neither.

    An arm with a bundle also changes the variant.
    """
    models = any(arm.model for arm in experiment.arms)
    variants = any(arm.variant or arm.bundle for arm in experiment.arms)
    return frozenset(["model"] * models + ["variant"] * variants)


def find_conflict(experiments: Sequence[Experiment]) -> tuple[str, str, str] | None:
    """Find two experiments that may change the same setting of one request.

    Returns:
        The names of the two experiments and the name of the setting. None if no two experiments conflict.
    """
    for one, other in _pairs(experiments):
        common = decided_settings(one) & decided_settings(other)
        if common and may_overlap(one, other):
            return one.name, other.name, min(common)
    return None


def _pairs(experiments: Sequence[Experiment]) -> Iterable[tuple[Experiment, Experiment]]:
    return ((one, other) for index, one in enumerate(experiments) for other in experiments[:index])
