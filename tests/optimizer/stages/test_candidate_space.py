"""Slots whose proposals are refused go to other proposals, and proposers that fill no slots get fewer of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from optimizer.core.candidate import Candidate
from optimizer.search.allocation import Allocation
from optimizer.search.space import Step
from optimizer.stages.candidate_space import CandidateSpace
from optimizer.stages.proposers.base import PROMPT, Parent, Proposal
from tests.optimizer.stages.proposers.candidates import make_candidate


@dataclass
class Numbered:
    """Proposes prompts, each `name` with a number: as many as requested, or `reserve` if that is more."""

    name: str
    reserve: int = 0
    asked: list[int] = field(default_factory=list)

    async def propose(self, parent: Parent, count: int) -> Sequence[Proposal]:
        self.asked.append(count)
        prompts = [f"{self.name}{number}" for number in range(max(count, self.reserve))]
        return [Proposal(parent.candidate.with_prompt(one), PROMPT, one) for one in prompts]


class FixedAllocation(Allocation):
    """The first slot prefers proposer A, the second B, and the third C."""

    def preferences(self, slots: int, occasion: str) -> list[list[str]]:
        return [[first, *(name for name in self.names if name != first)] for first in "ABC"[:slots]]


class Refusing:
    """A gate, rows and a journal that admit all prompts but those in `refused`."""

    def __init__(self, *refused: str) -> None:
        self.refused, self.journal = refused, self

    async def admits(self, child: Candidate, _parent: Candidate, _part: str) -> bool:
        return child.prompt not in self.refused

    async def note(self, _name: str, **_values: object) -> None:
        """Journal nothing."""


def make_space(gate: Refusing, allocation: Allocation, *proposers: Numbered) -> CandidateSpace:
    return CandidateSpace(cast("Any", gate), cast("Any", gate), proposers, allocation)


async def expand(space: CandidateSpace, again: int = 0) -> list[str]:
    found = await space.expand((Step(make_candidate(), ()),), 3, again)
    return [candidate.prompt for candidate in found]


async def test_only_the_slot_whose_proposal_was_refused_is_filled_again() -> None:
    names = ("A", "B", "C")
    space = make_space(Refusing("A0"), FixedAllocation(names, "0"), *(Numbered(name, 2) for name in names))
    assert await expand(space) == ["B0", "C0", "A1"]
    space = make_space(Refusing("A0", "A1"), FixedAllocation(names, "0"), *(Numbered(name, 2) for name in names))
    assert await expand(space) == ["B0", "C0", "B1"]


async def test_proposer_whose_proposals_are_all_refused_is_asked_less_and_less() -> None:
    refused, other = Numbered("A"), Numbered("B", 3)
    space = make_space(Refusing("A0", "A1", "A2"), Allocation(("A", "B"), "0"), refused, other)
    assert [len(await expand(space, again)) for again in range(40)] == 40 * [3]
    assert len(refused.asked) < 15
    assert space.allocation.results == {"A": (0, 0), "B": (0, 0)}, "none has raced"
    assert space.allocation.unfilled["B"] == 0
