"""Partitions a bank into a few example sets, so that a model server's prefix cache can hold the prompts of all sets.

The examples with the same separate tag (such as `refusal`) form one kind. All examples without a separate tag form the
kind `other`. The examples of a kind are divided into clusters, and each cluster gives one set. The examples of the
cluster are the set's members: they vote for the set. For each set, some examples of its kind are chosen as its shown
examples. Requests for which the set is chosen contain these examples. The proxy sends such a request as:

    prompt, pinned examples, the set's shown examples | the client's messages
    '----- `tokens` (whole blocks) and an excess -----'

The shown examples are chosen so that they cover the members' queries best (facility location: the coverage of a query
is its similarity to the nearest shown example). A prefix cache stores only whole blocks of tokens. The shown examples
are therefore chosen so that they reach the end of a block. The model server computes the tokens after this end (the
excess) again for every request, so the excess is kept small. This module does not depend on files.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from index.bundle.clusters import spherical_k_means
from index.bundle.example_bank import is_id
from index.bundle.sets_file import OTHER
from index.bundle.strict_json import quoted
from index.errors import BundleError
from index.types import Example, ExampleSet, Vectors

_MAX_EXCESS_TOKENS: Final = (4, 8, 16, 32, 64)  # limits on the excess of a set, tried in this order until one is met
_MAX_CANDIDATES: Final = 40  # the shown examples of a set are chosen from at most this many examples
_MAX_COMBINED: Final = 3  # the maximum size of the combination of examples that completes a set
_DUPLICATE_SIMILARITY: Final = 0.9  # two examples are near-duplicates if their similarity is at least this value

Positions = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class SeparateTag:
    """Settings of the example sets that are made for one separate tag.

    Attributes:
        weight: Factor by which each vote for one of these sets is multiplied.
        count: The number of these sets. The examples with the tag are divided into this number of clusters.
    """

    weight: float = 1.0
    count: int = 1


@dataclass(frozen=True, slots=True)
class PartitionSpec:
    """The number and the size of the sets.

    Attributes:
        count: The total number of sets: the sets for separate tags and the sets of the kind `other`.
        tokens: The minimum number of tokens that the prompt, all pinned examples and the shown examples of one set have
            together. It should be a multiple of the block size of the prefix cache.
        separate_tags: The settings for each separate tag, by the name of the tag.
        minimum_similarity: The value of `ExampleSet.minimum_similarity` in each set for a separate tag.
        min_answer_words: The sets of the kind `other` show only examples whose answer has at least this many words.
    """

    count: int
    tokens: int
    separate_tags: Mapping[str, SeparateTag]
    minimum_similarity: float = -1.0
    min_answer_words: int = 0


@dataclass(frozen=True, slots=True)
class TokenLengths:
    """Lengths of a bundle's texts in tokens.

    Attributes:
        fixed: The number of tokens of the prompt and all pinned examples together.
        examples: The number of tokens of each rendered example of the bank: (examples,) int64.
        own: The number of tokens of a set's own prompt and all pinned examples, by the name of the set or of its kind.
    """

    fixed: int
    examples: NDArray[np.int64]
    own: Mapping[str, int] = field(default_factory=dict)

    def before(self, name: str, kind: str) -> int:
        """Return the number of tokens before the shown examples of a set with this name and this kind."""
        return self.own.get(name, self.own.get(kind, self.fixed))


def partition_into_sets(
    examples: Sequence[Example], vectors: Vectors, lengths: TokenLengths, spec: PartitionSpec
) -> tuple[ExampleSet, ...]:
    """Partition a bank into example sets. The same input gives the same result.

    Args:
        examples: The bank.
        vectors: The vectors of the examples' queries: (examples, dimension), rows of norm 1.
        lengths: The lengths of the bundle's texts in tokens.
        spec: The number and the size of the sets.

    Raises:
        BundleError: The spec does not fit the bank, or no choice of examples satisfies the spec.
    """
    kinds = _find_kinds(examples, spec)
    return tuple(one for kind in kinds for one in _make_sets(kind, examples, vectors, lengths, spec))


@dataclass(frozen=True, slots=True)
class _Kind:
    """The examples with one separate tag, or the examples without a separate tag.

    Attributes:
        name: The separate tag, or `other`.
        positions: The positions, in the bank, of all examples of the kind except pinned ones.
        showable: A subset of `positions`: the examples that the sets of the kind may show.
        count: The number of clusters into which the examples of the kind are divided. Each cluster gives one set.
        weight: The weight of each set of the kind (see `ExampleSet`).
        minimum_similarity: The minimum similarity of each set of the kind (see `ExampleSet`).
    """

    name: str
    positions: Positions
    showable: Positions
    count: int
    weight: float
    minimum_similarity: float


def _find_kinds(examples: Sequence[Example], spec: PartitionSpec) -> list[_Kind]:
    """Return one kind for each separate tag, and the kind `other` if any example belongs to it.

    An example with several separate tags belongs to the tag that comes first in the spec.

    Raises:
        BundleError: A separate tag has no examples or cannot be part of a set's name, or the kind `other` gets no set
            or has no answer that is long enough.
    """
    tags = spec.separate_tags
    kind_names = [next((tag for tag in tags if tag in one.tags), OTHER) for one in examples]
    is_free = np.array([not one.pinned for one in examples])
    positions = {
        kind: np.flatnonzero(is_free & np.array([name == kind for name in kind_names])) for kind in (*tags, OTHER)
    }
    for tag in tags:
        _check_tag(tag, positions[tag])
    kinds = [
        _Kind(tag, positions[tag], positions[tag], separate.count, separate.weight, spec.minimum_similarity)
        for tag, separate in tags.items()
    ]
    return [*kinds, _other_kind(examples, positions[OTHER], spec)] if len(positions[OTHER]) else kinds


def _check_tag(tag: str, positions: Positions) -> None:
    """Raise BundleError if no unpinned example belongs to the tag, or if the tag cannot be part of a set's name."""
    if not len(positions):
        raise BundleError(f"no example that is not pinned has the tag {quoted(tag)}: `drpo-index show` lists the tags")
    if tag == OTHER or not is_id(f"{tag}-{len(positions)}"):
        raise BundleError(
            f"the tag {quoted(tag)} cannot name sets: it must be short, of letters, digits, dots, dashes or "
            f"underscores (ASCII), and not `{OTHER}`"
        )


def _other_kind(examples: Sequence[Example], positions: Positions, spec: PartitionSpec) -> _Kind:
    """Return the kind of the examples without a separate tag.

    Raises:
        BundleError: The sets for separate tags leave no set for this kind, or no answer of the kind is long enough.
    """
    count = spec.count - sum(separate.count for separate in spec.separate_tags.values())
    if count < 1:
        raise BundleError(f"all sets are for separate tags: make more than {spec.count}, or fewer for these tags")
    is_long = np.array([len(examples[int(n)].response.split()) >= spec.min_answer_words for n in positions])
    if not is_long.any():
        raise BundleError(f"no answer without a separate tag has {spec.min_answer_words} words: allow shorter answers")
    return _Kind(OTHER, positions, positions[is_long], count, 1.0, -1.0)


def _make_sets(
    kind: _Kind, examples: Sequence[Example], vectors: Vectors, lengths: TokenLengths, spec: PartitionSpec
) -> Iterator[ExampleSet]:
    """Yield the sets of one kind. A cluster without examples gives no set.

    A set shows its examples in ascending order of their similarity to the centroid of its cluster.

    Raises:
        BundleError: The kind has fewer examples than sets, or no choice of examples fills the tokens.
    """
    if kind.count > len(kind.positions):
        raise BundleError(
            f"the kind {kind.name} has fewer examples ({len(kind.positions)}) than sets ({kind.count}): make fewer sets"
        )
    clusters, centroids = spherical_k_means(np.ascontiguousarray(vectors[kind.positions]), kind.count)
    for n, centroid in enumerate(centroids):
        if len(members := kind.positions[clusters == n]):
            name = f"{kind.name}-{n + 1}"
            if (before := lengths.before(name, kind.name)) >= spec.tokens:
                raise BundleError(f"{name}: prompt and pinned examples alone have {before} tokens. Allow more tokens")
            cover = _Cover(vectors, lengths.examples, members, spec.tokens - before)
            chosen = cover.choose(_nearest_first(vectors, kind.showable, centroid), kind.name)
            shown = sorted(chosen, key=lambda one: float(vectors[one] @ centroid))
            yield ExampleSet(
                name=name,
                shown=_ids(examples, shown),
                members=_ids(examples, members),
                kind=kind.name,
                weight=kind.weight,
                minimum_similarity=kind.minimum_similarity,
            )


def _nearest_first(vectors: Vectors, positions: Positions, centroid: Vectors) -> list[int]:
    return [int(one) for one in positions[np.argsort(-(vectors[positions] @ centroid), kind="stable")]]


@dataclass(frozen=True, slots=True)
class _Cover:
    """Chooses the examples that a set shows: they fill a number of tokens, and cover the queries of the members well.

    Attributes:
        vectors: The vectors of the bank.
        costs: The number of tokens of each example of the bank.
        members: The positions of the set's members, whose queries the shown examples must cover.
        tokens: The number of tokens that the shown examples must fill.
    """

    vectors: Vectors
    costs: NDArray[np.int64]
    members: Positions
    tokens: int

    def choose(self, candidates: Sequence[int], kind: str) -> list[int]:
        """Return the positions of the chosen examples.

        First, examples are chosen one by one, until the tokens that remain to be filled are at most 3.5 times the
        average length of the candidates. Each time, the method chooses the example whose gain in coverage, divided by
        the square root of its length, is the largest. Then the last one to three examples are chosen together, from
        all combinations that fill the remaining tokens and exceed them by at most a limit. The limit is the smallest
        one in `_MAX_EXCESS_TOKENS` that any combination meets. Of the combinations within this limit, the method
        chooses the one with the best coverage.

        Args:
            candidates: Positions of examples, the best first. Only the first `_MAX_CANDIDATES` are considered.
            kind: The name of the kind, for the error message.

        Raises:
            BundleError: No combination fills the remaining tokens within the largest limit.
        """
        near = list(candidates[:_MAX_CANDIDATES])
        chosen: list[int] = []
        while self._room(chosen) > (_MAX_COMBINED + 0.5) * self.costs[near].mean() and len(chosen) < len(near):
            chosen.append(max((one for one in near if one not in chosen), key=lambda one: self._gain(chosen, one)))
        rest = [one for one in near if one not in chosen]
        for max_excess in _MAX_EXCESS_TOKENS:
            fitting = self._fitting(chosen, rest, max_excess)
            if last := max(fitting, key=lambda some: self._coverage([*chosen, *some]), default=()):
                return [*chosen, *last]
        raise BundleError(
            f"no examples among {len(near)} of the kind {kind} add up to {self.tokens} tokens. "
            "Try another number of tokens, or allow shorter answers"
        )

    def _fitting(self, chosen: Sequence[int], rest: Sequence[int], max_excess: int) -> Iterator[tuple[int, ...]]:
        """Yield the combinations of one to three examples of `rest` that fill the room and contain no near-duplicates.

        The room is the number of tokens that `chosen` leaves to be filled. A combination fills the room if it has at
        least this number of tokens, and at most `max_excess` more.
        """
        room = self._room(chosen)
        for size in range(1, _MAX_COMBINED + 1):
            for some in combinations(rest, size):
                fits = room <= sum(int(self.costs[one]) for one in some) <= room + max_excess
                if fits and not self._has_duplicates(some):
                    yield some

    def _room(self, chosen: Sequence[int]) -> int:
        return self.tokens - int(self.costs[list(chosen)].sum())

    def _gain(self, chosen: Sequence[int], one: int) -> float:
        if self.costs[one] > self._room(chosen):
            return -1.0
        return (self._coverage([*chosen, one]) - self._coverage(chosen)) / math.sqrt(self.costs[one])

    def _coverage(self, chosen: Sequence[int]) -> float:
        """Return the sum of all members' similarities to their nearest chosen example (facility location).

        A negative similarity counts as 0.
        """
        similarities = self.vectors[self.members] @ self.vectors[list(chosen)].T
        return float(similarities.max(axis=1, initial=0.0).sum())

    def _has_duplicates(self, some: Sequence[int]) -> bool:
        return any(float(self.vectors[a] @ self.vectors[b]) >= _DUPLICATE_SIMILARITY for a, b in combinations(some, 2))


def _ids(examples: Sequence[Example], positions: Sequence[int] | Positions) -> tuple[str, ...]:
    return tuple(examples[int(n)].id for n in positions)
