"""Defines what all proposers share: the candidate to start from, a proposal, and the interface of a proposer."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from optimizer.core.candidate import Candidate
from optimizer.search.space import Path
from optimizer.stages.proposers.failures import Failure

WRITER, EDITS, EXAMPLES, RETRIEVAL, SAMPLING = "writer", "edits", "examples", "retrieval", "sampling"
PROMPT: Final = "prompt"
BANK: Final = "bank"


@dataclass(frozen=True, slots=True)
class Parent:
    """The candidate from which proposers make new candidates.

    Attributes:
        path: The steps from the first candidate of the search to this one. The last step contains this candidate and
            its outcomes: its answers and their scores.
        failures: The failures in these outcomes, sorted by how much reward each of them costs, the most costly first.
        again: How often the candidate was expanded before.
    """

    path: Path[Candidate]
    failures: Sequence[Failure]
    again: int

    @property
    def candidate(self) -> Candidate:
        """The candidate."""
        return self.path[-1].candidate

    def random(self, seed: str) -> random.Random:
        """Return a source of random numbers that depends on the seed, the candidate and how often it was expanded."""
        return random.Random(f"{seed}:{self.candidate.key}:{self.again}")  # noqa: S311 - no secure numbers needed


@dataclass(frozen=True, slots=True)
class Proposal:
    """A new candidate.

    Attributes:
        candidate: The candidate.
        part: The part that was changed: `prompt`, `bank`, `retrieval` or `sampling`.
        change: What was changed, in words. It contains no text of a row.
    """

    candidate: Candidate
    part: str
    change: str


class Proposer(Protocol):
    """Makes new candidates from a parent."""

    @property
    def name(self) -> str:
        """The name of the proposer in run.toml, in the journal and in the report."""

    async def propose(self, parent: Parent, count: int, /) -> Sequence[Proposal]:
        """Return new candidates, the preferred candidates first.

        Args:
            parent: The candidate to change.
            count: The number of candidates that are wanted. More may be returned, as a reserve for candidates that
                cannot be used.

        Raises:
            ModelError: A model gave no usable answer, but a later call may succeed.
            BudgetSpentError: The budget is spent.
            JournalError: The journal cannot be written.
        """
