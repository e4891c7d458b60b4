"""Partitions a bank into a few example sets, so that a model server's prefix cache holds the prompts of all sets.

Examples with a separate tag (such as `refusal`) form one kind, and all other examples another kind. Each kind is
clustered. The examples of a cluster are the members of one set: they vote for it. A request is sent as:

    prompt, pinned | the set's examples | the client's messages
    '-- `tokens`, just past the end --'
         of a block of the cache

A set shows the examples that cover the queries of its cluster best (facility location: the coverage of a query is its
similarity to the nearest shown example). The lengths of the shown examples add up to the available tokens with a small
excess, because tokens past the end of a whole block are computed again for every request. This module does not depend
on files.
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

_MAX_EXCESS_TOKENS: Final = (4, 8, 16, 32, 64)  # tokens past the end of a block; the limits are tried in this order
_MAX_CANDIDATES: Final = 40
_MAX_COMBINED: Final = 3  # examples that are tried in all combinations
_DUPLICATE_SIMILARITY: Final = 0.9  # two examples at least this similar cover little more than one of them
_OTHER: Final = "other"

Positions = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class SeparateTag:
    """A tag whose examples get sets of their own.

    Attributes:
        weight: Factor of a vote for one of these sets.
        count: Number of these sets.
    """

    weight: float = 1.0
    count: int = 1


@dataclass(frozen=True, slots=True)
class PartitionSpec:
    """The sets to make.

    Attributes:
        count: Number of all sets.
        tokens: Tokens of prompt and examples together, a multiple of the block size of the prefix cache.
        separate_tags: The separate tags by name.
        minimum_similarity: Cosine similarity from which a member votes for a set of a separate tag.
        min_answer_words: Examples without a separate tag are shown only if their answer has this many words.
    """

    count: int
    tokens: int
    separate_tags: Mapping[str, SeparateTag]
    minimum_similarity: float = -1.0
    min_answer_words: int = 0


@dataclass(frozen=True, slots=True)
class TokenLengths:
    """Lengths in tokens of the model's tokenizer.

    Attributes:
        fixed: Tokens of prompt and pinned examples.
        examples: Tokens of each rendered example: (examples,) int64.
    """

    fixed: int
    examples: NDArray[np.int64]


def partition_into_sets(
    examples: Sequence[Example], vectors: Vectors, lengths: TokenLengths, spec: PartitionSpec
) -> tuple[ExampleSet, ...]:
    """Partition a bank into example sets. The result is the same for the same input.

    Args:
        examples: The bank.
        vectors: The vectors of the queries: (examples, dimension), rows of norm 1.
        lengths: The lengths of the bundle's texts.
        spec: The sets to make.

    Raises:
        BundleError: No choice of examples satisfies the spec.
    """
    if spec.tokens <= lengths.fixed:
        raise BundleError(f"prompt and pinned examples have {lengths.fixed} tokens already: take more tokens in all")
    kinds = _find_kinds(examples, spec)
    return tuple(one for kind in kinds for one in _make_sets(kind, examples, vectors, lengths, spec))


@dataclass(frozen=True, slots=True)
class _Kind:
    """The examples of one separate tag, or of none.

    Attributes:
        name: The tag, or `other`.
        positions: Positions of all examples of the kind in the bank.
        showable: Positions of those that a set of the kind may show.
        count: Number of sets of the kind.
        weight: See `ExampleSet`.
        minimum_similarity: See `ExampleSet`.
    """

    name: str
    positions: Positions
    showable: Positions
    count: int
    weight: float
    minimum_similarity: float


def _find_kinds(examples: Sequence[Example], spec: PartitionSpec) -> list[_Kind]:
    """Return the kinds that have examples. An example with several separate tags belongs to the first of them."""
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
    """Check that some example has the tag and that sets can be named after it."""
    if not len(positions):
        raise BundleError(f"no example that is not pinned has the tag {quoted(tag)}: `drpo-index show` lists the tags")
    if tag == _OTHER or not is_id(f"{tag}-{len(positions)}"):
        raise BundleError(
            f"the tag {quoted(tag)} cannot name sets: it must be short, of letters, digits, dots, dashes or "
            f"underscores (ASCII), and not `{_OTHER}`"
        )


def _other_kind(examples: Sequence[Example], positions: Positions, spec: PartitionSpec) -> _Kind:
    """Return the kind of the examples without a separate tag."""
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
    """Yield the sets of one kind."""
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
    """Chooses examples that fill a number of tokens and cover the members of a set best.

    Attributes:
        vectors: The vectors of the bank.
        costs: Tokens of each example of the bank.
        members: Positions of the examples whose queries are to be covered.
        tokens: The number of tokens to fill.
    """

    vectors: Vectors
    costs: NDArray[np.int64]
    members: Positions
    tokens: int

    def choose(self, candidates: Sequence[int], kind: str) -> list[int]:
        """Choose from the first candidates.

        While many tokens are left, the example with the most coverage for its length is added. The last few examples
        are chosen together, from all combinations. `kind` is the kind's name in an error message.
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
        """Yield combinations of the rest that fill the tokens that are left and contain no near-duplicates."""
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
        """Return the sum over the members of the similarity to the nearest chosen example (facility location)."""
        similarities = self.vectors[self.members] @ self.vectors[list(chosen)].T
        return float(similarities.max(axis=1, initial=0.0).sum())

    def _has_duplicates(self, some: Sequence[int]) -> bool:
        return any(float(self.vectors[a] @ self.vectors[b]) >= _DUPLICATE_SIMILARITY for a, b in combinations(some, 2))


def _ids(examples: Sequence[Example], positions: Sequence[int] | Positions) -> tuple[str, ...]:
    return tuple(examples[int(n)].id for n in positions)
