"""The search space of the prompt stage: how proposers expand a candidate, and how a candidate is scored on a row."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from optimizer.core.candidate import Candidate
from optimizer.core.concurrency import gather_or_cancel
from optimizer.search.allocation import Allocation
from optimizer.search.levels import Level, mean_lead
from optimizer.search.space import Outcome, Path, Step
from optimizer.stages.candidate_gate import PromptGate
from optimizer.stages.proposers.base import Parent, Proposal, Proposer
from optimizer.stages.proposers.failures import group_failures
from optimizer.stages.proposers.novelty import KnownCandidates
from optimizer.stages.scored_rows import ScoredRows


@dataclass(frozen=True, slots=True)
class ScoreScale:
    """The range of the scores that a search works with."""

    low: float = 0.0
    high: float = 1.0

    def convert(self, score: float) -> float:
        """Map a score from 0 to 1 to this range."""
        return self.low + score * (self.high - self.low)


@dataclass(frozen=True, slots=True)
class _Made:
    """Who made a candidate, and from which parent."""

    proposer: str
    parent: str


@dataclass
class CandidateSpace:
    """A search space whose candidates come from proposers. A query is the index of a row.

    Attributes:
        rows: The rows, and how they are scored.
        gate: Drops candidates that cannot be used.
        proposers: The proposers.
        allocation: Divides the slots among the proposers.
        scale: The range of the scores.
        known: The candidates so far. A new candidate is dropped if it has the same content words (all words except
            function words such as "the") as one of them, and is otherwise equal to it. None if all candidates are used.
        indifference: A lead over the parent that is not above this value is no win.
        first_rows: The number of rows that the first candidate answers before it is expanded, so that the first
            proposals can follow its failures.
    """

    rows: ScoredRows
    gate: PromptGate
    proposers: Sequence[Proposer]
    allocation: Allocation
    scale: ScoreScale = field(default_factory=ScoreScale)
    known: KnownCandidates | None = None
    indifference: float = 0.0
    first_rows: int = 0

    def __post_init__(self) -> None:
        self._made: dict[str, _Made] = {}

    def key(self, candidate: Candidate) -> str:
        """Return the key of the candidate."""
        return candidate.key

    async def expand(self, path: Path[Candidate], count: int, again: int) -> Sequence[Candidate]:
        """Make candidates from the last candidate of the path, and journal them.

        A proposal is dropped if the gate does not admit it, or if it changes no content word. Another proposal then
        takes its slot, if there is one. For each slot that a proposer was asked to fill and did not fill, the
        allocation counts one loss of this proposer.
        """
        parent = await self._parent(path, again)
        sources = _Sources(self.proposers, parent)
        open_slots = self.allocation.preferences(count, f"{parent.candidate.key}/{again}")
        await sources.ask(open_slots)
        filled: list[tuple[str, Proposal]] = []
        while open_slots:
            found = [(ranked, await self._next_new(sources, ranked)) for ranked in open_slots]
            offers = [(ranked, offer) for ranked, offer in found if offer is not None]
            admitted = await self._admit(parent.candidate, [offer for _, offer in offers])
            filled += [offer for (_, offer), is_admitted in zip(offers, admitted, strict=True) if is_admitted]
            open_slots = [ranked for (ranked, _), is_admitted in zip(offers, admitted, strict=True) if not is_admitted]
        for name, unfilled in (sources.asked - Counter(name for name, _ in filled)).items():
            self.allocation.note_unfilled(name, unfilled)
        return [proposal.candidate for _, proposal in filled]

    async def score(self, candidate: Candidate, query: int) -> Outcome:
        """Answer one row under the candidate, score the answer and journal the score.

        If the row cannot be used, the outcome is not readable, and no score is journaled. If the row can be used, but
        the judge's verdict cannot be read and counts as 0, the score 0 is journaled. This outcome is not readable
        either.
        """
        row = self.rows.rows[query % len(self.rows.rows)]
        scored = await self.rows.score(candidate.key, candidate, row)
        if scored is None:
            return Outcome(query, 0.0, readable=False)
        if not scored.is_readable:
            return Outcome(query, 0.0, evidence=(row, scored), readable=False)
        return Outcome(query, self.scale.convert(scored.score), evidence=(row, scored))

    async def score_first(self, candidate: Candidate) -> tuple[Outcome, ...]:
        """Score a candidate on the first rows."""
        numbers = range(min(self.first_rows, len(self.rows.rows)))
        return tuple(await gather_or_cancel(self.score(candidate, number) for number in numbers))

    def note_level(self, level: Level[Candidate]) -> Sequence[str]:
        """Count for each new candidate of a finished level whether it beat its parent.

        Returns:
            The keys of the candidates that did: their mean lead over the parent is above `indifference`.
        """
        steps, won = {step.candidate.key: step for step in level.ranked}, []
        for key in [key for key in steps if key in self._made]:
            made = self._made.pop(key)
            is_won = made.parent in steps and mean_lead(steps[key], steps[made.parent]) > self.indifference
            self.allocation.note(made.proposer, is_won=is_won)
            won += [key] if is_won else []
        return won

    async def _parent(self, path: Path[Candidate], again: int) -> Parent:
        last = path[-1]
        if not last.outcomes and self.first_rows:
            last = Step(last.candidate, await self.score_first(last.candidate))
        if self.known is not None:
            self.known.add(last.candidate)
        return Parent((*path[:-1], last), group_failures(last.outcomes), again)

    async def _next_new(self, sources: "_Sources", ranked: Sequence[str]) -> tuple[str, Proposal] | None:
        """Return the next proposal for a slot, and the name of its proposer. Return None if none is left.

        Proposals that change no content word are dropped.
        """
        parent = sources.parent.candidate
        for name in ranked:
            while (proposal := await sources.take(name)) is not None:
                why = self.known.fault(proposal.candidate, parent) if self.known is not None else ""
                if not why:
                    return name, proposal
                await self.gate.drop(proposal.part, proposal.candidate.key, f"{name}: {why}")
        return None

    async def _admit(self, parent: Candidate, offers: Sequence[tuple[str, Proposal]]) -> Sequence[bool]:
        """Return for each proposal whether the gate admits it, and journal the candidates of those that it admits."""
        checks = (self.gate.admits(one.candidate, parent, one.part) for _, one in offers)
        admitted = await gather_or_cancel(checks)
        for name, one in (offer for offer, is_admitted in zip(offers, admitted, strict=True) if is_admitted):
            key = one.candidate.key
            self._made.setdefault(key, _Made(name, parent.key))
            await self.rows.journal.note(
                "candidate",
                id=key,
                parent=parent.key,
                prompt=one.candidate.prompt,
                proposer=name,
                part=one.part,
                change=one.change,
            )
        return admitted


class _Sources:
    """The proposals for one parent that no slot has taken yet, by proposer.

    Attributes:
        parent: The parent.
        asked: The number of slots that each proposer was asked to fill.
    """

    def __init__(self, proposers: Sequence[Proposer], parent: Parent) -> None:
        self.parent = parent
        self.asked: Counter[str] = Counter()
        self._proposers = {one.name: one for one in proposers}
        self._left: dict[str, list[Proposal]] = {}

    async def ask(self, preferences: Sequence[Sequence[str]]) -> None:
        """Ask each proposer for as many proposals as it has slots."""
        self.asked = counts = Counter(ranked[0] for ranked in preferences)
        found = await gather_or_cancel(self._proposers[name].propose(self.parent, counts[name]) for name in counts)
        self._left = {name: list(proposals) for name, proposals in zip(counts, found, strict=True)}

    async def take(self, name: str) -> Proposal | None:
        """Take the next proposal of a proposer; None if none is left.

        A proposer that has no slot of its own is asked for one proposal.
        """
        if name not in self._left:
            self.asked[name] = 1
            self._left[name] = list(await self._proposers[name].propose(self.parent, 1))
        return self._left[name].pop(0) if self._left[name] else None
