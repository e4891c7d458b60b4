"""Sorts the vectors of a large bank into clusters, and searches them.

A search compares the query with every centroid, then with the rows of the nearest clusters, each a slice of one file
(an inverted file: Sivic and Zisserman, ICCV 2003). FAISS's IndexIVFFlat does the same but keeps its lists in private
memory; a mapped file is shared by all workers and needs no loading. This module does not depend on texts or policies.
"""

import math
from typing import Final

import faiss
import numpy as np
from numpy.typing import NDArray

from index.types import Clusters, Vectors

_SEED: Final = 1
_KMEANS_ITERATIONS: Final = 12
_KMEANS_RESTARTS: Final = 8
_MAX_ROWS_PER_CENTROID: Final = 64  # in the sample of k-means; more rows did not increase the recall
_RECALL_NEIGHBOURS: Final = 3
_MAX_SAMPLED_QUERIES: Final = 2_000
_MIN_RECALL: Final = 0.9825  # for the bank's own queries, so that similar queries have 0.98
_MIN_PROBED_SHARE: Final = 0.05  # of the clusters


class ClusterIndex:
    """Finds the rows nearest to a vector in the clusters nearest to it. It is thread-safe."""

    def __init__(self, vectors: Vectors, clusters: Clusters, probes: int) -> None:
        self._vectors = vectors
        self._offsets = clusters.offsets
        self._probes = probes
        self._centroids = faiss.IndexFlatIP(vectors.shape[1])
        self._centroids.add(clusters.centroids)

    def search(self, vector: Vectors, count: int) -> tuple[Vectors, NDArray[np.int64]]:
        """Return the similarities and the rows of the `count` nearest vectors, in any order.

        More clusters than usual are searched if they have fewer than `count` rows together.

        Args:
            vector: (dimension,) float32, contiguous.
            count: How many rows to return; all rows if there are not more.
        """
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
        """Return the similarities and the rows of all vectors in `spans`."""
        # FAISS's kernel, called for each slice, takes half the time of a NumPy product and runs on one thread.
        filled = [(start, stop) for start, stop in spans if stop > start]
        similarities = np.empty(sum(stop - start for start, stop in filled), np.float32)
        query, at = faiss.swig_ptr(vector), 0
        for start, stop in filled:
            out, rows = faiss.swig_ptr(similarities[at:]), faiss.swig_ptr(self._vectors[start:stop])
            faiss.fvec_inner_products_ny(out, query, rows, len(vector), stop - start)  # type: ignore[attr-defined]
            at += stop - start
        return similarities, np.concatenate([np.arange(*span) for span in filled])


def sort_into_clusters(vectors: Vectors) -> tuple[NDArray[np.intp], Clusters]:
    """Cluster n vectors into 4 sqrt(n) clusters by spherical k-means. The result is the same for the same vectors.

    Returns:
        The order in which the vectors are to be written, and their clusters in that order.
    """
    count = min(len(vectors), round(4 * math.sqrt(len(vectors))))
    means = faiss.Kmeans(
        vectors.shape[1],
        count,
        niter=_KMEANS_ITERATIONS,
        seed=_SEED,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=_MAX_ROWS_PER_CENTROID,
    )
    means.train(vectors)
    found = np.asarray(means.centroids, np.float32)
    centroids = np.ascontiguousarray(found / np.linalg.norm(found, axis=1, keepdims=True))
    own = faiss.knn(vectors, centroids, 1, metric=faiss.METRIC_INNER_PRODUCT)[1][:, 0]
    order = np.argsort(own, kind="stable")
    return order, Clusters(centroids, np.searchsorted(own[order], np.arange(count + 1)).astype(np.int64))


def spherical_k_means(vectors: Vectors, count: int) -> tuple[NDArray[np.int64], Vectors]:
    """Return the cluster of each vector and the `count` centroids (norm 1): the best of several k-means runs."""
    means = faiss.Kmeans(
        vectors.shape[1],
        count,
        niter=2 * _KMEANS_ITERATIONS,
        nredo=_KMEANS_RESTARTS,
        seed=_SEED,
        spherical=True,
        min_points_per_centroid=1,
    )
    means.train(vectors)
    centroids = np.asarray(means.centroids, np.float32)
    return faiss.knn(vectors, centroids, 1, metric=faiss.METRIC_INNER_PRODUCT)[1][:, 0], centroids


def choose_probes(vectors: Vectors, clusters: Clusters) -> int:
    """Return how many clusters a search must look into to find 0.9825 of the three nearest neighbours.

    The recall is measured with a sample of the bank's own rows as queries. A neighbour is found if its cluster is
    searched, so the measurement needs no search. The result is at least a twentieth of the clusters: in a bank of
    paraphrases, each row is found in the first one or two clusters, but queries of users are not. These need more
    clusters in any case (docs/bundles.md has measurements).
    """
    sample = np.random.default_rng(_SEED).choice(len(vectors), min(_MAX_SAMPLED_QUERIES, len(vectors)), replace=False)
    queries = np.ascontiguousarray(vectors[sample])
    _, found = faiss.knn(queries, vectors, min(_RECALL_NEIGHBOURS + 1, len(vectors)), metric=faiss.METRIC_INNER_PRODUCT)
    ranks = np.argsort(np.argsort(-(queries @ clusters.centroids.T), axis=1, kind="stable"), axis=1)
    others = [(row, other) for row, near in enumerate(found) for other in near if other != sample[row]]
    min_probes = math.ceil(_MIN_PROBED_SHARE * len(clusters.centroids))
    if not others:
        return min_probes
    owners = np.searchsorted(clusters.offsets, [other for _, other in others], side="right") - 1
    needed = np.sort(ranks[[row for row, _ in others], owners]) + 1
    return max(min_probes, int(needed[math.ceil(_MIN_RECALL * len(needed)) - 1]))
