"""Vectors sorted by cluster: how they are sorted when a large bank is written, and how they are searched.

A search compares the query with every centroid, then with the rows of the few best clusters, each a slice of one file
(the inverted file of Sivic and Zisserman, ICCV 2003; FAISS's IndexIVFFlat, which keeps its lists in private memory,
where a mapped file is shared by all workers and ready at once). Knows no text and no policy.
"""

import math
from typing import Final

import faiss
import numpy as np
from numpy.typing import NDArray

from index.types import Clusters, Vectors

_SEED: Final = 1
_ROUNDS: Final = 12
_RUNS: Final = 8
_ROWS_PER_CENTROID: Final = 64  # that k-means sees: more of them gained no recall
_NEAREST: Final = 3
_QUERIES: Final = 2_000
_RECALL: Final = 0.9825  # over the bank's own queries, so that others like them have 0.98
_FEWEST_PROBES: Final = 0.05  # of the clusters


class ClusterIndex:
    """Finds the rows nearest to a vector among those of the clusters nearest to it. Safe to use from many threads."""

    def __init__(self, vectors: Vectors, clusters: Clusters, probes: int) -> None:
        self._vectors = vectors
        self._offsets = clusters.offsets
        self._probes = probes
        self._centroids = faiss.IndexFlatIP(vectors.shape[1])
        self._centroids.add(clusters.centroids)

    def search(self, vector: Vectors, count: int) -> tuple[Vectors, NDArray[np.int64]]:
        """Similarities and rows of the `count` best, in no order, of the usual number of clusters, or of as many as
        have `count` rows; asked for all rows it compares all. `vector`: (dimension,) float32, contiguous."""
        total = self._centroids.ntotal
        probes = min(self._probes, total)
        spans = self._spans(vector, probes)
        while sum(stop - start for start, stop in spans) < min(count, len(self._vectors)):
            probes = min(2 * probes, total)
            spans = self._spans(vector, probes)
        similarities, rows = self._compare(vector, spans)
        if count < len(rows):
            best = np.argpartition(-similarities, count - 1)[:count]
            return similarities[best], rows[best]
        return similarities, rows

    def _spans(self, vector: Vectors, probes: int) -> list[tuple[int, int]]:
        _, nearest = self._centroids.search(vector[np.newaxis], probes)
        found = np.sort(nearest[0])
        return list(zip(self._offsets[found].tolist(), self._offsets[found + 1].tolist(), strict=True))

    def _compare(self, vector: Vectors, spans: list[tuple[int, int]]) -> tuple[Vectors, NDArray[np.int64]]:
        """FAISS's own kernel, slice by slice where they lie: half the time of NumPy's product, and on one thread."""
        filled = [(start, stop) for start, stop in spans if stop > start]
        similarities = np.empty(sum(stop - start for start, stop in filled), np.float32)
        query, at = faiss.swig_ptr(vector), 0
        for start, stop in filled:
            out, rows = faiss.swig_ptr(similarities[at:]), faiss.swig_ptr(self._vectors[start:stop])
            faiss.fvec_inner_products_ny(out, query, rows, len(vector), stop - start)  # type: ignore[attr-defined]
            at += stop - start
        return similarities, np.concatenate([np.arange(*span) for span in filled])


def sort_into_clusters(vectors: Vectors) -> tuple[NDArray[np.intp], Clusters]:
    """The order in which `vectors` are to stand, and their clusters in that order: 4 sqrt(n) of them, by k-means on
    the sphere, the same for the same vectors."""
    count = min(len(vectors), round(4 * math.sqrt(len(vectors))))
    means = faiss.Kmeans(
        vectors.shape[1],
        count,
        niter=_ROUNDS,
        seed=_SEED,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=_ROWS_PER_CENTROID,
    )
    means.train(vectors)
    found = np.asarray(means.centroids, np.float32)
    centroids = np.ascontiguousarray(found / np.linalg.norm(found, axis=1, keepdims=True))
    own = faiss.knn(vectors, centroids, 1, metric=faiss.METRIC_INNER_PRODUCT)[1][:, 0]
    order = np.argsort(own, kind="stable")
    return order, Clusters(centroids, np.searchsorted(own[order], np.arange(count + 1)).astype(np.int64))


def means_on_the_sphere(vectors: Vectors, count: int) -> tuple[NDArray[np.int64], Vectors]:
    """The cluster of each of few vectors, and the `count` centroids (norm 1): the best of some runs of k-means."""
    means = faiss.Kmeans(
        vectors.shape[1], count, niter=2 * _ROUNDS, nredo=_RUNS, seed=_SEED, spherical=True, min_points_per_centroid=1
    )
    means.train(vectors)
    centroids = np.asarray(means.centroids, np.float32)
    return faiss.knn(vectors, centroids, 1, metric=faiss.METRIC_INNER_PRODUCT)[1][:, 0], centroids


def choose_probes(vectors: Vectors, clusters: Clusters) -> int:
    """How many clusters a search needs to find 0.9825 of the three nearest, over a sample of the bank's own rows, each
    asked for its nearest others. A row is found if its cluster is searched, so no search is needed to tell.

    A twentieth of the clusters at least: in a bank of paraphrases every row is found in the first cluster or two, and
    what people ask is not. They need more than the bank's own rows do in any case (docs/bundles.md says how many).
    """
    asked = np.random.default_rng(_SEED).choice(len(vectors), min(_QUERIES, len(vectors)), replace=False)
    queries = np.ascontiguousarray(vectors[asked])
    _, found = faiss.knn(queries, vectors, min(_NEAREST + 1, len(vectors)), metric=faiss.METRIC_INNER_PRODUCT)
    ranks = np.argsort(np.argsort(-(queries @ clusters.centroids.T), axis=1, kind="stable"), axis=1)
    others = [(row, other) for row, near in enumerate(found) for other in near if other != asked[row]]
    fewest = math.ceil(_FEWEST_PROBES * len(clusters.centroids))
    if not others:
        return fewest
    owners = np.searchsorted(clusters.offsets, [other for _, other in others], side="right") - 1
    needed = np.sort(ranks[[row for row, _ in others], owners]) + 1
    return max(fewest, int(needed[math.ceil(_RECALL * len(needed)) - 1]))
