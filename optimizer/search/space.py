"""What a search works on: candidates that can be expanded and scored on queries. It depends on no kind of candidate."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one candidate on one query.

    Attributes:
        query: The query's number.
        score: The score.
        evidence: What a rewriter of the candidate needs to know about the result.
        readable: False if the judge's reply could not be parsed; the score means nothing then.
    """

    query: int
    score: float
    evidence: object = None
    readable: bool = True


@dataclass(frozen=True, slots=True)
class Step(Generic[C]):
    """A candidate and its outcomes, on the path from the first candidate to the last."""

    candidate: C
    outcomes: tuple[Outcome, ...]


Path = tuple[Step[C], ...]


class Space(Protocol[C]):
    """The candidates of a search, and how to score them."""

    def key(self, candidate: C) -> str:
        """A key that equal candidates share."""

    async def expand(self, path: Path[C], count: int, again: int) -> Sequence[C]:
        """Make new candidates from the last one of a path.

        Args:
            path: The candidates from the first one to the one to expand.
            count: The most candidates to make; fewer, or none, are allowed.
            again: How often the last candidate was expanded before; the new candidates should differ from the earlier.
        """

    async def score(self, candidate: C, query: int) -> Outcome:
        """Score a candidate on the query with this number."""
