"""How a bank is parted into few example sets, so that a model server's prefix cache holds them all. Knows no file.

Examples that share a tag of the wish (such as `refusal`) stay together: they are one kind, all others another. Each
kind is clustered; the examples of a cluster vote for the cluster's set. What a set shows:

    prompt, pinned | shared by all sets of the kind | the set's own examples | the client's words
    '------------- `tokens` in all, just past the end of a block of the cache --------------'

Own examples are those by which the cluster's queries are covered best (facility location: each query counts by the
shown example nearest to it), among those whose lengths add up to the room there is, to a few tokens: what stands past
the end of a whole block is computed again for every request.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from index.clusters import means_on_the_sphere
from index.errors import BundleError
from index.types import Example, ExampleSet, Vectors

_SLACKS: Final = (4, 8, 16, 32, 64)  # tokens past the end of a block, tried in turn
_CANDIDATES: Final = 40
_TRIED_TOGETHER: Final = 3
_ALIKE: Final = 0.9  # two own examples at least this similar show little more than one
_SHARED_SLACK: Final = 64

Places = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Wish:
    """What sets to make. count: of sets; tokens: of prompt and examples together, a multiple of the cache's block; own:
    how many of them, at the end, are not shared with the other sets of a kind; apart: tags that make a kind, each with
    the weight of a vote for one of its sets."""

    count: int
    tokens: int
    own: int
    apart: Mapping[str, float]


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
    kinds = _kinds(examples, wish.apart)
    counts = _shares(wish.count, [len(places) for _, places in kinds])
    return tuple(
        ExampleSet(f"{kind}-{n}", _ids(examples, shown), _ids(examples, voters), wish.apart.get(kind, 1.0))
        for (kind, places), count in zip(kinds, counts, strict=True)
        for n, (shown, voters) in enumerate(_sets_of_kind(vectors, lengths, wish, kind, places, count), start=1)
    )


def _kinds(examples: Sequence[Example], apart: Iterable[str]) -> list[tuple[str, Places]]:
    """Each kind and the places of its examples; the first tag of `apart` that an example has decides."""
    named = [next((tag for tag in apart if tag in one.tags), "other") for one in examples]
    free = np.array([not one.pinned for one in examples])
    found = [(kind, np.flatnonzero(free & np.array([name == kind for name in named]))) for kind in (*apart, "other")]
    return [(kind, places) for kind, places in found if len(places)]


def _shares(count: int, sizes: Sequence[int]) -> list[int]:
    """`count` divided as `sizes` are, at least one each (largest remainders)."""
    ideal = np.array(sizes) / sum(sizes) * count
    shares = np.maximum(1, np.floor(ideal)).astype(int)
    while shares.sum() < count:
        shares[np.argmax(ideal - shares)] += 1
    return [int(min(share, size)) for share, size in zip(shares, sizes, strict=True)]


def _sets_of_kind(
    vectors: Vectors, lengths: Lengths, wish: Wish, kind: str, places: Places, count: int
) -> Iterator[tuple[list[int], Places]]:
    """What each set of a kind shows, and who votes for it. BundleError names the kind."""
    shared: list[int] = []
    if (room := wish.tokens - wish.own - lengths.fixed) > 0:
        gap = _Gap(vectors, lengths.examples, places, (), room)
        shared = gap.fill(_nearest(vectors, places, vectors[places].mean(axis=0)), (_SHARED_SLACK,), kind)
    room = wish.tokens - lengths.fixed - int(lengths.examples[shared].sum())
    own, centroids = means_on_the_sphere(np.ascontiguousarray(vectors[places]), count)
    for cluster, centroid in enumerate(centroids):
        voters = places[own == cluster]
        if len(voters):
            candidates = [one for one in _nearest(vectors, places, centroid) if one not in shared]
            chosen = _Gap(vectors, lengths.examples, voters, shared, room).fill(candidates, _SLACKS, kind)
            yield [*shared, *sorted(chosen, key=lambda one: float(vectors[one] @ centroid))], voters


def _nearest(vectors: Vectors, places: Places, centre: Vectors) -> list[int]:
    """`places`, from the nearest to `centre` on."""
    return [int(one) for one in places[np.argsort(-(vectors[places] @ centre), kind="stable")]]


@dataclass(frozen=True, slots=True)
class _Gap:
    """Room, in tokens, that is to be filled with examples beside those `shown`, so that `covered` is covered best."""

    vectors: Vectors
    costs: NDArray[np.int64]
    covered: Places
    shown: Sequence[int]
    room: int

    def fill(self, candidates: Sequence[int], slacks: Sequence[int], kind: str) -> list[int]:
        """Some of the first candidates. While there is much room, whoever covers most for its length is taken; the
        last few are tried all together."""
        near = list(candidates[:_CANDIDATES])
        chosen: list[int] = []
        while self._room(chosen) > (_TRIED_TOGETHER + 0.5) * self.costs[near].mean() and len(chosen) < len(near):
            chosen.append(max((one for one in near if one not in chosen), key=lambda one: self._gain(chosen, one)))
        rest = [one for one in near if one not in chosen]
        for slack in slacks:
            fitting = self._fitting(chosen, rest, slack)
            if last := max(fitting, key=lambda some: self._cover([*chosen, *some]), default=()):
                return [*chosen, *last]
        raise BundleError(
            f"no {len(near)} examples of the kind {kind} add up to {self.room} tokens: "
            "take more tokens in all, fewer own ones, or fewer sets"
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
        likeness = self.vectors[self.covered] @ self.vectors[[*self.shown, *chosen]].T
        return float(likeness.max(axis=1, initial=0.0).sum())

    def _are_alike(self, some: Sequence[int]) -> bool:
        return any(float(self.vectors[a] @ self.vectors[b]) >= _ALIKE for a, b in combinations(some, 2))


def _ids(examples: Sequence[Example], places: Sequence[int] | Places) -> tuple[str, ...]:
    return tuple(examples[int(place)].id for place in places)
