"""Partitions a bank into a few example sets, so that a model server's prefix cache can hold the prompts of all sets.

The examples with the same separate tag (such as `refusal`) form one kind. All examples without a separate tag form the
kind `other`. The examples of a kind are divided into clusters, and each cluster gives one set. The examples of the
cluster are the set's members: they vote for the set. The set shows only some of the examples of its kind. A request is
sent as:

    prompt, pinned examples, the set's shown examples | the client's messages
    '----- `tokens` (whole blocks) and an excess -----'

The shown examples are those that cover the members' queries best (facility location: the coverage of a query is its
similarity to the nearest shown example). A prefix cache stores whole blocks of tokens. The shown examples therefore
fill the last block. Their excess over the block is small, because the model server computes the excess again for every
request. This module does not depend on files.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from index.bundle.clusters import spherical_k_means
from index.bundle.example_bank import is_id
from index.bundle.strict_json import quoted
from index.errors import BundleError
from index.types import Example, ExampleSet, Vectors

_MAX_EXCESS_TOKENS: Final = (4, 8, 16, 32, 64)  # the limits of the excess of a set, tried in this order
_MAX_CANDIDATES: Final = 40  # the shown examples of a set are chosen from at most this many
_MAX_COMBINED: Final = 3  # the last examples of a set, at most this many, are chosen from all combinations
_DUPLICATE_SIMILARITY: Final = 0.9  # two examples at least this similar to each other are near-duplicates
_OTHER: Final = "other"

Positions = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class SeparateTag:
    """Settings of the sets for the examples with one separate tag.

    Attributes:
        weight: Factor by which each vote for one of these sets is multiplied.
        count: The number of clusters, and so of sets, into which the examples with this tag are divided.
    """

    weight: float = 1.0
    count: int = 1


@dataclass(frozen=True, slots=True)
class PartitionSpec:
    """The number and the size of the sets.

    Attributes:
        count: The number of all sets, including those for separate tags.
        tokens: The least number of tokens of prompt, pinned examples and a set's shown examples together. It should be
            a multiple of the block size of the prefix cache.
        separate_tags: The separate tags, by name.
        minimum_similarity: The `minimum_similarity` (see `ExampleSet`) of each set for a separate tag.
        min_answer_words: Examples without a separate tag are shown only if their answer has at least this many words.
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
        fixed: The tokens of the prompt and all pinned examples together.
        examples: The tokens of each rendered example of the bank: (examples,) int64.
    """

    fixed: int
    examples: NDArray[np.int64]


def partition_into_sets(
    examples: Sequence[Example], vectors: Vectors, lengths: TokenLengths, spec: PartitionSpec
) -> tuple[ExampleSet, ...]:
    """Partition a bank into example sets. The same input gives the same result.

    Args:
        examples: The bank.
        vectors: The vectors of the examples' queries: (examples, dimension), rows of norm 1.
        lengths: The lengths of the bundle's texts.
        spec: The number and the size of the sets.

    Raises:
        BundleError: No choice of examples satisfies the spec.
    """
    if spec.tokens <= lengths.fixed:
        raise BundleError(f"prompt and pinned examples have {lengths.fixed} tokens already: take more tokens in all")
    kinds = _find_kinds(examples, spec)
    return tuple(one for kind in kinds for one in _make_sets(kind, examples, vectors, lengths, spec))


@dataclass(frozen=True, slots=True)
class _Kind:
    """The examples with one separate tag, or the examples without a separate tag.

    Attributes:
        name: The separate tag, or `other`.
        positions: The positions in the bank of the kind's examples that are not pinned.
        showable: The positions of the examples that the kind's sets can show, a part of `positions`.
        count: The number of clusters, and so of sets, into which the kind is divided.
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
        BundleError: No example belongs to a tag, or the spec does not fit the examples.
    """
    tags = spec.separate_tags
    kind_names = [next((tag for tag in tags if tag in one.tags), _OTHER) for one in examples]
    is_free = np.array([not one.pinned for one in examples])
    positions = {
        kind: np.flatnonzero(is_free & np.array([name == kind for name in kind_names])) for kind in (*tags, _OTHER)
    }
    for tag in tags:
        _check_tag(tag, positions[tag])
    kinds = [
        _Kind(tag, positions[tag], positions[tag], separate.count, separate.weight, spec.minimum_similarity)
        for tag, separate in tags.items()
    ]
    return [*kinds, _other_kind(examples, positions[_OTHER], spec)] if len(positions[_OTHER]) else kinds


def _check_tag(tag: str, positions: Positions) -> None:
    """Raise BundleError if no example belongs to the tag, or if the tag cannot be part of a set's name."""
    if not len(positions):
        raise BundleError(f"no example that is not pinned has the tag {quoted(tag)}: `drpo-index show` lists the tags")
    if tag == _OTHER or not is_id(f"{tag}-{len(positions)}"):
        raise BundleError(
            f"the tag {quoted(tag)} cannot name sets: it must be short, of letters, digits, dots, dashes or "
            f"underscores (ASCII), and not `{_OTHER}`"
        )


def _other_kind(examples: Sequence[Example], positions: Positions, spec: PartitionSpec) -> _Kind:
    """Return the kind of the examples without a separate tag.

    Raises:
        BundleError: The sets for separate tags leave no set for this kind, or no answer of the kind is long enough.
    """
    count = spec.count - sum(separate.count for separate in spec.separate_tags.values())
    if count < 1:
        raise BundleError(f"{spec.count} sets leave none for what is not apart: take more, or fewer of kinds apart")
    is_long = np.array([len(examples[int(n)].response.split()) >= spec.min_answer_words for n in positions])
    if not is_long.any():
        raise BundleError(f"no answer that is not apart has {spec.min_answer_words} words: allow shorter ones")
    return _Kind(_OTHER, positions, positions[is_long], count, 1.0, -1.0)


def _make_sets(
    kind: _Kind, examples: Sequence[Example], vectors: Vectors, lengths: TokenLengths, spec: PartitionSpec
) -> Iterator[ExampleSet]:
    """Yield the sets of one kind. A cluster without examples gives no set.

    A set shows its examples in ascending order of their similarity to the centroid of its cluster.

    Raises:
        BundleError: The kind has too few examples, or no choice of examples fits the tokens.
    """
    if kind.count > len(kind.positions):
        raise BundleError(
            f"{kind.count} sets of the kind {kind.name}, which has {len(kind.positions)} examples: take fewer"
        )
    clusters, centroids = spherical_k_means(np.ascontiguousarray(vectors[kind.positions]), kind.count)
    for n, centroid in enumerate(centroids):
        if len(members := kind.positions[clusters == n]):
            cover = _Cover(vectors, lengths.examples, members, spec.tokens - lengths.fixed)
            chosen = cover.choose(_nearest_first(vectors, kind.showable, centroid), kind.name)
            shown = sorted(chosen, key=lambda one: float(vectors[one] @ centroid))
            yield ExampleSet(
                name=f"{kind.name}-{n + 1}",
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
    """Chooses the examples that a set shows: they fill a number of tokens and cover the set's members best.

    Attributes:
        vectors: The vectors of the bank.
        costs: The tokens of each example of the bank.
        members: The positions of the set's members, whose queries the shown examples must cover.
        tokens: The number of tokens that the shown examples must fill.
    """

    vectors: Vectors
    costs: NDArray[np.int64]
    members: Positions
    tokens: int

    def choose(self, candidates: Sequence[int], kind: str) -> list[int]:
        """Return the positions of the chosen examples.

        While there is room for more than three examples of average length, the example that adds the most coverage for
        its length is chosen next. The last one to three examples are chosen together: of all combinations that fill the
        tokens, the one with the best coverage.

        Args:
            candidates: Positions of examples, the best first. Only the first `_MAX_CANDIDATES` are considered.
            kind: The name of the kind in an error message.

        Raises:
            BundleError: No combination fills the tokens.
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
            f"no examples among {len(near)} of the kind {kind} add up to {self.tokens} tokens: "
            "try another number of tokens in all, or allow shorter answers"
        )

    def _fitting(self, chosen: Sequence[int], rest: Sequence[int], max_excess: int) -> Iterator[tuple[int, ...]]:
        """Yield the combinations of one to three examples of `rest` that contain no near-duplicates and fill the room.

        They fill the room that `chosen` leaves, and exceed it by at most `max_excess` tokens.
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
