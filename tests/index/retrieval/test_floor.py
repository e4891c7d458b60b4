"""Tests of the measured similarity floor: at most the given share of the queries is below it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.errors import BundleError
from index.retrieval.floor import measure_floor
from index.retrieval.retriever import Retriever
from index.types import RetrievalPolicy, Vectors
from tests.index.retrieval.test_retriever import AXES, bank

RETRIEVER = Retriever(bank([AXES[0], AXES[1]], RetrievalPolicy()))


def at(similarity: float) -> Vectors:
    """Return the vector of a query with this similarity to its most similar example."""
    return np.array([similarity, 0, 0, np.sqrt(1 - similarity**2)], dtype=np.float32)


@given(
    st.lists(st.floats(0, 1), min_size=20, max_size=60) | st.lists(st.just(0.25), min_size=20, max_size=30),
    st.sampled_from([0.0, 0.05, 0.1, 0.25, 0.5]),
)
def test_at_most_the_given_share_of_queries_is_below_the_floor(similarities: list[float], share: float) -> None:
    measured = measure_floor(RETRIEVER, [at(one)[np.newaxis] for one in similarities], share)
    found = [hit.similarity for one in similarities if (hit := RETRIEVER.most_similar(at(one)))]
    assert measured.below == sum(one < measured.floor for one in found) <= share * len(similarities)
    assert sum(one < measured.floor + 2e-4 for one in found) > share * len(similarities), "the floor could be higher"


def test_vector_without_direction_is_below_every_floor_but_the_lowest() -> None:
    vectors = [at(0.5)[np.newaxis]] * 19 + [np.zeros((1, 4), dtype=np.float32)]
    measured = measure_floor(RETRIEVER, vectors, 0.05)
    assert (measured.floor, measured.below, measured.queries) == (0.5, 1, 20)
    assert measure_floor(RETRIEVER, [*vectors[2:], *vectors[-1:] * 2], 0.05).floor == -1.0


def test_too_few_queries_are_an_error() -> None:
    with pytest.raises(BundleError, match=r"at least 20 queries from outside the bank \(given: 19\)"):
        measure_floor(RETRIEVER, [at(0.5)[np.newaxis]] * 19, 0.05)


def test_query_counts_with_the_passage_that_is_nearest_to_an_example() -> None:
    measured = measure_floor(RETRIEVER, [np.stack([at(0.1), at(0.6)])] * 20, 0.0)
    assert measured.floor == pytest.approx(0.6, abs=1e-3)
