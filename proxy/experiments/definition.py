"""Experiments: their arms, who is in, and which arm a unit gets. Pure and without state; knows no file and no request.

A unit is whoever or whatever should always get the same: a user, or a conversation. Its arm follows from a hash of the
experiment's salt and the unit, so that every worker and every replica knows it without asking anyone.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Final, Literal

Better = Literal["higher", "lower"]
Adaptive = Literal["thompson"]

AUTOMATIC_METRICS: Final[Mapping[str, Better]] = {
    "ended_by_itself": "higher",
    "truncated": "lower",
    "error": "lower",
    "client_gone": "lower",
    "regenerated": "lower",
    "latency": "lower",
    "time_to_first_token": "lower",
    "prompt_tokens": "lower",
    "completion_tokens": "lower",
    "judged_better": "higher",
}
"""What is known of a request without its user's word; see outcomes.Exposure. judged_better is the shadow judge's."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to be served. What is None is as it would be without the experiment. variant: aligned, raw, raw-matched;
    model: id that a backend lists; bundle: directory of a bundle, or `default`; weight: its share beside the others'
    weights, 0 for an arm that nobody gets."""

    name: str
    weight: float
    variant: str | None = None
    model: str | None = None
    bundle: str | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """What is compared: the name that feedback gives, or one of AUTOMATIC_METRICS."""

    name: str
    better: Better = "higher"


@dataclass(frozen=True, slots=True)
class Guardrail:
    """A metric that must not suffer. tolerance: how much worse than the control's an arm's mean may be, in the metric's
    own unit; stop: whether everyone gets the control once it certainly is worse than that."""

    metric: Metric
    tolerance: float
    stop: bool


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment, as its file says. metrics: the first is the one that decides; share: of the units that may be in;
    models and keys: who may be in (empty: all), by the model asked for and the name of the key; start and end: Unix
    seconds; layer and slots: experiments on one layer exclude each other, each having its own part of [0, 1);
    adaptive: by which rule the weights follow the outcomes, None: they stay as the file says; planned_units: for how
    many units, of all arms, the statistics are to be at their best (see sequential)."""

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
    total: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", math.fsum(arm.weight for arm in self.arms))

    def arm(self, name: str) -> Arm:
        """The arm of a name. Raises KeyError."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise KeyError(name)

    def propensity(self, arm: Arm) -> float:
        """The probability with which a unit that is in gets this arm."""
        return arm.weight / self.total

    def concerns(self, model: str, key: str | None) -> bool:
        """Whether requests for this model, with this key, may be in."""
        return (not self.models or model in self.models) and (not self.keys or key in self.keys)

    def includes(self, unit: bytes) -> bool:
        """Whether a unit is in: by its place on the layer, then by the share of traffic."""
        low, high = self.slots
        if self.layer and not low <= uniform("layer", self.layer, unit) < high:
            return False
        return self.share >= 1.0 or uniform("share", self.salt, unit) < self.share


def assign(experiment: Experiment, unit: bytes) -> Arm:
    """The arm of a unit (see units.Unit.digest; in a simulation any bytes).

    Weighted rendezvous hashing: each arm draws an exponential time whose rate is its weight, from a hash of the salt,
    the arm's name and the unit; the first one wins. An arm that gains weight takes units from the others and gives none
    back; no rule without state moves fewer units in the worst case (Bavarian et al., arXiv 1612.01041).
    """
    return min(experiment.arms, key=lambda arm: _arrival(experiment.salt, arm, unit))


def _arrival(salt: str, arm: Arm, unit: bytes) -> float:
    """When the arm arrives; never, without weight."""
    return -math.log(uniform("arm", f"{salt}\0{arm.name}", unit)) / arm.weight if arm.weight else math.inf


def uniform(purpose: str, salt: str, unit: bytes) -> float:
    """A number in (0, 1), the same everywhere for the same arguments, as if drawn at random for others."""
    digest = blake2b(unit, digest_size=8, key=_key(purpose, salt)).digest()
    return ((int.from_bytes(digest) >> 12) + 0.5) / 2**52


@lru_cache(maxsize=1024)
def _key(purpose: str, salt: str) -> bytes:
    return blake2b(f"{purpose}\0{salt}".encode(), digest_size=32).digest()


def may_meet(one: Experiment, other: Experiment) -> bool:
    """Whether one request may be in both: no layer and slots, models, keys or dates keep them apart."""
    apart = (
        one.layer and one.layer == other.layer and not _overlap(one.slots, other.slots),
        one.models and other.models and not one.models & other.models,
        one.keys and other.keys and not one.keys & other.keys,
        not _overlap((one.start, one.end), (other.start, other.end)),
    )
    return not any(apart)


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def settings_of(experiment: Experiment) -> frozenset[str]:
    """What the experiment decides: `model`, and `variant` (which a bundle decides, too)."""
    models = any(arm.model for arm in experiment.arms)
    variants = any(arm.variant or arm.bundle for arm in experiment.arms)
    return frozenset(["model"] * models + ["variant"] * variants)


def contradiction(experiments: Sequence[Experiment]) -> tuple[str, str, str] | None:
    """Two experiments that may have one request and decide the same thing, and which; None where there are none."""
    for one, other in _pairs(experiments):
        both = settings_of(one) & settings_of(other)
        if both and may_meet(one, other):
            return one.name, other.name, min(both)
    return None


def _pairs(experiments: Sequence[Experiment]) -> Iterable[tuple[Experiment, Experiment]]:
    return ((one, other) for place, one in enumerate(experiments) for other in experiments[:place])
