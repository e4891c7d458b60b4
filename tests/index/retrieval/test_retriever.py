import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.retrieval.retriever import Retriever, pinned
from index.retrieval.selection import arrange
from index.types import Bundle, EmbedderSpec, Example, Manifest, RetrievalPolicy, Vectors

AXES = np.eye(4, dtype=np.float32)


def unit(*components: float) -> Vectors:
    vector = np.asarray(components, dtype=np.float32)
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def bank(vectors: Sequence[Vectors], policy: RetrievalPolicy, pinned_positions: Sequence[int] = ()) -> Bundle:
    """Return a bundle whose examples have their positions as ids."""
    examples = tuple(Example(str(n), f"q{n}", f"r{n}", pinned=n in pinned_positions) for n in range(len(vectors)))
    embedder = EmbedderSpec("words", "1", len(vectors[0]))
    manifest = Manifest(1, "n", "m", "query-answer", policy, {}, embedder, {}, {})
    return Bundle("id", manifest, "prompt", examples, np.stack(vectors))


def ids(bundle: Bundle, query: Vectors) -> list[str]:
    return [hit.example.id for hit in Retriever(bundle).choose(query).nearest]


def positions(retriever: Retriever, query: Vectors) -> set[int]:
    return {hit.position for hit in retriever.choose(query).nearest}


def by_brute_force(bundle: Bundle, query: Vectors) -> list[str]:
    """Apply the policy by comparing all pairs. The products of these vectors are exact in float32."""
    policy, vectors = bundle.manifest.retrieval, bundle.vectors
    shown = [n for n, example in enumerate(bundle.examples) if example.pinned]
    chosen: list[int] = []
    for n in sorted(range(len(vectors)), key=lambda n: (-float(vectors[n] @ query), n)):
        near = any(float(vectors[n] @ vectors[other]) >= policy.duplicate_similarity for other in (*shown, *chosen))
        if n not in shown and not near and float(vectors[n] @ query) >= policy.minimum_similarity:
            chosen.append(n)
    return [bundle.examples[n].id for n in chosen[: policy.k]]


# Vectors of norm 1 whose products are multiples of a quarter, which are exact in float32.
halves = st.lists(st.sampled_from([-0.5, 0.5]), min_size=4, max_size=4).map(lambda row: np.array(row, dtype=np.float32))
axes = st.sampled_from([*AXES, *-AXES])
policies = st.builds(
    RetrievalPolicy,
    k=st.integers(0, 6),
    minimum_similarity=st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]),
    duplicate_similarity=st.sampled_from([0.5, 1.0, 1.0, 1.0]),
)


@given(
    st.lists(halves | axes, min_size=1, max_size=60), halves | axes, policies, st.sets(st.integers(0, 59), max_size=3)
)
def test_hits_equal_those_of_brute_force(
    vectors: list[Vectors], query: Vectors, policy: RetrievalPolicy, pinned_positions: set[int]
) -> None:
    bundle = bank(vectors, policy, sorted(pinned_positions))
    assert ids(bundle, query) == by_brute_force(bundle, query)


def test_equal_similarities_are_in_the_order_of_the_bank() -> None:
    vectors = [unit(1, 1, 0, 0), unit(1, 0, 1, 0), unit(1, 0, 0, 1), unit(1, -1, 0, 0), unit(1, 0, -1, 0)]
    assert ids(bank(vectors, RetrievalPolicy(k=3)), AXES[0]) == ["0", "1", "2"]
    assert ids(bank(vectors[::-1], RetrievalPolicy(k=3)), AXES[0]) == ["0", "1", "2"]


def test_equal_similarities_keep_the_order_of_the_bank_across_fetches() -> None:
    # Of equally similar examples, FAISS keeps any: here, the two better examples displace the first one of the bank.
    axes = np.eye(40, dtype=np.float32)
    query = unit(*[1] * 38, 2, 3)
    assert ids(bank(list(axes), RetrievalPolicy(k=3, minimum_similarity=0)), query) == ["39", "38", "0"]


def test_more_examples_are_fetched_when_near_duplicates_fill_the_first_fetch() -> None:
    copies = [unit(1, 0.001 * n, 0, 0) for n in range(200)]
    vectors = [*copies, unit(1, 0, 1, 0), unit(1, 0, 0, 1)]
    assert ids(bank(vectors, RetrievalPolicy(k=3)), AXES[0]) == ["0", "200", "201"]


def test_example_below_the_minimum_similarity_is_not_a_hit() -> None:
    vectors = [unit(1, 1, 0, 0), unit(1, 3, 0, 0)]
    assert ids(bank(vectors, RetrievalPolicy(minimum_similarity=0.5)), AXES[0]) == ["0"]


def test_pinned_examples_and_their_near_duplicates_are_never_hits() -> None:
    vectors = [AXES[0], unit(1, 0.01, 0, 0), unit(1, 1, 0, 0)]
    bundle = bank(vectors, RetrievalPolicy(), pinned_positions=[0])
    assert ids(bundle, AXES[0]) == ["2"]
    assert [example.id for example in pinned(bundle)] == ["0"]


def test_pinned_example_is_not_a_hit_if_its_own_cosine_rounds_below_one() -> None:
    vectors = [unit(1, n, 0, 0) for n in range(1, 50)]
    rounded = next(vector for vector in vectors if vector @ vector < 1)
    assert ids(bank([rounded, AXES[0]], RetrievalPolicy(duplicate_similarity=1.0), [0]), rounded) == ["1"]


def test_bank_of_only_pinned_examples_has_no_hits() -> None:
    assert ids(bank([AXES[0], AXES[1]], RetrievalPolicy(), pinned_positions=[0, 1]), AXES[0]) == []


def test_similarities_are_cosines_most_similar_first() -> None:
    hits = Retriever(bank([unit(1, 1, 0, 0), AXES[0]], RetrievalPolicy())).choose(AXES[0]).nearest
    assert [hit.similarity for hit in hits] == pytest.approx([1.0, 0.5**0.5])


def test_arrange_puts_the_most_similar_last_or_first_or_restores_the_order_of_the_bank() -> None:
    vectors = [unit(1, 1, 0, 0), unit(1, 0, 0.1, 0), unit(1, 0, 0, 2)]
    hits = Retriever(bank(vectors, RetrievalPolicy())).choose(AXES[0]).nearest
    assert [hit.example.id for hit in hits] == ["1", "0", "2"]
    assert [example.id for example in arrange(hits, "similar_last")] == ["2", "0", "1"]
    assert [example.id for example in arrange(hits, "similar_first")] == ["1", "0", "2"]
    assert [example.id for example in arrange(hits, "canonical")] == ["0", "1", "2"]
    assert arrange((), "canonical") == ()


@pytest.mark.parametrize("vector", [AXES[0][:3], AXES, np.array([np.nan, 0, 0, 0], dtype=np.float32)])
def test_vector_of_another_shape_or_not_finite_is_refused(vector: Vectors) -> None:
    with pytest.raises(ValueError, match=r"must be finite|must be of shape"):
        Retriever(bank([AXES[0]], RetrievalPolicy())).choose(vector)


SEARCH = """
import sys
from index.bundle.bundle import default_bundle_directory, read_bundle
from index.retrieval.retriever import Retriever

bundle = read_bundle(default_bundle_directory())
assert Retriever(bundle).choose(bundle.vectors[0]).nearest
sys.exit("faiss" in sys.modules)
"""


def test_search_in_a_small_bank_does_not_load_faiss() -> None:
    assert subprocess.run([sys.executable, "-c", SEARCH], check=False).returncode == 0


def test_equal_vectors_have_equal_similarities_wherever_they_stand() -> None:
    vector = unit(*np.random.default_rng(1).standard_normal(37))
    hits = Retriever(bank([vector] * 23, RetrievalPolicy(k=23, duplicate_similarity=2.0))).choose(vector).nearest
    assert len({hit.similarity for hit in hits}) == 1
