"""Searches the vectors of a bank.

A bank of up to 50,000 examples is searched exactly, with numpy. The vectors of a larger bank are sorted into clusters
(index/bundle/clusters.py). The search of a larger bank reads only the clusters nearest to the query, and may miss a
neighbour. It uses FAISS. FAISS is imported only for such a bank, because it takes 40 MB of memory. This module does not
depend on files or models.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from index.types import Bundle, Vectors

if TYPE_CHECKING:
    from index.bundle.clusters import ClusterIndex

# Each further search finds this many times as many examples as the search before it.
_FETCH_FACTOR = 4

Scored = tuple[int, float]
"""The position of an example in the bank, and its similarity to a query."""

_Found = tuple[Vectors, NDArray[np.int64]]
"""Similarities, and the positions of the examples that have them, in any order."""

_Search = Callable[[Vectors, int], Sequence[_Found]]
"""A function of vectors and a count n. It returns the n nearest examples of each vector."""


class BankSearch:
    """Finds the examples of a bank that are nearest to a vector. It is thread-safe.

    Args:
        bundle: The bundle with the bank.
        is_excluded: A mask that is true for the examples that are never found.
    """

    def __init__(self, bundle: Bundle, is_excluded: NDArray[np.bool_]) -> None:
        self._total = int(np.count_nonzero(~is_excluded))
        if bundle.clusters is None or bundle.manifest.probes is None:
            self._find = _exact_search(bundle.vectors, np.flatnonzero(~is_excluded))
        else:
            # Imported here because the import takes time and memory, and few banks are so large.
            from index.bundle.clusters import ClusterIndex

            index = ClusterIndex(bundle.vectors, bundle.clusters, bundle.manifest.probes)
            self._find = _search_in_clusters(index, is_excluded)

    def nearest(self, vectors: Vectors, count: int) -> Sequence[Sequence[Scored]]:
        """Return at least the `count` nearest examples of each vector, the most similar first.

        If the bank has fewer examples, the result has all of them. Examples of equal similarity are in the order of
        the bank.

        Args:
            vectors: The vectors: (n, dimension).
            count: The number of examples, at least 1.
        """
        return [
            sorted(zip(positions.tolist(), similarities.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
            for similarities, positions in self._find(np.ascontiguousarray(vectors, dtype=np.float32), count)
        ]

    def by_similarity(self, vector: Vectors, found: Sequence[Scored]) -> Iterator[Scored]:
        """Yield all examples, the most similar first.

        The next, larger search runs only when the caller has consumed all results of the search before it.

        Args:
            vector: The vector: (dimension,).
            found: What `nearest` found for this vector.
        """
        yielded: set[int] = set()
        fetch = len(found)
        while fetch < self._total:
            # Further examples, which this search did not find, may have the same similarity as the last example found,
            # and may precede it in the bank. All examples of this similarity are left to the next, larger search.
            settled = [pair for pair in found if pair[1] > found[-1][1]]
            yield from (pair for pair in settled if pair[0] not in yielded)
            yielded.update(position for position, _ in settled)
            fetch *= _FETCH_FACTOR
            found = self.nearest(vector[np.newaxis], fetch)[0]
        yield from (pair for pair in found if pair[0] not in yielded)


def _exact_search(vectors: Vectors, positions: NDArray[np.intp]) -> _Search:
    """Return an exact search over the rows of `vectors` at `positions`."""
    rows = vectors[positions]

    def search_one(query: Vectors, count: int) -> _Found:
        # A product of a matrix and a vector would use all cores for a large bank, and might give equal rows different
        # similarities. `vecdot` uses the calling thread, and computes each row in the same way.
        similarities = np.vecdot(rows, query)
        if count >= len(rows):
            return similarities, positions
        best = np.argpartition(-similarities, count - 1)[:count]
        return similarities[best], positions[best]

    return lambda queries, count: [search_one(query, count) for query in queries]


def _search_in_clusters(index: "ClusterIndex", is_excluded: NDArray[np.bool_]) -> _Search:
    """Return a search in clusters, which finds no excluded example."""
    excluded = int(np.count_nonzero(is_excluded))

    def search_one(query: Vectors, count: int) -> _Found:
        similarities, positions = index.search(query, count + excluded)
        is_kept = ~is_excluded[positions]
        return similarities[is_kept], positions[is_kept]

    return lambda queries, count: [search_one(query, count) for query in queries]
