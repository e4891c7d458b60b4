"""Makes banks whose shown examples have the form that people prefer. The proposer `examples` offers them first.

A base model imitates the form of the examples before a query. A bank therefore changes the form of answers only if
nearly all examples in a request have the new form. It is not enough that some examples of the bank have it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from index.bundle.sets_file import OTHER
from index.layouts import LAYOUTS
from index.measures.refusals import refuses
from index.rendering import render_example, render_preamble
from index.token_estimate import estimated_tokens
from index.types import Example, ExampleSet, Vectors
from optimizer.core.candidate import Bank, Candidate
from optimizer.data.taste import Taste
from optimizer.stages.bank_edits import with_added, with_pinned
from optimizer.stages.proposers.base import BANK, Proposal
from optimizer.stages.proposers.example_pool import ExamplePool

_MAX_WORDS: Final = 150
_MAX_PINNED_WORDS: Final = 60
_PINNED: Final = 2
_CHOSEN_FROM: Final = 4
"""The n examples of a set are the nearest to the set among the `_CHOSEN_FROM * n` most preferred examples."""
_REFUSAL_SHARE: Final = 0.25
"""The share of refusals in a bank of preferred examples. With more refusals, a harmless request often shows a
refusal."""
_MIN_REFUSALS: Final = 8
_MIN_SHARE: Final = 0.5
"""An example is preferred if the chance that users like it is at least this share of the best example's chance."""
_MIN_EXAMPLES: Final = 8
"""If there are fewer preferred examples, the next best examples are taken, too."""
_WAYS: Final = (("sets", 6, 0), ("bank", 48, 2), ("sets", 3, 0), ("bank", 16, 2), ("bank", 128, 4))
"""What is made (sets or a bank), the number of examples of each set or of the bank, and the `k` of a bank."""


@dataclass(frozen=True)
class _Preferred:
    """The preferred examples of bank and pool, the most preferred first. Refusals are not among them.

    Attributes:
        examples: The examples.
        vectors: The vectors of their queries: (examples, dimension).
    """

    examples: Sequence[Example]
    vectors: Vectors = field(repr=False)

    def first(self, count: int) -> "_Preferred":
        """Return the most preferred examples."""
        return _Preferred(self.examples[:count], self.vectors[:count])


def preferred_proposals(candidate: Candidate, pool: ExamplePool, taste: Taste) -> Iterator[Proposal]:
    """Yield candidates whose requests show preferred examples, those with the strongest effect first.

    Args:
        candidate: The candidate to change.
        pool: The examples that may be added to its bank.
        taste: The form of answers that people prefer.
    """
    preferred = _rank(candidate.bank, pool, taste)
    if not preferred.examples:
        return
    for pins in (_with_preferred_pinned, _unchanged):
        for way, size, nearest in _WAYS:
            if way == "bank":
                yield _with_bank(candidate, preferred, size, nearest, pins)
            elif candidate.bank.sets:
                yield _with_sets(candidate, preferred, size, pins)


def _rank(bank: Bank, pool: ExamplePool, taste: Taste) -> _Preferred:
    known = {one.query for one in bank.examples}
    new = [number for number, one in enumerate(pool.examples) if one.query not in known]
    examples = [*bank.examples, *(pool.examples[number] for number in new)]
    vectors = np.concatenate([bank.vectors, pool.vectors[new]]) if len(bank.examples) else pool.vectors[new]
    usable = [number for number, one in enumerate(examples) if _is_usable(one)]
    chances = [taste.chance(examples[number].response) for number in usable]
    places = np.argsort([-chance for chance in chances], kind="stable")
    enough = sum(chance >= _MIN_SHARE * max(chances) for chance in chances) if chances else 0
    order = [usable[place] for place in places[: max(_MIN_EXAMPLES, enough)]]
    return _Preferred([examples[number] for number in order], vectors[order])


def _is_usable(example: Example) -> bool:
    return not refuses(example.response) and len(example.response.split()) <= _MAX_WORDS


_Pins = Callable[[Bank, _Preferred], Bank]
"""Returns a bank with other pinned examples. The bank already has all preferred examples that may be pinned."""


def _unchanged(bank: Bank, _: _Preferred) -> Bank:
    return bank


def _with_preferred_pinned(bank: Bank, preferred: _Preferred) -> Bank:
    """Pin the most preferred short examples. Of the pinned refusals, only the shortest one stays pinned."""
    short = [one.query for one in preferred.examples if len(one.response.split()) <= _MAX_PINNED_WORDS][:_PINNED]
    refusals = sorted((one for one in bank.examples if one.pinned and refuses(one.response)), key=_length)
    ids = {one.id for one in bank.examples if one.query in short}
    return with_pinned(bank, {*ids, *(one.id for one in refusals[:1])})


def _length(example: Example) -> int:
    return len(example.response)


def _with_bank(candidate: Candidate, preferred: _Preferred, size: int, nearest: int, pins: _Pins) -> Proposal:
    """Return the candidate with a bank of preferred examples and some refusals, of which requests get the nearest."""
    best, old = preferred.first(size), candidate.bank
    refusals = [number for number, one in enumerate(old.examples) if refuses(one.response)]
    count = max(_MIN_REFUSALS, int(len(best.examples) * _REFUSAL_SHARE))
    kept = [one for one in refusals if old.examples[one].pinned or one in _spread(refusals, count)]
    bank = Bank(tuple(old.examples[one] for one in kept), np.ascontiguousarray(old.vectors[kept]), old.embedder)
    bank = pins(with_added(bank, best.examples, best.vectors), best)
    retrieval = replace(candidate.retrieval, policy="nearest", k=nearest, neutral_set=None, similarity_floor=None)
    found = replace(candidate, bank=bank, retrieval=retrieval)
    what = f"a bank of {len(best.examples)} examples in the form that people prefer, k = {nearest}"
    return Proposal(_with_room(found, best.examples[:nearest]), BANK, what)


def _spread(positions: Sequence[int], count: int) -> set[int]:
    """Return at most `count` positions, evenly spread."""
    step = max(1.0, len(positions) / count)
    return {positions[int(place * step)] for place in range(min(count, len(positions)))}


def _with_sets(candidate: Candidate, preferred: _Preferred, count: int, pins: _Pins) -> Proposal:
    """Return the candidate whose example sets, except the sets for refusals, show preferred examples.

    The members of the sets vote as before, so a query that must be refused still gets the refusals.
    """
    best, old = preferred.first(count * _CHOSEN_FROM), candidate.bank
    known = {one.query for one in old.examples}
    new = [number for number, one in enumerate(best.examples) if one.query not in known]
    bank = pins(with_added(old, [best.examples[one] for one in new], best.vectors[new]), best)
    ids = {one.query: one.id for one in bank.examples}
    free = [number for number, one in enumerate(bank.examples) if not one.pinned]
    unpinned = {bank.examples[number].id for number in free}
    names = [ids[one.query] for one in best.examples]
    sets = tuple(
        replace(one, shown=_nearest(one, bank, names, best.vectors, unpinned, count)) if one.kind == OTHER else one
        for one in bank.sets
    )
    found = replace(candidate, bank=replace(bank, sets=sets), retrieval=replace(candidate.retrieval, policy="set"))
    what = f"sets that show {count} examples in the form that people prefer"
    return Proposal(_with_room(found, best.examples[:count]), BANK, what)


def _nearest(
    one: ExampleSet, bank: Bank, names: Sequence[str], vectors: Vectors, unpinned: set[str], count: int
) -> tuple[str, ...]:
    """Return the ids of the preferred examples that are nearest to a set, the most preferred last.

    Args:
        one: The set.
        bank: The bank of the set.
        names: The ids of the preferred examples, the most preferred first.
        vectors: Their vectors.
        unpinned: The ids that a set may show.
        count: How many ids are returned at most.
    """
    own = {*one.members, *one.shown}
    inside = [number for number, example in enumerate(bank.examples) if example.id in own]
    middle = bank.vectors[inside].mean(axis=0)
    usable = [place for place, name in enumerate(names) if name in unpinned]
    chosen = sorted(usable, key=lambda place: -float(vectors[place] @ middle))[:count]
    return tuple(names[place] for place in sorted(chosen, reverse=True)) or one.shown


def _with_room(candidate: Candidate, shown: Sequence[Example]) -> Candidate:
    """Return the candidate with a token limit that is enough for its pinned examples and the examples that it shows."""
    layout = LAYOUTS[candidate.layout]
    fixed = render_preamble(layout, candidate.prompt, tuple(one for one in candidate.bank.examples if one.pinned))
    longest = max((estimated_tokens(render_example(layout, one)) for one in shown), default=0)
    needed = estimated_tokens(fixed) + longest * len(shown)
    limit = max(candidate.retrieval.max_injected_tokens, needed)
    return replace(candidate, retrieval=replace(candidate.retrieval, max_injected_tokens=limit))
