"""Retrieves the examples for a query: a vector search with FAISS, and the vote of the neighbours for an example set.

A bank of up to 50,000 examples is searched exactly. The vectors of a larger bank are sorted into clusters
(index/bundle/clusters.py). The search of a larger bank reads only the clusters nearest to the query, and may miss a
neighbour. The FAISS index is built in memory from the bundle's vectors and is never read from a file. This module does
not depend on files or models.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import faiss
import numpy as np
from numpy.typing import NDArray

from index.bundle.clusters import ClusterIndex
from index.bundle.example_bank import pinned_positions
from index.types import Bundle, Example, ExampleSet, Hit, Message, Vectors

MAX_QUERY_CHARACTERS = 2_000
_MAX_QUICK_BANK = 5_000
# The first search finds this many times k examples, because excluded examples and near-duplicates are removed from its
# result. Each further search finds this many times as many examples as the search before it.
_FETCH_FACTOR = 4
# The exponent of the similarity in a vote. A neighbour with twice the similarity has a vote that is 16 times as large.
_VOTE_EXPONENT = 4

Search = Callable[[Vectors, int], tuple[Vectors, NDArray[np.int64]]]
"""A function of a vector and a count n. It returns the similarities and the positions of the n nearest examples.

Both arrays have the same order, which is arbitrary.
"""


class Retriever:
    """Finds the examples of a bundle that are nearest to a query. It is thread-safe."""

    def __init__(self, bundle: Bundle) -> None:
        self._policy = bundle.manifest.retrieval
        self._examples = bundle.examples
        self._vectors = bundle.vectors
        self._is_excluded = _excluded_positions(bundle)
        self._sets = bundle.sets
        self._positions = {example.id: n for n, example in enumerate(bundle.examples)} if bundle.sets else {}
        self._set_of_member = {
            self._positions[member]: (number, example_set)
            for number, example_set in enumerate(bundle.sets)
            for member in example_set.members
        }
        if bundle.clusters is None or bundle.manifest.probes is None:
            self._search_index = _exact_search(bundle.vectors, np.flatnonzero(~self._is_excluded))
        else:
            self._search_index = ClusterIndex(bundle.vectors, bundle.clusters, bundle.manifest.probes).search

    @property
    def is_quick(self) -> bool:
        """Whether a search takes less than half a millisecond, so that it can run on an event loop."""
        return len(self._vectors) <= _MAX_QUICK_BANK

    def choose(self, vector: Vectors) -> tuple[Hit, ...]:
        """Return the retrieved examples to put into the prompt for a query. The result can be empty.

        In a bundle without example sets, the result is the result of `nearest`. In a bundle with example sets, the
        examples that `nearest` returns vote for a set. The result is then the examples that the chosen set shows, in
        the set's order.

        Args:
            vector: The vector of the query: (dimension,), of norm 1.

        Raises:
            ValueError: The vector has another dimension or is not finite.
        """
        hits = self.nearest(vector)
        return self._hits_of_set(choose_set(hits, self._set_of_member), vector) if self._sets else hits

    def shown_by_set(self) -> tuple[tuple[Hit, ...], ...]:
        """Return the examples that each set shows, as `choose` returns them, but with the similarity 0.

        The result is empty if the bundle has no sets.
        """
        no_query = np.zeros(self._vectors.shape[1], np.float32)
        return tuple(self._hits_of_set(number, no_query) for number in range(len(self._sets)))

    def _hits_of_set(self, number: int | None, vector: Vectors) -> tuple[Hit, ...]:
        positions = [] if number is None else [self._positions[name] for name in self._sets[number].shown]
        return tuple(Hit(self._examples[n], float(self._vectors[n] @ vector), n) for n in positions)

    def nearest(self, vector: Vectors) -> tuple[Hit, ...]:
        """Return the examples nearest to a query, the most similar first, at most `RetrievalPolicy.k` examples.

        The result contains no pinned example, no example below the minimum similarity, and no near-duplicate of a
        pinned example or of an example earlier in the result. Examples of equal similarity are in the order of the
        bank.

        Args:
            vector: The vector of the query: (dimension,), of norm 1.

        Raises:
            ValueError: The vector has another dimension or is not finite.
        """
        if vector.shape != self._vectors.shape[1:] or not np.isfinite(vector).all():
            raise ValueError(f"a query's vector must be finite and of shape {self._vectors.shape[1:]}")
        chosen: list[tuple[int, float]] = []
        for position, similarity in self._by_similarity(np.ascontiguousarray(vector, dtype=np.float32)):
            if len(chosen) >= self._policy.k or similarity < self._policy.minimum_similarity:
                break
            if not self._is_duplicate(position, [other for other, _ in chosen]):
                chosen.append((position, similarity))
        return tuple(Hit(self._examples[position], similarity, position) for position, similarity in chosen)

    def _by_similarity(self, vector: Vectors) -> Iterator[tuple[int, float]]:
        """Yield the position and the similarity of each example that is not excluded, the most similar first.

        The next, larger search runs only when the caller has consumed all results of the search before it.
        """
        total = len(self._vectors)
        yielded: set[int] = set()
        fetch = max(1, self._policy.k * _FETCH_FACTOR)
        while True:
            found = self._search(vector, min(fetch, total))
            # Further examples, which this search did not find, may have the same similarity as the last example found,
            # and may precede it in the bank. All examples of this similarity are left to the next, larger search.
            settled = found if fetch >= total else [pair for pair in found if pair[1] > found[-1][1]]
            yield from (pair for pair in settled if pair[0] not in yielded and not self._is_excluded[pair[0]])
            if fetch >= total:
                return
            yielded.update(position for position, _ in settled)
            fetch *= _FETCH_FACTOR

    def _search(self, vector: Vectors, count: int) -> list[tuple[int, float]]:
        # The search for a single query is slower on two threads than on one. OpenMP stores the number of threads
        # separately for each calling thread, so each search sets the number.
        faiss.omp_set_num_threads(1)
        similarities, positions = self._search_index(vector, count)
        found = zip(positions.tolist(), similarities.tolist(), strict=True)
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))

    def _is_duplicate(self, position: int, others: Sequence[int]) -> bool:
        similarities = self._vectors[list(others)] @ self._vectors[position]
        return bool(np.any(similarities >= self._policy.duplicate_similarity))


def pinned(bundle: Bundle) -> tuple[Example, ...]:
    """Return the pinned examples of a bundle, in the order of the bank."""
    return tuple(bundle.examples[position] for position in pinned_positions(bundle.examples))


def choose_set(hits: Sequence[Hit], set_of_member: Mapping[int, tuple[int, ExampleSet]]) -> int | None:
    """Return the number of the example set that wins the hits' vote, or None if no hit is a member of a set.

    Each hit votes for the set that it is a member of. The vote is the weight of the set times the fourth power of the
    hit's similarity. A hit below the minimum similarity of its set does not vote, with one exception: if every hit is
    below the minimum similarity of its set, all hits vote.

    The kind of sets (`ExampleSet.kind`) with the largest sum of votes is chosen first. Then the set of this kind with
    the largest sum of votes is chosen. If two kinds or two sets have equal sums, the kind or set with the most similar
    voting hit is chosen.

    Args:
        hits: The neighbours of the query, the most similar first.
        set_of_member: Maps the position of each member in the bank to the number of the member's set and this set.
    """
    neighbours = [(hit.similarity, *set_of_member[hit.position]) for hit in hits if hit.position in set_of_member]
    near = [neighbour for neighbour in neighbours if neighbour[0] >= neighbour[2].minimum_similarity]
    votes_by_kind: dict[str, float] = {}
    votes_by_set: dict[str, dict[int, float]] = {}
    for similarity, number, example_set in near or neighbours:
        kind = example_set.kind
        vote = example_set.weight * max(0.0, similarity) ** _VOTE_EXPONENT
        votes_by_kind[kind] = votes_by_kind.get(kind, 0.0) + vote
        of_kind = votes_by_set.setdefault(kind, {})
        of_kind[number] = of_kind.get(number, 0.0) + vote
    if not votes_by_kind:
        return None
    candidates = votes_by_set[max(votes_by_kind, key=lambda kind: votes_by_kind[kind])]
    return max(candidates, key=lambda number: candidates[number])


def retrieval_query(messages: Sequence[Message]) -> str:
    """Return the text with which examples are retrieved for a conversation: the beginning of its first user turn.

    The text is empty if the conversation has no user turn. Later turns do not change the text, so every request of a
    conversation gets the same examples. The prompt of each request therefore begins with the prompt of the request
    before it, which the prefix cache holds.
    """
    return next((message.text[:MAX_QUERY_CHARACTERS] for message in messages if message.role == "user"), "")


def _excluded_positions(bundle: Bundle) -> NDArray[np.bool_]:
    """Return a mask that is true for the examples that are never hits: pinned examples and their near-duplicates."""
    is_excluded = np.zeros(len(bundle.vectors), np.bool_)
    is_excluded[pinned_positions(bundle.examples)] = True
    similarities = bundle.vectors @ bundle.vectors[is_excluded].T
    is_excluded |= (similarities >= bundle.manifest.retrieval.duplicate_similarity).any(axis=1)
    return is_excluded


def _exact_search(vectors: Vectors, positions: NDArray[np.intp]) -> Search:
    """Return an exact search over the rows of `vectors` at `positions`."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors[positions])

    def search(vector: Vectors, count: int) -> tuple[Vectors, NDArray[np.int64]]:
        # FAISS requires a count of at least 1. If the index is empty, FAISS returns the row number -1 for this one row.
        similarities, rows = index.search(vector[np.newaxis], max(1, min(count, index.ntotal)))
        found = rows[0] >= 0
        return similarities[0][found], positions[rows[0][found]]

    return search
