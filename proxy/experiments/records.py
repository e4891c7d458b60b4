"""What is recorded of experiments: exposures, feedback, judgements, and their sums for each unit.

These are plain values. They do not depend on the store. Statistics read them through the protocol `Outcomes`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias

SumAndCount: TypeAlias = tuple[float, int]
"""Sum of a metric over the requests of a unit that have a value, and the number of those requests."""


class Exposure(NamedTuple):
    """One request in one experiment. A measurement that is unknown is None.

    A named tuple, because one is made for every request: it takes a third of the time of a frozen dataclass.

    Attributes:
        id: 16 unique bytes.
        experiment: Name of the experiment.
        arm: Arm that the unit is assigned. Empty before the experiment's start.
        propensity: Probability of that arm at the time of the request.
        override: Whether the client named a variant itself and got that variant.
        unit: Digest of the unit (see `units`).
        request_id: Id of the request, as in the header of its reply.
        completion_id: Id in the body of the reply.
        time: Start of the request, Unix seconds.
        model: Model that served the request.
        variant: Variant that served the request.
        bundle: Id of the bundle that served the request.
        asked: Digest of the conversation (see `units`).
        latency: Seconds to the last byte of a complete reply.
        time_to_first_token: Seconds to the first byte of a streamed reply.
        prompt_tokens: Number of prompt tokens.
        completion_tokens: Number of generated tokens.
        ended_by_itself: Whether the model stopped before its length limit.
        truncated: Whether the reply broke off.
        error: Whether the status was 400 or more.
        client_gone: Whether the client left before the end of the reply.
    """

    id: bytes
    experiment: str
    arm: str
    propensity: float
    override: bool
    unit: bytes
    request_id: str
    completion_id: str | None
    time: float
    model: str
    variant: str
    bundle: str | None
    asked: bytes | None
    latency: float | None
    time_to_first_token: float | None
    prompt_tokens: int | None
    completion_tokens: int | None
    ended_by_itself: bool | None
    truncated: bool
    error: bool
    client_gone: bool

    def __repr__(self) -> str:
        return f"Exposure(experiment={self.experiment!r}, request_id={self.request_id!r})"


@dataclass(frozen=True, slots=True)
class Content:
    """The text of a request and of its reply, recorded only if the operator logs content.

    Attributes:
        exposure: Id of the exposure.
        request_text: Text of the request.
        reply_text: Text of the reply.
    """

    exposure: bytes
    request_text: str = field(repr=False)
    reply_text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Feedback:
    """A user's rating of a reply, or a comment on it. A later value of the same metric replaces the earlier one.

    Attributes:
        subject: Id of the request or of the completion.
        metric: Name of the metric.
        value: The rating. None for a comment.
        comment: The comment. None for a rating.
        time: Unix seconds.
    """

    subject: str
    metric: str
    value: float | None
    comment: str | None = field(repr=False)
    time: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """The shadow judge's comparison of a user's reply with the reply of another arm.

    Attributes:
        exposure: Id of the exposure.
        other: Name of the other arm.
        score: 1 if the judge prefers the user's reply in both orders, 0 if it prefers the other one in both, else 0.5.
        judge: Model of the judge.
        time: Unix seconds.
    """

    exposure: bytes
    other: str
    score: float
    judge: str
    time: float


@dataclass(frozen=True, slots=True)
class UnitOutcomes:
    """One unit in one experiment.

    A unit counts for the arm of its first request, with the requests that this arm served. A change of weights may
    have moved the unit to another arm later. Overrides are left out.

    Attributes:
        unit: Keyed digest of the unit, in hexadecimal.
        arm: Name of the arm.
        propensity: Probability of the arm at the unit's first request.
        first_seen: Time of the unit's first request, Unix seconds.
        metrics: Sums by metric, over the unit's requests in the experiment.
        history: Sums by metric, over the unit's requests before `first_seen`, in any experiment.
    """

    unit: str
    arm: str
    propensity: float
    first_seen: float
    metrics: Mapping[str, SumAndCount]
    history: Mapping[str, SumAndCount]


@dataclass(frozen=True, slots=True)
class Allocation:
    """What was decided about a running experiment. All replicas follow it.

    Attributes:
        experiment: Name of the experiment.
        stopped: Why all units get the control. Empty while the experiment runs.
        weights: Weights by arm, which replace those of the file. None keeps those of the file.
        time: Time of the last change, Unix seconds.
    """

    experiment: str
    stopped: str
    weights: Mapping[str, float] | None
    time: float


class Outcomes(Protocol):
    """Recorded outcomes, as statistics read them. Each method reads one consistent state and raises StoreError."""

    def units(self, experiment: str) -> Iterator[UnitOutcomes]:
        """Yield the units of an experiment in the order of their first request."""
        ...

    def units_by_arm(self, experiment: str) -> Mapping[str, int]:
        """Return the number of units in each arm, for the check of the sample ratio."""
        ...

    def allocations(self) -> Mapping[str, Allocation]:
        """Return the decisions about experiments, by name. An experiment that runs as its file says has none."""
        ...
