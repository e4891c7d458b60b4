"""Retrieves the examples for a query: a vector search with FAISS, the choice of an example set, and the floor.

A bank of up to 50,000 examples is searched exactly. The vectors of a larger bank are sorted into clusters
(index/bundle/clusters.py). The search of a larger bank reads only the clusters nearest to the query, and may miss a
neighbour. The FAISS index is built in memory from the bundle's vectors and is never read from a file. This module does
not depend on files or models.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import faiss
import numpy as np
from numpy.typing import NDArray

from index.bundle.clusters import ClusterIndex
from index.bundle.example_bank import pinned_positions
from index.retrieval.vote import choose_set
from index.types import Bundle, Example, Hit, Message, Retrieved, Vectors

_MAX_QUICK_BANK = 5_000
# The first search finds this many times the wanted examples, because excluded examples and near-duplicates are removed
# from its result. Each further search finds this many times as many examples as the search before it.
_FETCH_FACTOR = 4
# If the policy limits the tokens of the nearest part, the selection chooses from this many times k candidates, because
# it skips long ones.
_CANDIDATES_FACTOR = 4
_MIN_NORM = 1e-6  # a vector of a smaller norm has no direction, so that its similarities mean nothing

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
        positions = {example.id: n for n, example in enumerate(bundle.examples)} if bundle.sets else {}
        self._shown = [[positions[name] for name in one.shown] for one in bundle.sets]
        names = [one.name for one in bundle.sets]
        neutral = self._policy.neutral_set
        self._neutral = names.index(neutral) if neutral in names else None
        self._set_of_member = {
            positions[member]: (number, example_set)
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

    def choose(self, vector: Vectors) -> Retrieved:
        """Return the retrieved examples for a query, from which `select_within_policy` selects those of a prompt.

        The neighbours of the query vote for an example set if the policy shows sets. If the query is unlike every
        example, the neutral set is chosen, and there are no nearest examples. A zero vector counts as unlike every
        example: an embedder returns it for a text that it cannot read. If the policy has a similarity floor, a vector
        that is not finite counts as unlike every example, too.

        Args:
            vector: The vector of the query: (dimension,), of norm 1.

        Raises:
            ValueError: The vector has another dimension. Or it is not finite, and the policy has no similarity floor.
        """
        self._check_shape(vector)
        floor = self._policy.similarity_floor
        if not _is_usable(vector) and (floor is not None or not vector.any()):
            return self._with_set(Retrieved(is_below_floor=True), self._neutral, np.zeros_like(vector))
        hits = self._neighbours(vector, self._count())
        best = hits[0].similarity if hits else None
        if floor is not None and (best is None or best < floor):
            return self._with_set(Retrieved(similarity=best, is_below_floor=True), self._neutral, vector)
        near = [hit for hit in hits if hit.similarity >= self._policy.minimum_similarity]
        retrieved = Retrieved(nearest=tuple(near[: self._candidates()]), similarity=best)
        return self._with_set(retrieved, self._choose_set(near), vector)

    def choose_by_passages(self, vectors: Vectors) -> Retrieved:
        """Return the retrieved examples for the passage that resembles an example most.

        Args:
            vectors: The vectors of the query's passages: (passages, dimension), rows of norm 1.

        Raises:
            ValueError: As for `choose`.
        """
        found = [self.choose(vector) for vector in vectors]
        return max(found, key=lambda retrieved: -1.0 if retrieved.similarity is None else retrieved.similarity)

    def shown_by_set(self) -> tuple[Retrieved, ...]:
        """Return what `choose` returns for each set that it can choose, with the similarity 0 and no nearest examples.

        The result is empty if the policy shows no sets.
        """
        no_query = np.zeros(self._vectors.shape[1], np.float32)
        is_nearest = self._policy.policy == "nearest"
        numbers = [self._neutral] if is_nearest else range(len(self._sets))
        return tuple([self._with_set(Retrieved(), number, no_query) for number in numbers if number is not None])

    def most_similar(self, vector: Vectors) -> Hit | None:
        """Return the most similar example to a query. The similarity floor is compared with its similarity.

        The result is None if the vector is not finite or is zero, or if the bank has only pinned examples.

        Args:
            vector: The vector of the query: (dimension,), of norm 1.

        Raises:
            ValueError: The vector has another dimension.
        """
        self._check_shape(vector)
        hits = self._neighbours(vector, 1) if _is_usable(vector) else ()
        return hits[0] if hits else None

    def _count(self) -> int:
        """Return how many neighbours of a query are needed."""
        voters = self._policy.voters if self._policy.policy != "nearest" else 1
        return max(1, voters, self._candidates())

    def _candidates(self) -> int:
        if not self._policy.shows_nearest:
            return 0
        return self._policy.k * (1 if self._policy.max_nearest_tokens is None else _CANDIDATES_FACTOR)

    def _choose_set(self, near: Sequence[Hit]) -> int | None:
        if self._policy.policy == "nearest":
            return None
        number = choose_set(near[: self._policy.voters], self._set_of_member)
        return self._neutral if number is None else number

    def _with_set(self, retrieved: Retrieved, number: int | None, vector: Vectors) -> Retrieved:
        """Return `retrieved` with the example set of this number; unchanged if the number is None."""
        if number is None:
            return retrieved
        positions = self._shown[number]
        similarities = (self._vectors[positions] @ vector).tolist()
        in_set = [Hit(self._examples[n], value, n) for n, value in zip(positions, similarities, strict=True)]
        near = [hit.position for hit in retrieved.nearest]
        covered = frozenset(n for n in near if n in positions or self._is_duplicate(n, positions))
        return replace(retrieved, in_set=tuple(in_set), covered=covered, set_name=self._sets[number].name)

    def _neighbours(self, vector: Vectors, count: int) -> tuple[Hit, ...]:
        """Return the `count` nearest examples, the most similar first.

        The result contains no pinned example, and no near-duplicate of a pinned example or of an example earlier in
        the result. Examples of equal similarity are in the order of the bank. Only the first example may be below the
        minimum similarity: the similarity floor is compared with its similarity.
        """
        if not np.isfinite(vector).all():
            raise ValueError("a query's vector must be finite")
        chosen: list[tuple[int, float]] = []
        for position, similarity in self._by_similarity(np.ascontiguousarray(vector, dtype=np.float32), count):
            if len(chosen) >= count or (chosen and similarity < self._policy.minimum_similarity):
                break
            if not self._is_duplicate(position, [other for other, _ in chosen]):
                chosen.append((position, similarity))
        return tuple(Hit(self._examples[position], similarity, position) for position, similarity in chosen)

    def _check_shape(self, vector: Vectors) -> None:
        if vector.shape != self._vectors.shape[1:]:
            raise ValueError(f"a query's vector must be of shape {self._vectors.shape[1:]}, not {vector.shape}")

    def _by_similarity(self, vector: Vectors, count: int) -> Iterator[tuple[int, float]]:
        """Yield the position and the similarity of each example that is not excluded, the most similar first.

        The first search is for a multiple of `count` examples. The next, larger search runs only when the caller has
        consumed all results of the search before it.
        """
        total = len(self._vectors)
        yielded: set[int] = set()
        fetch = max(1, count * _FETCH_FACTOR)
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


def retrieval_query(messages: Sequence[Message]) -> str:
    """Return the text with which examples are retrieved for a conversation: its first user turn.

    The text is empty if the conversation has no user turn. Later turns do not change the text, so every request of a
    conversation gets the same examples. The prompt of each request therefore begins with the prompt of the request
    before it, which the prefix cache holds.
    """
    return next((message.text for message in messages if message.role == "user"), "")


def _is_usable(vector: Vectors) -> bool:
    """Return whether a vector has a direction, so that its similarities mean something."""
    norm = float(np.linalg.norm(vector))
    return math.isfinite(norm) and norm >= _MIN_NORM


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
