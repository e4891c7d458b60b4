"""Counts the votes of a query's neighbours for example sets. This module does not depend on vectors."""

from collections.abc import Mapping, Sequence

from index.types import ExampleSet

# The exponent of the similarity in a vote. A neighbour with twice the similarity has a vote that is 16 times as large.
_VOTE_EXPONENT = 4

SetOfMember = Mapping[int, tuple[int, ExampleSet]]
"""Maps each member (its position in the bank) to its set, as a pair: the number of the set, and the set."""


def choose_set(hits: Sequence[tuple[int, float]], set_of_member: SetOfMember) -> int | None:
    """Return the number of the example set that wins the hits' vote, or None if no hit is a member of a set.

    Each hit votes for the set that it is a member of. The vote is the weight of the set times the fourth power of the
    hit's similarity. A hit below the minimum similarity of its set does not vote, with one exception: if every hit is
    below the minimum similarity of its set, all hits vote.

    The kind of sets (`ExampleSet.kind`) with the largest sum of votes is chosen first. Then the set of this kind with
    the largest sum of votes is chosen. If two kinds or two sets have equal sums, the kind or set with the most similar
    voting hit is chosen.

    Args:
        hits: The neighbours of the query, the most similar first: the position of each in the bank, and its similarity.
        set_of_member: The sets of the members.
    """
    neighbours = [(similarity, *set_of_member[position]) for position, similarity in hits if position in set_of_member]
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


def is_clear(hits: Sequence[tuple[int, float]], set_of_member: SetOfMember) -> bool:
    """Return whether the vote of the hits is clear: at least one hit reaches the minimum similarity of its set."""
    voters = [(similarity, set_of_member[position][1]) for position, similarity in hits if position in set_of_member]
    return any(similarity >= example_set.minimum_similarity for similarity, example_set in voters)
