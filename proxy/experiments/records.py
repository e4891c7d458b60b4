"""Defines the records of experiments: exposures, contents, feedback, judgements, outcomes of units, and decisions.

The records are plain values and do not depend on the store. Statistics read outcomes and decisions through the protocol
`Outcomes`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, TypeAlias

SumAndCount: TypeAlias = tuple[float, int]
"""The sum of a metric's values over requests of one unit, and the number of the requests that have a value."""


NO_EXPERIMENT: Final = ""
"""The name of the experiment in the record of a request that was in no experiment. No experiment has this name."""


class Exposure(NamedTuple):
    """The record of one request in one experiment, or of a request in no experiment. Unknown measurements are None.

    The class is a named tuple because the proxy creates an exposure for every request. Creating a named tuple takes a
    third of the time of creating a frozen dataclass.

    Attributes:
        id: 16 bytes that identify the exposure.
        experiment: Name of the experiment, or NO_EXPERIMENT.
        arm: Name of the arm that the unit is assigned to. Empty before the experiment's start, and in no experiment.
        propensity: Probability of this arm for a unit at the time of the request. 1 if there is no arm.
        override: Whether the client named a variant. If so, the request was not served as the arm defines.
        unit: Digest of the unit (see `units`).
        request_id: Id of the request, which is also in the reply header x-request-id.
        completion_id: Value of the field `id` in the body of the reply. None if the reply has no such field.
        time: Start of the request, Unix seconds.
        model: Model that the request was served with.
        variant: Variant that the request was served with.
        bundle: Id of the bundle that the request was served with. None if no bundle was used.
        asked: Digest of the conversation (see `units`). None if other people may have equal conversations.
        latency: Seconds from the request to the last byte of its reply. None if the reply is an error or incomplete.
        time_to_first_token: Seconds from the request to the first byte of its reply. None if the reply is an error or
            is not streamed.
        prompt_tokens: Number of prompt tokens.
        completion_tokens: Number of generated tokens.
        ended_by_itself: Whether the model itself ended the reply, and not a length limit or a content filter. None if
            the reply is an error or incomplete, or if this is unknown.
        truncated: Whether the backend's stream broke off before the end of the reply.
        error: Whether the status was 400 or more, or the backend reported an error in a reply with the status 200.
            False if the client disconnected before the end of the reply.
        client_gone: Whether the client disconnected before the end of the reply.
        example_set: Name of the example set that the request got. None without a set.
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
    example_set: str | None = None

    def __repr__(self) -> str:
        return f"Exposure(experiment={self.experiment!r}, request_id={self.request_id!r})"


@dataclass(frozen=True, slots=True)
class Content:
    """The texts of a request and its reply. They are recorded only with `--store-content`.

    Attributes:
        exposure: Id of the request's exposure.
        request_text: Text of the request.
        reply_text: Text of the reply.
    """

    exposure: bytes
    request_text: str = field(repr=False)
    reply_text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Feedback:
    """A user's rating of a reply, or a comment on a reply.

    The store keeps one feedback for each pair of subject and metric: the one with the latest time.

    Attributes:
        subject: Request id or completion id of the reply.
        metric: Name of the metric.
        value: The rating. None for a comment.
        comment: The comment. None for a rating.
        time: Time of the feedback, Unix seconds.
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
        exposure: Id of the exposure of the user's request.
        other: Name of the other arm.
        score: 1 if the judge prefers the user's reply in both orders of the two replies, 0 if it prefers the other
            arm's reply in both orders, 0.5 if its preference depends on the order.
        judge: Name of the judge's model.
        time: Time of the judgement, Unix seconds.
        other_reply: Text of the other arm's reply. None without `--store-content`.
    """

    exposure: bytes
    other: str
    score: float
    judge: str
    time: float
    other_reply: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class UnitOutcomes:
    """The outcomes of one unit in one experiment.

    The unit belongs to the arm of its first request in the experiment. Overrides and requests before the experiment's
    start do not count as the first request. If a change of weights moves the unit to another arm later, `metrics`
    leaves out the requests that the other arm served. It also leaves out overrides.

    Attributes:
        unit: Digest of the unit, keyed with the store's key, in hexadecimal.
        arm: Name of the arm that the unit belongs to.
        propensity: Probability of this arm at the unit's first request.
        first_seen: Time of the unit's first request in the experiment, Unix seconds.
        metrics: Sums by metric, over the unit's requests in the experiment that this arm served.
        history: Sums by metric, over all requests of the unit before `first_seen`, in any experiment.
    """

    unit: str
    arm: str
    propensity: float
    first_seen: float
    metrics: Mapping[str, SumAndCount]
    history: Mapping[str, SumAndCount]


@dataclass(frozen=True, slots=True)
class Allocation:
    """The decision about a running experiment: that it is stopped, new weights of its arms, or both.

    All replicas apply the decision.

    Attributes:
        experiment: Name of the experiment.
        stopped: The reason why the experiment is stopped. All units of a stopped experiment get the control. Empty if
            the experiment is not stopped.
        weights: Weights by arm, which replace the weights of the file. If None, the weights of the file apply.
        time: Time of the decision, Unix seconds.
    """

    experiment: str
    stopped: str
    weights: Mapping[str, float] | None
    time: float


REQUEST_FIELDS: Final = "time or propensity"
"""The key of requests in `Outcomes.left_out`. No metric can have this name, since it has spaces."""


class Outcomes(Protocol):
    """The interface through which statistics read recorded outcomes and decisions.

    Each method reads one consistent state of the store. Each method raises StoreError if it cannot read the store.
    """

    def units(self, experiment: str) -> Iterator[UnitOutcomes]:
        """Yield the outcomes of the units of an experiment, in the order of the units' first requests."""
        ...

    def units_by_arm(self, experiment: str) -> Mapping[str, int]:
        """Return the number of units in each arm of an experiment."""
        ...

    def left_out(self, experiment: str) -> Mapping[str, int]:
        """Return the number of stored values of an experiment that are left out, by the name of their metric.

        A value is left out if no value of its metric can be so large or so small, or if it is not a number. The key
        REQUEST_FIELDS has the number of requests whose time or propensity cannot be right.
        """
        ...

    def allocations(self) -> Mapping[str, Allocation]:
        """Return the decisions about experiments, by the experiment's name.

        An experiment without a decision runs as its file says, and is not in the result.
        """
        ...
