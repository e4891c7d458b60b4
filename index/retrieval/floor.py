"""Measures the similarity floor of a bundle: the similarity below which a query counts as unlike every example.

The floor depends on the embedder and on the bank, so it is measured with queries that resemble the users' queries. This
module does not depend on files or embedders.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from index.counted import counted
from index.errors import BundleError
from index.retrieval.retriever import Retriever
from index.types import Vectors

_LOWEST: Final = -1.0  # the lowest possible cosine; it stands for a query for which the retriever finds no example
_STEPS: Final = 10_000  # the floor is rounded down to a multiple of 1 / _STEPS, so that people can read it


@dataclass(frozen=True, slots=True)
class MeasuredFloor:
    """A similarity floor, and the queries by which it was measured.

    Attributes:
        floor: The floor.
        queries: The number of queries.
        below: The number of queries that are below the floor.
        median: The median similarity of the queries to their most similar example.
    """

    floor: float
    queries: int
    below: int
    median: float


def measure_floor(retriever: Retriever, queries: Sequence[Vectors], share: float) -> MeasuredFloor:
    """Return a floor such that at most this share of the queries is below it.

    Args:
        retriever: Searches the bundle.
        queries: For each query, one vector for each of its passages (a long query has several passages). The queries
            should not be in the bank, because the most similar example of such a query is the query itself.
        share: The share of the queries that may be below the floor, from 0 to 1.

    Raises:
        BundleError: There are too few queries to measure the share.
    """
    needed = math.ceil(1 / share) if share > 0 else 1
    if len(queries) < needed:
        raise BundleError(
            f"too few queries. To measure a floor with at most a share of {share:g} of the queries below it, give at "
            f"least {counted(needed, 'query')} from outside the bank (given: {len(queries):,})"
        )
    similarities = sorted(_similarity(retriever, passages) for passages in queries)
    floor = math.floor(similarities[min(int(share * len(queries)), len(queries) - 1)] * _STEPS) / _STEPS
    below = sum(similarity < floor for similarity in similarities)
    return MeasuredFloor(max(_LOWEST, floor), len(queries), below, similarities[len(queries) // 2])


def _similarity(retriever: Retriever, passages: Vectors) -> float:
    """Return the highest similarity between any passage of a query and any example."""
    hits = [retriever.most_similar(vector) for vector in passages]
    return max([hit.similarity for hit in hits if hit is not None], default=_LOWEST)
