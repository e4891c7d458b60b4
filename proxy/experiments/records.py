"""What is known of experiments once they ran: who was served what, and what came of it. Values only; knows no store.

One exposure is one request of one unit in one experiment. Feedback names a request; a judgement compares two answers to
one. Whoever computes statistics reads them through `Outcomes`, a unit at a time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias

Tally: TypeAlias = tuple[float, int]
"""Sum and count of a metric over the requests of a unit for which it is known."""


class Exposure(NamedTuple):
    """One request in one experiment. arm: what its unit is assigned ("" before the experiment's start); propensity:
    with which probability, at that time; override: the client named a variant itself, and got that.

    unit, asked: digests (see units), of whom, and of the conversation that was asked; time: Unix seconds at its start.
    latency: seconds to the last byte of a whole answer; time_to_first_token: seconds to the first byte of a streamed
    one; ended_by_itself: the model stopped, rather than its length cap; truncated: the answer broke off; error: it came
    to a status of 400 or more; client_gone: nobody waited for its end. None: not known.

    A tuple, because it is made for every request: it takes a third of the time of a frozen dataclass.
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
    """What was asked and answered, where the operator has it logged."""

    exposure: bytes
    asked: str = field(repr=False)
    answered: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Feedback:
    """Someone's word on a request, which is named by its own id or its completion's. Twice the same is once; another
    value for the same metric replaces the first. value: None where it is a comment."""

    subject: str
    metric: str
    value: float | None
    comment: str | None = field(repr=False)
    time: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """A judge's word on the answer that a user got, beside another arm's. score: 1 if it preferred the user's answer in
    both orders, 0 if the other in both, else 0.5."""

    exposure: bytes
    other: str
    score: float
    judge: str
    time: float


@dataclass(frozen=True, slots=True)
class UnitOutcomes:
    """One unit in one experiment. It counts for the arm in which it first was (after a ramp it may have been in two),
    with the requests that this arm served; overrides are left out.

    propensity: of that arm, at its first request; first_seen: Unix seconds; metrics: by name, over its requests in the
    experiment; history: the same over requests from before its first one, in other experiments or before the start.
    """

    unit: str
    arm: str
    propensity: float
    first_seen: float
    metrics: Mapping[str, Tally]
    history: Mapping[str, Tally]


@dataclass(frozen=True, slots=True)
class JudgedUnit:
    """What the judge said of one unit's answers from `arm`, beside those of `other`: the tally of Judgement.score."""

    unit: str
    arm: str
    other: str
    score: Tally


@dataclass(frozen=True, slots=True)
class Allocation:
    """What was decided about a running experiment from its outcomes, for all replicas to follow. stopped: why everyone
    gets its control ("" while it runs); weights: by arm, instead of the file's (None: the file's); time: Unix seconds
    of the last change."""

    experiment: str
    stopped: str
    weights: Mapping[str, float] | None
    time: float


class Outcomes(Protocol):
    """What a store knows, for statistics. Each method reads one consistent state. Raises StoreError."""

    def units(self, experiment: str) -> Iterator[UnitOutcomes]:
        """The units of an experiment, in the order in which they were first seen."""
        ...

    def exposed(self, experiment: str) -> Mapping[str, int]:
        """Units by the arm in which they first were, for the sample-ratio check."""
        ...

    def judged(self, experiment: str) -> Iterator[JudgedUnit]:
        """The judge's word, by unit and pair of arms."""
        ...

    def allocations(self) -> Mapping[str, Allocation]:
        """What was decided about experiments, by their names; none for one that runs as its file says."""
        ...
