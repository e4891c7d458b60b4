"""Sorts the vectors of a large bank (more than 50,000 examples) into clusters, and searches the clusters.

A search compares the query with every centroid. It then compares the query with the vectors of the nearest clusters
only (an inverted file: Sivic and Zisserman, ICCV 2003). The vectors of one cluster are consecutive rows of vectors.npy.
FAISS's IndexIVFFlat searches in the same way, but copies all vectors into the memory of each process. Here all workers
share one file that is mapped into memory. This module does not depend on texts or retrieval policies.
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
_MAX_ROWS_PER_CENTROID: Final = 64  # in the training sample of k-means. More rows did not increase the recall
_RECALL_NEIGHBOURS: Final = 3  # the recall is measured on this many nearest neighbours of each sampled query
_MAX_SAMPLED_QUERIES: Final = 2_000
# The minimum recall for queries of the bank itself. With this minimum, the recall for users' queries that resemble the
# bank's queries is 0.98.
_MIN_RECALL: Final = 0.9825
_MIN_PROBED_SHARE: Final = 0.05  # each search looks into at least this share of all clusters


class ClusterIndex:
    """Finds the vectors of a bank that are nearest to a query's vector. Several threads may search at the same time.

    A search looks only into the clusters whose centroids are nearest to the query, so it may miss a near vector.
    """

    def __init__(self, vectors: Vectors, clusters: Clusters, probes: int) -> None:
        self._vectors = vectors
        self._offsets = clusters.offsets
        self._probes = probes
        self._centroids = faiss.IndexFlatIP(vectors.shape[1])
        self._centroids.add(clusters.centroids)

    def search(self, vector: Vectors, count: int) -> tuple[Vectors, NDArray[np.int64]]:
        """Return the similarities and the row numbers of the `count` nearest vectors, in any order.

        If the searched clusters have fewer than `count` rows in all, the number of searched clusters is doubled until
        they have at least `count` rows.

        Args:
            vector: The query's vector: (dimension,) float32, contiguous.
            count: How many rows to return. If the bank has fewer rows, all of them are returned.
        """
        # The search for a single query is slower on two threads than on one. OpenMP stores the number of threads
        # separately for each calling thread, so each search sets the number.
        faiss.omp_set_num_threads(1)
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
        """Return the similarities and the row numbers of all vectors in `spans`."""
        # This FAISS function takes half the time of a NumPy product, and it uses only the calling thread.
        filled = [(start, stop) for start, stop in spans if stop > start]
        similarities = np.empty(sum(stop - start for start, stop in filled), np.float32)
        query, at = faiss.swig_ptr(vector), 0
        for start, stop in filled:
            out, rows = faiss.swig_ptr(similarities[at:]), faiss.swig_ptr(self._vectors[start:stop])
            faiss.fvec_inner_products_ny(out, query, rows, len(vector), stop - start)  # type: ignore[attr-defined]
            at += stop - start
        return similarities, np.concatenate([np.arange(*span) for span in filled])


def sort_into_clusters(vectors: Vectors) -> tuple[NDArray[np.intp], Clusters]:
    """Divide n vectors into 4 sqrt(n) clusters by spherical k-means. The same vectors give the same result.

    Returns:
        The row numbers of the vectors in the order in which the vectors must be written, and the clusters of the
        vectors in this order.
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
    """Divide vectors into `count` clusters. Returns the number of each vector's cluster, and the centroids (norm 1).

    k-means runs several times, each time from different initial centroids. The result of the best run is returned.
    """
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
    """Return how many clusters each search must look into to find 98.25% of the three nearest neighbours.

    A sample of the bank's own rows serves as queries. A search finds a neighbour if it looks into the neighbour's
    cluster. It looks into the clusters in the order of the similarity of their centroids to the query. The number of
    clusters that it must look into is therefore the position of the neighbour's cluster in this order.

    The result is at least a twentieth of all clusters, because the sample can give too small a number. In a bank of
    paraphrases, a row's neighbours are in the one or two clusters nearest to the row, but the neighbours of a user's
    query are spread over more clusters (docs/benchmarks/retrieval.md has measurements).
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
