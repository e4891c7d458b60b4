"""How a bank is parted into few example sets, so that a model server's prefix cache holds them all. Knows no file.

Examples that share a tag of the wish (such as `refusal`) stay together: they are one kind, all others another. Each
kind is clustered; the examples of a cluster vote for the cluster's set. What a request is sent as:

    prompt, pinned | the set's examples | the client's words
    '-- `tokens`, just past the end --'
         of a block of the cache

A set shows those examples by which its cluster's queries are covered best (facility location: each query counts by the
shown example nearest to it), among those whose lengths add up to the room there is, to a few tokens: what stands past
the end of a whole block is computed again for every request.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from index.bundle.clusters import means_on_the_sphere
from index.bundle.example_bank import is_id
from index.bundle.strict_json import quoted
from index.errors import BundleError
from index.types import Example, ExampleSet, Vectors

_SLACKS: Final = (4, 8, 16, 32, 64)  # tokens past the end of a block, tried in turn
_CANDIDATES: Final = 40
_TRIED_TOGETHER: Final = 3
_ALIKE: Final = 0.9  # two examples at least this similar show little more than one
_OTHER: Final = "other"

Places = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Apart:
    """A tag that makes a kind. weight: of a vote for one of its sets; count: of those sets."""

    weight: float = 1.0
    count: int = 1


@dataclass(frozen=True, slots=True)
class Wish:
    """What sets to make. count: of sets; tokens: of prompt and examples together, a multiple of the cache's block;
    apart: by tag; minimum_similarity: of a voter for a kind apart, a cosine; shortest_answer: in words, of the examples
    that are shown and of no kind apart."""

    count: int
    tokens: int
    apart: Mapping[str, Apart]
    minimum_similarity: float = -1.0
    shortest_answer: int = 0


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens, by the model's tokenizer. fixed: of prompt and pinned examples; examples: of each, laid out."""

    fixed: int
    examples: NDArray[np.int64]


def part_into_sets(
    examples: Sequence[Example], vectors: Vectors, lengths: Lengths, wish: Wish
) -> tuple[ExampleSet, ...]:
    """The sets, the same for the same input. BundleError where the lengths leave no choice."""
    if wish.tokens <= lengths.fixed:
        raise BundleError(f"prompt and pinned examples have {lengths.fixed} tokens already: take more tokens in all")
    kinds = _kinds(examples, wish)
    return tuple(one for kind in kinds for one in _sets_of(kind, examples, vectors, lengths, wish))


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of examples. places: of all of them; showable: of those that its sets may show; count: of its sets; weight
    and minimum_similarity: of a vote, see ExampleSet."""

    name: str
    places: Places
    showable: Places
    count: int
    weight: float
    minimum_similarity: float


def _kinds(examples: Sequence[Example], wish: Wish) -> list[_Kind]:
    """The kinds that there are examples of; the first tag of `apart` that an example has decides. BundleError."""
    named = [next((tag for tag in wish.apart if tag in one.tags), _OTHER) for one in examples]
    free = np.array([not one.pinned for one in examples])
    places = {kind: np.flatnonzero(free & np.array([name == kind for name in named])) for kind in (*wish.apart, _OTHER)}
    for tag in wish.apart:
        _check_tag(tag, places[tag])
    kinds = [
        _Kind(tag, places[tag], places[tag], apart.count, apart.weight, wish.minimum_similarity)
        for tag, apart in wish.apart.items()
    ]
    return [*kinds, _others(examples, places[_OTHER], wish)] if len(places[_OTHER]) else kinds


def _check_tag(tag: str, places: Places) -> None:
    """BundleError: no example has the tag, or it cannot name sets."""
    if not len(places):
        raise BundleError(f"no example that is not pinned has the tag {quoted(tag)}: `drpo-index show` lists the tags")
    if tag == _OTHER or not is_id(f"{tag}-{len(places)}"):
        raise BundleError(
            f"the tag {quoted(tag)} cannot name sets: it must be short, of letters, digits, dots, dashes or "
            f"underscores (ASCII), and not `{_OTHER}`"
        )


def _others(examples: Sequence[Example], places: Places, wish: Wish) -> _Kind:
    """What is not apart. BundleError: no set is left for it, or no answer of it is long enough."""
    count = wish.count - sum(apart.count for apart in wish.apart.values())
    if count < 1:
        raise BundleError(f"{wish.count} sets leave none for what is not apart: take more, or fewer of kinds apart")
    is_long = np.array([len(examples[int(place)].response.split()) >= wish.shortest_answer for place in places])
    if not is_long.any():
        raise BundleError(f"no answer that is not apart has {wish.shortest_answer} words: allow shorter ones")
    return _Kind(_OTHER, places, places[is_long], count, 1.0, -1.0)


def _sets_of(
    kind: _Kind, examples: Sequence[Example], vectors: Vectors, lengths: Lengths, wish: Wish
) -> Iterator[ExampleSet]:
    """A kind's sets. BundleError names the kind whose lengths leave no choice."""
    if kind.count > len(kind.places):
        raise BundleError(
            f"{kind.count} sets of the kind {kind.name}, which has {len(kind.places)} examples: take fewer"
        )
    own, centroids = means_on_the_sphere(np.ascontiguousarray(vectors[kind.places]), kind.count)
    for n, centroid in enumerate(centroids):
        if len(voters := kind.places[own == n]):
            gap = _Gap(vectors, lengths.examples, voters, wish.tokens - lengths.fixed)
            chosen = gap.fill(_nearest(vectors, kind.showable, centroid), kind.name)
            shown = sorted(chosen, key=lambda one: float(vectors[one] @ centroid))
            yield ExampleSet(
                name=f"{kind.name}-{n + 1}",
                shown=_ids(examples, shown),
                voters=_ids(examples, voters),
                kind=kind.name,
                weight=kind.weight,
                minimum_similarity=kind.minimum_similarity,
            )


def _nearest(vectors: Vectors, places: Places, centre: Vectors) -> list[int]:
    """`places`, from the nearest to `centre` on."""
    return [int(one) for one in places[np.argsort(-(vectors[places] @ centre), kind="stable")]]


@dataclass(frozen=True, slots=True)
class _Gap:
    """Room, in tokens, that is to be filled with examples so that `covered` is covered best."""

    vectors: Vectors
    costs: NDArray[np.int64]
    covered: Places
    room: int

    def fill(self, candidates: Sequence[int], kind: str) -> list[int]:
        """Some of the first candidates. While there is much room, whoever covers most for its length is taken; the
        last few are tried all together."""
        near = list(candidates[:_CANDIDATES])
        chosen: list[int] = []
        while self._room(chosen) > (_TRIED_TOGETHER + 0.5) * self.costs[near].mean() and len(chosen) < len(near):
            chosen.append(max((one for one in near if one not in chosen), key=lambda one: self._gain(chosen, one)))
        rest = [one for one in near if one not in chosen]
        for slack in _SLACKS:
            fitting = self._fitting(chosen, rest, slack)
            if last := max(fitting, key=lambda some: self._cover([*chosen, *some]), default=()):
                return [*chosen, *last]
        raise BundleError(
            f"no examples among {len(near)} of the kind {kind} add up to {self.room} tokens: "
            "try another number of tokens in all, or allow shorter answers"
        )

    def _fitting(self, chosen: Sequence[int], rest: Sequence[int], slack: int) -> Iterator[tuple[int, ...]]:
        """Up to three of the rest that fill what the chosen leave, and are not alike."""
        room = self._room(chosen)
        for size in range(1, _TRIED_TOGETHER + 1):
            for some in combinations(rest, size):
                if room <= sum(int(self.costs[one]) for one in some) <= room + slack and not self._are_alike(some):
                    yield some

    def _room(self, chosen: Sequence[int]) -> int:
        return self.room - int(self.costs[list(chosen)].sum())

    def _gain(self, chosen: Sequence[int], one: int) -> float:
        if self.costs[one] > self._room(chosen):
            return -1.0
        return (self._cover([*chosen, one]) - self._cover(chosen)) / math.sqrt(self.costs[one])

    def _cover(self, chosen: Sequence[int]) -> float:
        """Facility location: for each of the covered how near the nearest of the shown is."""
        likeness = self.vectors[self.covered] @ self.vectors[list(chosen)].T
        return float(likeness.max(axis=1, initial=0.0).sum())

    def _are_alike(self, some: Sequence[int]) -> bool:
        return any(float(self.vectors[a] @ self.vectors[b]) >= _ALIKE for a, b in combinations(some, 2))


def _ids(examples: Sequence[Example], places: Sequence[int] | Places) -> tuple[str, ...]:
    return tuple(examples[int(place)].id for place in places)
