"""The proposer `examples`. It edits the bank of a candidate (the parent), and chooses the edits by its failures.

add       adds the examples of the pool that are nearest to the rows that failed
fill      adds many examples of the pool at once, the nearest to all answered rows first
drop      removes the examples that were shown mostly where the answer failed
pin       pins another example, so that every prompt shows it
unpin     pins one example less
shorten   cuts long answers after a sentence
lengthen  removes the examples with short answers, except refusals
refusals  rewords all refusals
own       adds new questions of the writer model with the task model's own answers (own_answers.py)

If it is known which form of answers people prefer, banks that show examples of this form come first (preferred.py).

Only the edit `own` calls models. An answer of the pool is text that was written as an example. The reference of a row
never becomes the answer of an example.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from index.counted import counted
from index.embedders.base import Embedder
from index.measures.refusals import refuses
from index.types import Example, PolicyName, Vectors
from optimizer.core.candidate import Bank, Candidate
from optimizer.core.config_tables import FIRST_SENTENCE, PLAIN
from optimizer.data.taste import Taste
from optimizer.search.space import Outcome
from optimizer.stages.bank_edits import (
    with_added,
    with_longer_answers,
    with_pinned,
    with_refusals,
    with_shorter_answers,
    without,
)
from optimizer.stages.proposers.base import BANK, EXAMPLES, Parent, Proposal
from optimizer.stages.proposers.example_pool import ExamplePool, embed_readable
from optimizer.stages.proposers.failures import NO_REFUSAL, UNENDED, UNLIKE, WRONG_REFUSAL, Failure, evidence
from optimizer.stages.proposers.own_answers import UNEMBEDDABLE, OwnAnswers
from optimizer.stages.proposers.preferred import preferred_proposals

_ADDED: Final = (4, 8, 16, 32)
_FILLED: Final = (16, 48, 128)
_MAX_DROPPED: Final = 3
_MAX_PINNED: Final = 3
_MIN_SHOWN: Final = 2
"""An example is judged by the answers to the requests that contained it, if there are at least this many answers."""
_CUT_WORDS: Final = (30, 45, 60)
_LEAST_WORDS: Final = (15, 30)
_MAX_PINNED_WORDS: Final = 60
_SHOWN_NEAREST: Final = 3
_TRIES_PER_PROPOSAL: Final = 6
OWN_SHARE: Final = 0.5
"""The share of the parents for which new questions are written, if there is a writer model."""
OWN_QUESTIONS: Final = 6


@dataclass(frozen=True, slots=True)
class _Move:
    """What an edit of the bank depends on.

    Attributes:
        parent: The candidate whose bank is edited.
        failure: The failure to act on; None if nothing failed.
        rng: The source of random numbers.
    """

    parent: Parent
    failure: Failure | None
    rng: random.Random

    @property
    def bank(self) -> Bank:
        return self.parent.candidate.bank

    @property
    def criterion(self) -> str:
        return self.failure.criterion if self.failure else ""


_Edited = tuple[Bank, str] | None
"""An edited bank and the change in words; None if there is nothing to change."""


class ExampleProposer:
    """Edits the bank of a candidate."""

    name: Final = EXAMPLES

    def __init__(
        self,
        pool: ExamplePool,
        embedder: Embedder,
        seed: int,
        own: OwnAnswers | None = None,
        taste: Taste | None = None,
    ) -> None:
        """Create the proposer.

        Args:
            pool: The examples that may be added.
            embedder: The embedder of the bank.
            seed: The seed of the random choices.
            own: Makes examples from texts of the models. None if there is no writer model.
            taste: The form of answers that people prefer. None if it is not known.
        """
        self._own = own
        self._taste = taste
        self._pool = pool
        self._embedder = embedder
        self._seed = seed

    @property
    def pool_size(self) -> int:
        """The number of examples in the pool."""
        return len(self._pool.examples)

    def new_count(self, bank: Bank) -> int:
        """Return the number of examples of the pool whose queries a bank lacks. The others are not added to it."""
        known = _queries(bank)
        return sum(one.query not in known for one in self._pool.examples)

    async def propose(self, parent: Parent, count: int) -> Sequence[Proposal]:
        """Return candidates with edited banks. There are more than `count`, as a reserve."""
        rng = parent.random(f"{self._seed}:{self.name}")
        own = await self._add_own(parent, rng)
        found = {one.candidate.key: one for one in (*self._preferred(parent), *([own] if own else []))}
        for _ in range(count * _TRIES_PER_PROPOSAL):
            move = _Move(parent, draw_failure(parent.failures, rng), rng)
            edited = await self._draw_edit(move)(move)
            if edited is not None:
                candidate = _shown(parent.candidate.with_bank(edited[0]))
                found.setdefault(candidate.key, Proposal(candidate, BANK, edited[1]))
        return list(found.values())

    def _preferred(self, parent: Parent) -> Sequence[Proposal]:
        """Return candidates that show preferred examples, if the parent is expanded for the first time."""
        if self._taste is None or parent.again:
            return ()
        return list(preferred_proposals(parent.candidate, self._pool, self._taste))

    async def _add_own(self, parent: Parent, rng: random.Random) -> Proposal | None:
        """For a share of the parents, return a candidate with new examples from texts of the models; else None."""
        failure = draw_failure(parent.failures, rng)
        if self._own is None or failure is None or rng.random() > OWN_SHARE:
            return None
        examples = await self._own.examples(parent.candidate, failure, OWN_QUESTIONS, parent.again)
        readable, vectors = await self._embed([one.query for one in examples])
        await self._own.gate.drop("example", parent.candidate.key, UNEMBEDDABLE, len(examples) - len(readable))
        if not readable:
            return None
        examples = [examples[one] for one in readable]
        candidate = _shown(parent.candidate.with_bank(with_added(parent.candidate.bank, examples, vectors)))
        what = f"adds {len(examples)} new {failure.rows} with the model's own answers ({failure.criterion})"
        return Proposal(candidate, BANK, what)

    def _draw_edit(self, move: _Move) -> Callable[[_Move], Awaitable[_Edited]]:
        """Draw an edit. Its weight depends on what failed. Nothing is added if the bank has the whole pool."""
        if not move.bank.examples:
            return move.rng.choice((self._add, self._fill))
        has_new = self.new_count(move.bank) > 0
        is_about_refusals = move.criterion in (NO_REFUSAL, WRONG_REFUSAL)
        weights = {
            self._add: 4.0 if has_new else 0.0,
            self._fill: 1.0 if has_new else 0.0,
            _drop: 2.0,
            _pin: 2.0,
            _unpin: 1.0,
            _shorten: 4.0 if move.criterion == UNENDED else 1.0,
            _lengthen: 2.0 if move.criterion == UNLIKE else 0.5,
            _reword: 1.0 if is_about_refusals else 0.25,
        }
        return move.rng.choices(list(weights), list(weights.values()))[0]

    async def _add(self, move: _Move) -> _Edited:
        if move.failure is None:
            return None
        refusals = {NO_REFUSAL: True, WRONG_REFUSAL: False}.get(move.criterion)
        count = move.rng.choice(_ADDED)
        vectors = await self._vectors(move.failure.outcomes)
        positions = self._pool.nearest(vectors, count, _queries(move.bank), refusals=refusals)
        what = f"adds {counted(len(positions), 'example')} near the {move.failure.rows} that failed ({move.criterion})"
        return self._with_pool(move, positions, what)

    async def _fill(self, move: _Move) -> _Edited:
        outcomes = [outcome for outcome in move.parent.path[-1].outcomes if outcome.evidence is not None]
        if not outcomes:
            return None
        count = move.rng.choice((*_FILLED, len(self._pool.examples)))
        positions = self._pool.nearest(await self._vectors(outcomes), count, _queries(move.bank))
        return self._with_pool(move, positions, f"adds {counted(len(positions), 'example')} near the answered queries")

    def _with_pool(self, move: _Move, positions: Sequence[int], what: str) -> _Edited:
        if not positions:
            return None
        chosen = [self._pool.examples[one] for one in positions]
        return with_added(move.bank, chosen, self._pool.vectors[list(positions)]), what

    async def _vectors(self, outcomes: Sequence[Outcome]) -> Vectors:
        """Return the vectors of the queries of outcomes. Queries that the embedder cannot read are left out."""
        _, vectors = await self._embed([evidence(outcome)[0].query for outcome in outcomes])
        return vectors

    async def _embed(self, texts: Sequence[str]) -> tuple[Sequence[int], Vectors]:
        return await asyncio.to_thread(embed_readable, texts, self._embedder)


def draw_failure(failures: Sequence[Failure], rng: random.Random) -> Failure | None:
    """Draw a failure with a probability in proportion to its loss. Return None if nothing failed."""
    losses = [failure.loss for failure in failures]
    return rng.choices(failures, losses)[0] if sum(losses) > 0 else None


def failed_shares(outcomes: Sequence[Outcome]) -> Mapping[str, float]:
    """Map the id of each example to how much worse than usual the answers were when a request contained the example.

    The value is the mean score of the answers to the same kind of rows, minus the mean score of the answers to requests
    that contained the example. Examples that were shown only once are left out.
    """
    by_kind: dict[str, list[float]] = defaultdict(list)
    readable = [outcome for outcome in outcomes if outcome.readable and outcome.evidence is not None]
    for outcome in readable:
        by_kind[evidence(outcome)[0].kind].append(outcome.score)
    means = {kind: sum(scores) / len(scores) for kind, scores in by_kind.items()}
    lacking: dict[str, list[float]] = defaultdict(list)
    for outcome in readable:
        row, scored = evidence(outcome)
        for name in scored.reply.examples:
            lacking[name].append(means[row.kind] - outcome.score)
    return {name: sum(ones) / len(ones) for name, ones in lacking.items() if len(ones) >= _MIN_SHOWN}


async def _drop(move: _Move) -> _Edited:
    shares = failed_shares(move.parent.path[-1].outcomes)
    worst = sorted((name for name, share in shares.items() if share > 0), key=lambda name: -shares[name])
    count = min(len(worst), move.rng.randint(1, _MAX_DROPPED), len(move.bank.examples) - 1)
    dropped = worst[:count]
    what = f"drops {counted(len(dropped), 'example')} shown where answers failed"
    return (without(move.bank, dropped), what) if count else None


async def _pin(move: _Move) -> _Edited:
    """Pin a short example. If refusals are the problem, its answer refuses or helps as the failed answers should."""
    pinned = [one.id for one in move.bank.examples if one.pinned]
    wanted = {NO_REFUSAL: True, WRONG_REFUSAL: False}.get(move.criterion)
    others = [one for one in move.bank.examples if not one.pinned and _can_be_pinned(one, wanted)]
    if not others:
        return None
    chosen = move.rng.choice(others)
    kept = move.rng.sample(pinned, min(len(pinned), _MAX_PINNED - 1))
    kind = "a refusal" if refuses(chosen.response) else "an answer that helps"
    return with_pinned(move.bank, {*kept, chosen.id}), f"pins {kind} ({len(kept) + 1} pinned)"


async def _unpin(move: _Move) -> _Edited:
    pinned = [one.id for one in move.bank.examples if one.pinned]
    if not pinned:
        return None
    kept = {*pinned} - {move.rng.choice(pinned)}
    return with_pinned(move.bank, kept), f"pins one example less ({len(kept)} pinned)"


async def _shorten(move: _Move) -> _Edited:
    words = move.rng.choice(_CUT_WORDS)
    return with_shorter_answers(move.bank, words), f"cuts the answers of examples after at most {words} words"


async def _lengthen(move: _Move) -> _Edited:
    words = move.rng.choice(_LEAST_WORDS)
    bank = with_longer_answers(move.bank, words)
    return (bank, f"removes examples with answers below {words} words") if bank.examples else None


async def _reword(move: _Move) -> _Edited:
    wording = move.rng.choice((FIRST_SENTENCE, PLAIN))
    return with_refusals(move.bank, wording), f"rewords the refusals ({wording.replace('_', ' ')})"


def _can_be_pinned(example: Example, wanted: bool | None) -> bool:
    is_short = len(example.response.split()) <= _MAX_PINNED_WORDS
    return is_short and (wanted is None or refuses(example.response) == wanted)


def _queries(bank: Bank) -> Collection[str]:
    return {example.query for example in bank.examples}


def _shown(candidate: Candidate) -> Candidate:
    """Return the candidate with a policy that shows nearest examples, so that an edit of the bank has an effect."""
    retrieval = candidate.retrieval
    if retrieval.shows_nearest:
        return candidate
    policy: PolicyName = "nearest" if retrieval.policy == "nearest" else "set_and_nearest"
    return replace(candidate, retrieval=replace(retrieval, policy=policy, k=retrieval.k or _SHOWN_NEAREST))
