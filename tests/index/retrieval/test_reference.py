"""Compares the retriever with a plain implementation of the retrieval policy, which compares all pairs in Python."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from index.retrieval.retriever import Retriever
from index.types import Bundle, Clusters, ExampleSet, RetrievalPolicy, Retrieved, Vectors
from tests.index.retrieval.test_retriever import axes, bank, halves

Scored = tuple[int, float]

policies = st.builds(
    RetrievalPolicy,
    policy=st.sampled_from(["nearest", "set", "set_and_nearest"]),
    k=st.integers(0, 4),
    voters=st.integers(1, 12),
    minimum_similarity=st.sampled_from([-1.0, -0.5, 0.0, 0.5]),
    duplicate_similarity=st.sampled_from([0.5, 1.0]),
    similarity_floor=st.sampled_from([None, -0.5, 0.5, 1.0]),
    neutral_set=st.sampled_from([None, "1"]),
    max_nearest_tokens=st.sampled_from([None, 100]),
)
queries = st.lists(halves | axes | st.just(np.zeros(4, np.float32)), min_size=1, max_size=3)
vectors = st.lists(halves | axes, min_size=1, max_size=60)


def bundle_of(vectors: Sequence[Vectors], policy: RetrievalPolicy, pinned: Sequence[int], size: int) -> Bundle:
    """Return a bundle whose sets have `size` consecutive examples, none of them pinned.

    Each set shows its first two.
    """
    made = bank(vectors, policy, pinned)
    names = [example.id for example in made.examples]
    runs = [names[start : start + size] for start in range(0, len(names), size)]
    members = [[name for name in run if int(name) not in pinned] for run in runs]
    kinds = ("refusal", "other")
    sets = [
        ExampleSet(str(n), tuple(run[:2]), tuple(run), kinds[n % 2], weight=1.0 + n % 3, minimum_similarity=0.5)
        for n, run in enumerate(members)
    ]
    return replace(made, sets=tuple(sets))


def neighbours(bundle: Bundle, query: Vectors, count: int) -> list[Scored]:
    policy = bundle.manifest.retrieval
    similarity = (bundle.vectors @ bundle.vectors.T).tolist()
    to_query = (bundle.vectors @ query).tolist()
    pinned = [n for n, example in enumerate(bundle.examples) if example.pinned]
    chosen: list[int] = []
    for n in sorted(range(len(to_query)), key=lambda n: (-to_query[n], n)):
        is_near = not chosen or to_query[n] >= policy.minimum_similarity
        is_new = not any(similarity[n][other] >= policy.duplicate_similarity for other in (*pinned, *chosen))
        if n not in pinned and is_near and is_new:
            chosen.append(n)
    return [(n, to_query[n]) for n in chosen[:count]]


def vote(bundle: Bundle, near: Sequence[Scored]) -> str | None:
    """Return the name of the set that wins the vote."""
    owner = {int(name): one for one in bundle.sets for name in one.members}
    voters = [(owner[n], similarity) for n, similarity in near if n in owner]
    voters = [voter for voter in voters if voter[1] >= voter[0].minimum_similarity] or voters
    for group in ("kind", "name"):
        sums: dict[str, float] = {}
        for one, similarity in voters:
            sums[getattr(one, group)] = sums.get(getattr(one, group), 0.0) + one.weight * max(0.0, similarity) ** 4
        if not sums:
            return None
        winner = max(sums, key=lambda name: sums[name])
        voters = [voter for voter in voters if getattr(voter[0], group) == winner]
    return voters[0][0].name


def expected(bundle: Bundle, passages: Sequence[Vectors]) -> tuple[str, list[int], float | None, bool]:
    """Return the set, the nearest examples, the similarity, and whether the query is below the floor."""
    policy = bundle.manifest.retrieval
    names = [one.name for one in bundle.sets]
    neutral = policy.neutral_set if policy.neutral_set in names else None
    known = [passage for passage in passages if passage.any()]
    candidates = 0 if policy.policy == "set" else policy.k * (1 if policy.max_nearest_tokens is None else 4)
    count = max(1, candidates, policy.voters if policy.policy != "nearest" else 1)
    found = [neighbours(bundle, passage, count) for passage in known]
    best = max(found, key=lambda one: one[0][1] if one else -math.inf, default=[])
    similarity = best[0][1] if best else None
    floor = policy.similarity_floor
    if not known or (floor is not None and (similarity is None or similarity < floor)):
        return neutral or "", [], similarity, True
    near = [pair for pair in best if pair[1] >= policy.minimum_similarity]
    name = None if policy.policy == "nearest" else vote(bundle, near[: policy.voters]) or neutral
    return name or "", [n for n, _ in near[:candidates]], similarity, False


def summary(retrieved: Retrieved) -> tuple[str, list[int], float | None, bool]:
    nearest = [hit.position for hit in retrieved.nearest]
    return retrieved.set_name, nearest, retrieved.similarity, retrieved.is_below_floor


def check(bundle: Bundle, passages: Sequence[Vectors]) -> None:
    found = Retriever(bundle).choose_by_passages(np.stack(passages))
    assert summary(found) == expected(bundle, passages)
    shown = {one.name: [int(name) for name in one.shown] for one in bundle.sets}.get(found.set_name, [])
    assert [hit.position for hit in found.in_set] == shown
    limit = bundle.manifest.retrieval.duplicate_similarity
    assert found.covered == {
        hit.position
        for hit in found.nearest
        if any(n == hit.position or bundle.vectors[n] @ bundle.vectors[hit.position] >= limit for n in shown)
    }


@settings(max_examples=300)
@given(vectors, queries, policies, st.sets(st.integers(0, 59), max_size=3), st.integers(1, 20))
def test_result_equals_that_of_a_plain_implementation(
    vectors: list[Vectors], passages: list[Vectors], policy: RetrievalPolicy, pinned: set[int], size: int
) -> None:
    check(bundle_of(vectors, policy, sorted(pinned), size), passages)


@settings(max_examples=100)
@given(vectors, queries, policies, st.sets(st.integers(0, 59), max_size=3), st.integers(1, 20))
def test_result_from_clusters_that_are_all_searched_is_the_same(
    vectors: list[Vectors], passages: list[Vectors], policy: RetrievalPolicy, pinned: set[int], size: int
) -> None:
    made = bundle_of(vectors, policy, sorted(pinned), size)
    offsets = np.array(sorted({0, len(vectors) // 2, len(vectors)}), np.int64)
    clusters = Clusters(np.stack(vectors[: len(offsets) - 1]), offsets)
    everywhere = replace(made.manifest, probes=len(offsets) - 1)
    check(replace(made, manifest=everywhere, clusters=clusters), passages)
