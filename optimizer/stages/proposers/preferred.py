"""Makes banks whose shown examples have the form that people prefer. The proposer `examples` offers them first.

A base model imitates the form of the examples before a query. A bank therefore changes the form of answers only if
nearly all examples in a request have the new form. It is not enough that some examples of the bank have it. Several
pinned examples change it most, because every request contains all of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from index.bundle.sets_file import OTHER
from index.counted import counted
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
from optimizer.stages.proposers.liked_beginning import Beginning, liked_beginning
from optimizer.stages.proposers.stated_form import with_stated_form

_MIN_WORDS: Final = 5
"""An example with fewer words teaches a small model to say next to nothing."""
_MAX_PINNED_WORDS: Final = 60
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
_MOST_PREFERRED: Final = 0.9
"""The shortest examples are chosen among those whose chance is at least this share of the best example's chance."""
_MIN_NEAREST: Final = 8
"""If a bank has fewer preferred examples that are not pinned, the nearest one would often be a refusal. So a request
then shows the pinned examples only."""
_MAX_TOKENS: Final = "max_tokens"


@dataclass(frozen=True, slots=True)
class _Way:
    """A way to show preferred examples.

    Attributes:
        size: Number of preferred examples of the bank, or of each set.
        pinned: Number of preferred examples that are pinned; 0 if the pinned examples stay as they are.
        nearest: Number of nearest examples.
        sets: Whether the bank keeps its sets, and the sets show the examples.
        is_said: Whether the prompt states the form, too.
        is_short: Whether the shortest of the most preferred examples are taken.
    """

    size: int
    pinned: int
    nearest: int
    sets: bool = False
    is_said: bool = False
    is_short: bool = False


_WAYS: Final = (
    _Way(6, 2, 0, sets=True),
    _Way(48, 8, 1),
    _Way(48, 8, 1, is_short=True),
    _Way(48, 8, 1, is_said=True),
    _Way(48, 2, 6),
    _Way(3, 2, 0, sets=True, is_said=True),
    _Way(16, 2, 2),
    _Way(48, 0, 2, is_said=True),
    _Way(128, 2, 4),
    _Way(6, 0, 0, sets=True),
)
"""The strongest ways first, by kinds that differ."""


@dataclass(frozen=True)
class _Preferred:
    """The preferred examples of bank and pool, the most preferred first. Refusals are not among them.

    Attributes:
        examples: The examples. An answer may be the beginning of a longer one.
        vectors: The vectors of their queries: (examples, dimension).
        chances: For each example, the estimated share of users who like its form.
    """

    examples: Sequence[Example]
    vectors: Vectors = field(repr=False)
    chances: Sequence[float] = field(repr=False)

    def first(self, count: int) -> "_Preferred":
        """Return the most preferred examples."""
        return self._chosen(range(min(count, len(self.examples))))

    def shortest_first(self) -> "_Preferred":
        """Return the examples that are preferred nearly most, the shortest first. It returns none if they are few."""
        top = [place for place, chance in enumerate(self.chances) if chance >= _MOST_PREFERRED * self.chances[0]]
        return self._chosen(
            sorted(top if len(top) > _MIN_EXAMPLES else (), key=lambda one: _length(self.examples[one]))
        )

    def _chosen(self, places: Sequence[int]) -> "_Preferred":
        chosen = list(places)
        return _Preferred(
            [self.examples[one] for one in chosen], self.vectors[chosen], [self.chances[one] for one in chosen]
        )


def preferred_proposals(candidate: Candidate, pool: ExamplePool, taste: Taste) -> Iterator[Proposal]:
    """Yield candidates whose requests show preferred examples, those with the strongest effect first.

    Args:
        candidate: The candidate to change.
        pool: The examples that may be added to its bank.
        taste: The form of answers that people prefer.
    """
    preferred = _rank(candidate, pool, taste)
    if not preferred.examples:
        return
    for way in _WAYS:
        if way.sets and not candidate.bank.sets:
            continue
        ordered = preferred.shortest_first() if way.is_short else preferred
        best = ordered.first(way.size * (_CHOSEN_FROM if way.sets else 1))
        if not best.examples:
            continue
        found, what = (_with_sets if way.sets else _with_bank)(candidate, best, way)
        said = with_stated_form(found, taste) if way.is_said else found
        yield Proposal(said, BANK, what + (", and a prompt that states it" if said is not found else ""))


def _rank(candidate: Candidate, pool: ExamplePool, taste: Taste) -> _Preferred:
    """Return the preferred examples, each with the beginning of its answer that people like best."""
    bank = candidate.bank
    known = {one.query for one in bank.examples}
    new = [number for number, one in enumerate(pool.examples) if one.query not in known]
    examples = [*bank.examples, *(pool.examples[number] for number in new)]
    vectors = np.concatenate([bank.vectors, pool.vectors[new]]) if len(bank.examples) else pool.vectors[new]
    liked = {number: part for number, one in enumerate(examples) if (part := _liked(one, candidate, taste))}
    ranked = sorted(liked, key=lambda number: -liked[number].chance)
    enough = sum(liked[number].chance >= _MIN_SHARE * liked[ranked[0]].chance for number in ranked)
    order = ranked[: max(_MIN_EXAMPLES, enough)]
    chosen = [_answering(examples[number], liked[number].text) for number in order]
    return _Preferred(chosen, vectors[order], [liked[number].chance for number in order])


def _liked(example: Example, candidate: Candidate, taste: Taste) -> Beginning | None:
    """Return the part of an answer that people like best; None if it cannot be a preferred example."""
    if refuses(example.response) or len(example.response.split()) < _MIN_WORDS:
        return None
    found = liked_beginning(example.response, taste.chance, candidate.sampling.get(_MAX_TOKENS))
    return None if found is None or refuses(found.text) else found


def _answering(example: Example, text: str) -> Example:
    return example if text == example.response.strip() else replace(example, response=text)


def _pinned_ids(bank: Bank, preferred: _Preferred, count: int) -> set[str]:
    """Return the ids of the most preferred short examples. Of the pinned refusals, only the shortest one stays."""
    least = _MIN_SHARE * max(preferred.chances)
    liked = [one for one, chance in zip(preferred.examples, preferred.chances, strict=True) if chance >= least]
    short = [one.query for one in liked if len(one.response.split()) <= _MAX_PINNED_WORDS][:count]
    refusals = sorted((one for one in bank.examples if one.pinned and refuses(one.response)), key=_length)
    return {*(one.id for one in bank.examples if one.query in short), *(one.id for one in refusals[:1])}


def _length(example: Example) -> int:
    return len(example.response)


def _with_bank(candidate: Candidate, best: _Preferred, way: _Way) -> tuple[Candidate, str]:
    """Return the candidate with a bank of preferred examples and some refusals, and the change in words."""
    old = candidate.bank
    refusals = [number for number, one in enumerate(old.examples) if refuses(one.response)]
    count = max(_MIN_REFUSALS, int(len(best.examples) * _REFUSAL_SHARE))
    kept = [one for one in refusals if old.examples[one].pinned or one in _spread(refusals, count)]
    bank = Bank(tuple(old.examples[one] for one in kept), np.ascontiguousarray(old.vectors[kept]), old.embedder)
    bank = with_added(bank, best.examples, best.vectors)
    bank = with_pinned(bank, _pinned_ids(bank, best, way.pinned)) if way.pinned else bank
    nearest = way.nearest if len(best.examples) - way.pinned >= _MIN_NEAREST or not way.pinned else 0
    retrieval = replace(candidate.retrieval, policy="nearest", k=nearest, neutral_set=None, similarity_floor=None)
    found = replace(candidate, bank=bank, retrieval=retrieval)
    kind = "short example" if way.is_short else "example"
    pinned = sum(one.pinned for one in bank.examples)
    what = (
        f"a bank of {counted(len(best.examples), kind)} in the form that people prefer, {pinned} pinned, k = {nearest}"
    )
    return _with_room(found, best.examples, nearest), what


def _spread(positions: Sequence[int], count: int) -> set[int]:
    """Return at most `count` positions, evenly spread."""
    step = max(1.0, len(positions) / count)
    return {positions[int(place * step)] for place in range(min(count, len(positions)))}


def _with_sets(candidate: Candidate, best: _Preferred, way: _Way) -> tuple[Candidate, str]:
    """Return the candidate whose example sets show preferred examples, and the change in words.

    The sets for refusals stay as they are.

    The members of the sets vote as before, so a query that must be refused still gets the refusals.
    """
    old = candidate.bank
    answers = {one.query: one.response for one in best.examples}
    known = {one.query for one in old.examples}
    new = [number for number, one in enumerate(best.examples) if one.query not in known]
    changed = tuple(_answering(one, answers.get(one.query, one.response.strip())) for one in old.examples)
    bank = with_added(old.with_examples(changed, old.vectors), [best.examples[one] for one in new], best.vectors[new])
    bank = with_pinned(bank, _pinned_ids(bank, best, way.pinned)) if way.pinned else bank
    ids = {one.query: one.id for one in bank.examples}
    unpinned = {one.id for one in bank.examples if not one.pinned}
    names = [ids[one.query] for one in best.examples]
    sets = tuple(
        replace(one, shown=_nearest(one, bank, names, best.vectors, unpinned, way.size)) if one.kind == OTHER else one
        for one in bank.sets
    )
    found = replace(candidate, bank=replace(bank, sets=sets), retrieval=replace(candidate.retrieval, policy="set"))
    what = f"sets that show {counted(way.size, 'example')} in the form that people prefer"
    return _with_room(found, best.examples, way.size), what


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


def _with_room(candidate: Candidate, examples: Sequence[Example], shown: int) -> Candidate:
    """Return the candidate with a token limit that is enough for its pinned examples and any `shown` of `examples`."""
    layout = LAYOUTS[candidate.layout]
    fixed = render_preamble(layout, candidate.prompt, tuple(one for one in candidate.bank.examples if one.pinned))
    longest = max((estimated_tokens(render_example(layout, one)) for one in examples), default=0)
    limit = max(candidate.retrieval.max_injected_tokens, estimated_tokens(fixed) + longest * shown)
    return replace(candidate, retrieval=replace(candidate.retrieval, max_injected_tokens=limit))
