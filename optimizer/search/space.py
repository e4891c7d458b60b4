"""The interface by which a search expands candidates and scores them on queries.

This module does not depend on what a candidate is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The score of one candidate on one query.

    Attributes:
        query: The query's number.
        score: The score.
        evidence: What the space needs to make better candidates, such as the scored answer. The search does not use it.
        readable: False if a model's reply could not be parsed. The score has no meaning in this case.
    """

    query: int
    score: float
    evidence: object = None
    readable: bool = True


@dataclass(frozen=True, slots=True)
class Step(Generic[C]):
    """One step of a path: a candidate and its outcomes."""

    candidate: C
    outcomes: tuple[Outcome, ...]


Path = tuple[Step[C], ...]
"""The steps from the first candidate of a search to a later candidate.

The candidate of a step was made from the candidate of the previous step, or both steps have the same candidate.
"""


class Space(Protocol[C]):
    """The candidates of a search, and how to score them."""

    def key(self, candidate: C) -> str:
        """Return the key of a candidate. Equal candidates have equal keys."""

    async def expand(self, path: Path[C], count: int, again: int) -> Sequence[C]:
        """Make new candidates from the last candidate of a path.

        Args:
            path: The steps from the first candidate to the candidate to expand.
            count: Maximum number of new candidates. The result may have fewer candidates, or none.
            again: How often the candidate was expanded before. Each number should give different new candidates.
        """

    async def score(self, candidate: C, query: int) -> Outcome:
        """Score a candidate on the query with the number `query`."""
