"""The definition of an experiment: its arms, its metrics, which units take part, and the arm of each unit.

Everything here is pure and has no state. It does not depend on files, requests or the store.

A unit is a user or a conversation, and always gets the same arm. The arm follows from a hash of the experiment's salt
and the unit, so all workers and replicas agree without communication.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Literal

Better = Literal["higher", "lower"]
Adaptive = Literal["thompson"]


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to serve a request. A setting that is None stays as it is outside the experiment.

    Attributes:
        name: Name of the arm, unique in its experiment.
        weight: Share of the units, relative to the other arms' weights. 0 means that no unit gets this arm.
        variant: aligned, raw or raw-matched.
        model: Model id that a backend lists.
        bundle: Directory of a bundle, or `default`.
    """

    name: str
    weight: float
    variant: str | None = None
    model: str | None = None
    bundle: str | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """What an experiment compares.

    Attributes:
        name: Name of a metric in feedback, or of one in `AUTOMATIC_METRICS`.
        better: Which direction is an improvement.
    """

    name: str
    better: Better = "higher"


@dataclass(frozen=True, slots=True)
class Guardrail:
    """A metric that must not get worse.

    Attributes:
        metric: The metric that is guarded.
        tolerance: How much worse than the control's mean an arm's mean may be, in the unit of the metric.
        stop: Whether the experiment stops once an arm is certainly worse than that.
    """

    metric: Metric
    tolerance: float
    stop: bool


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment, as its file defines it.

    Attributes:
        name: Name of the experiment.
        arms: The arms, two at least.
        control: Name of the arm that the others are compared with.
        metrics: What is compared. The first metric decides the verdict.
        salt: Text that is hashed with each unit, so that experiments are independent of each other.
        guardrails: Metrics that must not get worse.
        models: Requested models that take part. Empty means all.
        keys: Names of the client keys that take part. Empty means all.
        share: Share of the units that take part, 0 to 1.
        start: First moment of the experiment, Unix seconds.
        end: Moment at which the experiment is over, Unix seconds.
        layer: Experiments with disjoint slots on one layer share no unit. Empty means no layer.
        slots: The experiment's part of its layer, a half-open range within [0, 1).
        adaptive: Rule by which the weights follow the outcomes. None keeps the weights of the file.
        planned_units: Number of units, over all arms, at which the statistics are most sensitive (see `sequential`).
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

    def arm(self, name: str) -> Arm:
        """Return the arm with this name. Raises KeyError."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise KeyError(name)

    def propensity(self, arm: Arm) -> float:
        """Return the probability that a unit of the experiment gets this arm."""
        return arm.weight / self.total_weight

    def applies_to(self, model: str, key: str | None) -> bool:
        """Whether requests for this model with this client key may take part."""
        return (not self.models or model in self.models) and (not self.keys or key in self.keys)

    def includes(self, unit: bytes) -> bool:
        """Whether a unit takes part, by its slot on the layer and then by the share of traffic."""
        low, high = self.slots
        if self.layer and not low <= uniform("layer", self.layer, unit) < high:
            return False
        return self.share >= 1.0 or uniform("share", self.salt, unit) < self.share


def assign(experiment: Experiment, unit: bytes) -> Arm:
    """Return the arm of a unit, by weighted rendezvous hashing.

    Each arm draws a time from an exponential distribution whose rate is its weight. The draw is a hash of the salt, the
    arm's name and the unit. The arm with the earliest time wins. An arm that gains weight takes units from the other
    arms and gives none back. No stateless rule moves fewer units in the worst case (Bavarian et al., arXiv 1612.01041).

    Args:
        experiment: The experiment, with at least one positive weight.
        unit: Digest of the unit (see `units`). Simulations may use any bytes.
    """
    return min(experiment.arms, key=lambda arm: _exponential_draw(experiment.salt, arm, unit))


def _exponential_draw(salt: str, arm: Arm, unit: bytes) -> float:
    return -math.log(uniform("arm", f"{salt}\0{arm.name}", unit)) / arm.weight if arm.weight else math.inf


def uniform(purpose: str, salt: str, unit: bytes) -> float:
    """Return a pseudo-random number in (0, 1) that depends on the arguments alone."""
    digest = blake2b(unit, digest_size=8, key=_hash_key(purpose, salt)).digest()
    return ((int.from_bytes(digest) >> 12) + 0.5) / 2**52


@lru_cache(maxsize=1024)
def _hash_key(purpose: str, salt: str) -> bytes:
    return blake2b(f"{purpose}\0{salt}".encode(), digest_size=32).digest()


def may_overlap(one: Experiment, other: Experiment) -> bool:
    """Whether one request may take part in both experiments."""
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
    """Return which settings the experiment decides: `model`, and `variant`, which a bundle also decides."""
    models = any(arm.model for arm in experiment.arms)
    variants = any(arm.variant or arm.bundle for arm in experiment.arms)
    return frozenset(["model"] * models + ["variant"] * variants)


def find_conflict(experiments: Sequence[Experiment]) -> tuple[str, str, str] | None:
    """Find two experiments that may decide the same setting of one request.

    Returns:
        The names of both experiments and the setting, or None.
    """
    for one, other in _pairs(experiments):
        common = decided_settings(one) & decided_settings(other)
        if common and may_overlap(one, other):
            return one.name, other.name, min(common)
    return None


def _pairs(experiments: Sequence[Experiment]) -> Iterable[tuple[Experiment, Experiment]]:
    return ((one, other) for index, one in enumerate(experiments) for other in experiments[:index])
