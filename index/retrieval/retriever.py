"""Retrieves the examples for a query: the neighbours of its passages, the choice of an example set, and the floor.

This module does not depend on files or models.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from index.bundle.example_bank import pinned_positions
from index.bundle.sets_file import OTHER
from index.retrieval.search import BankSearch, Scored
from index.retrieval.vote import choose_set, is_clear
from index.types import Bundle, Example, Hit, Retrieved, Vectors

_MAX_QUICK_BANK = 5_000  # examples
# The first search finds this many more examples than are wanted, because near-duplicates are removed from its result.
_SPARE = 4
# If the policy limits the tokens of the nearest examples, the selection chooses from this many times k candidates,
# because it skips long candidates.
_CANDIDATES_FACTOR = 4
_MIN_NORM = 1e-6  # a vector of a smaller norm has no direction, so that its similarities mean nothing


class Retriever:
    """Finds the examples of a bundle that are nearest to a query. It is thread-safe."""

    def __init__(self, bundle: Bundle) -> None:
        self._policy = bundle.manifest.retrieval
        self._examples = bundle.examples
        self._vectors = bundle.vectors
        self._sets = bundle.sets
        positions = {example.id: n for n, example in enumerate(bundle.examples)} if bundle.sets else {}
        shown = [[positions[name] for name in one.shown] for one in bundle.sets]
        self._shown = [(numbers, bundle.vectors[numbers]) for numbers in shown]
        names = [one.name for one in bundle.sets]
        neutral = self._policy.neutral_set
        self._neutral = names.index(neutral) if neutral in names else None
        self._set_of_member = {
            positions[member]: (number, example_set)
            for number, example_set in enumerate(bundle.sets)
            for member in example_set.members
        }
        self._search = BankSearch(bundle, _excluded_positions(bundle))

    @property
    def is_quick(self) -> bool:
        """Whether a search takes less than half a millisecond, so that it can run on an event loop."""
        return len(self._vectors) <= _MAX_QUICK_BANK

    @cached_property
    def has_separate_tags(self) -> bool:
        """Whether a query can vote for a set of another kind than `other`, such as `refusal`."""
        return self._policy.policy != "nearest" and any(one.kind != OTHER for one in self._sets)

    def choose(self, vector: Vectors) -> Retrieved:
        """Return the retrieved examples for a query of one passage, as `choose_by_passages` does.

        Args:
            vector: The vector of the query: (dimension,), of norm 1.

        Raises:
            ValueError: As for `choose_by_passages`.
        """
        return self.choose_by_passages(vector[np.newaxis])

    def choose_by_passages(self, vectors: Vectors) -> Retrieved:
        """Return the retrieved examples for a query, from which `select_within_policy` selects those of a prompt.

        The passage that resembles an example most decides alone; of several such passages, the first one decides.
        The neighbours of this passage vote for an example set if the policy shows sets. If the passage is unlike every
        example, the neutral set is chosen, and there are no nearest examples. A zero vector counts as unlike every
        example: an embedder returns it for a text that it cannot read. If the policy has a similarity floor, a vector
        that is not finite counts as unlike every example, too.

        Args:
            vectors: The vectors of the query's passages: (passages, dimension), rows of norm 1.

        Raises:
            ValueError: The vectors have another dimension. Or a vector is not finite, and the policy has no similarity
                floor.
        """
        self._check_shape(vectors)
        usable = [vector for vector in vectors if self._is_comparable(vector)]
        if not usable:
            return self._with_set(Retrieved(is_below_floor=True), self._neutral, np.zeros_like(vectors[0]))
        count = self._count()
        vector, found = self._most_similar_passage(usable, count + _SPARE)
        neighbours = self._neighbours(vector, count, found)
        best = neighbours[0][1] if neighbours else None
        floor = self._policy.similarity_floor
        if floor is not None and (best is None or best < floor):
            return self._with_set(Retrieved(similarity=best, is_below_floor=True), self._neutral, vector)
        near = [one for one in neighbours if one[1] >= self._policy.minimum_similarity]
        nearest = tuple([self._hit(*one) for one in near[: self._candidates()]])
        number, kind = self._choose_set(near[: self._policy.voters])
        return self._with_set(Retrieved(nearest=nearest, similarity=best, separate_tag=kind), number, vector)

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
        self._check_shape(vector[np.newaxis])
        if not _is_usable(vector):
            return None
        _, found = self._most_similar_passage([vector], 1 + _SPARE)
        return self._hit(*found[0]) if found else None

    def _count(self) -> int:
        """Return how many neighbours of a query are needed."""
        voters = self._policy.voters if self._policy.policy != "nearest" else 1
        return max(1, voters, self._candidates())

    def _candidates(self) -> int:
        if not self._policy.shows_nearest:
            return 0
        return self._policy.k * (1 if self._policy.max_nearest_tokens is None else _CANDIDATES_FACTOR)

    def _choose_set(self, near: Sequence[Scored]) -> tuple[int | None, str]:
        """Return the number of a query's example set, and its kind if a clear vote chose another kind than `other`."""
        if self._policy.policy == "nearest":
            return None, ""
        number = choose_set(near, self._set_of_member)
        if number is None:
            return self._neutral, ""
        kind = self._sets[number].kind
        return number, kind if kind != OTHER and is_clear(near, self._set_of_member) else ""

    def _with_set(self, retrieved: Retrieved, number: int | None, vector: Vectors) -> Retrieved:
        """Return `retrieved` with the example set of this number; unchanged if the number is None."""
        if number is None:
            return retrieved
        positions, vectors = self._shown[number]
        in_set = [self._hit(*scored) for scored in zip(positions, (vectors @ vector).tolist(), strict=True)]
        near = [hit.position for hit in retrieved.nearest]
        duplicates: list[list[bool]] = self._are_duplicates(self._vectors[near], vectors).tolist()
        covered = [n for n, row in zip(near, duplicates, strict=True) if n in positions or any(row)]
        return replace(retrieved, in_set=tuple(in_set), covered=frozenset(covered), set_name=self._sets[number].name)

    def _hit(self, position: int, similarity: float) -> Hit:
        return Hit(self._examples[position], similarity, position)

    def _most_similar_passage(self, vectors: Sequence[Vectors], count: int) -> tuple[Vectors, Sequence[Scored]]:
        """Return the vector that resembles an example most, and its `count` nearest examples, the most similar first.

        All vectors are searched in one call, because a call costs more than the search of a small bank.
        """
        found = self._search.nearest(np.stack(vectors), count)
        best = max(range(len(found)), key=lambda row: found[row][0][1] if found[row] else -1.0)
        return vectors[best], found[best]

    def _neighbours(self, vector: Vectors, count: int, found: Sequence[Scored]) -> Sequence[Scored]:
        """Return the `count` nearest examples, the most similar first.

        The result contains no pinned example, and no near-duplicate of a pinned example or of an example earlier in
        the result. Examples of equal similarity are in the order of the bank. Only the first example may be below the
        minimum similarity. This example is needed because the similarity floor is compared with its similarity.

        Args:
            vector: The vector of the query.
            count: How many neighbours to return.
            found: The result of the first search.
        """
        candidates = self._near_enough(self._search.by_similarity(vector, found))
        chosen = list(islice(candidates, count))
        while len(distinct := self._distinct(chosen)) < len(chosen):
            chosen = distinct + list(islice(candidates, count - len(distinct)))
        return chosen

    def _near_enough(self, candidates: Iterable[Scored]) -> Iterator[Scored]:
        for number, candidate in enumerate(candidates):
            if number and candidate[1] < self._policy.minimum_similarity:
                return
            yield candidate

    def _distinct(self, chosen: list[Scored]) -> list[Scored]:
        """Return `chosen` without the near-duplicates of examples earlier in the result."""
        vectors = self._vectors[[position for position, _ in chosen]]
        near = self._are_duplicates(vectors, vectors)
        if np.count_nonzero(near) == np.count_nonzero(near.diagonal()):
            return chosen
        kept: list[int] = []
        for row, duplicates in enumerate(near.tolist()):
            if not any(duplicates[other] for other in kept):
                kept.append(row)
        return [chosen[row] for row in kept]

    def _are_duplicates(self, vectors: Vectors, others: Vectors) -> NDArray[np.bool_]:
        similarities: NDArray[np.bool_] = vectors @ others.T >= self._policy.duplicate_similarity
        return similarities

    def _is_comparable(self, vector: Vectors) -> bool:
        """Return whether a vector is compared with the examples.

        Raises:
            ValueError: The vector is not finite, and the policy has no similarity floor.
        """
        if _is_usable(vector):
            return True
        if self._policy.similarity_floor is not None or not vector.any():
            return False
        if not np.isfinite(vector).all():
            raise ValueError("a query's vector must be finite")
        return True

    def _check_shape(self, vectors: Vectors) -> None:
        if vectors.ndim != 2 or vectors.shape[1:] != self._vectors.shape[1:]:
            raise ValueError(f"a query's vector must be of shape {self._vectors.shape[1:]}, not {vectors.shape[1:]}")


def pinned(bundle: Bundle) -> tuple[Example, ...]:
    """Return the pinned examples of a bundle, in the order of the bank."""
    return tuple(bundle.examples[position] for position in pinned_positions(bundle.examples))


def _is_usable(vector: Vectors) -> bool:
    """Return whether a vector has a direction, so that its similarities mean something."""
    norm = math.sqrt(float(vector.dot(vector)))
    return math.isfinite(norm) and norm >= _MIN_NORM


def _excluded_positions(bundle: Bundle) -> NDArray[np.bool_]:
    """Return a mask that is true for the examples that are never hits: pinned examples and their near-duplicates."""
    is_excluded = np.zeros(len(bundle.vectors), np.bool_)
    is_excluded[pinned_positions(bundle.examples)] = True
    similarities = bundle.vectors @ bundle.vectors[is_excluded].T
    is_excluded |= (similarities >= bundle.manifest.retrieval.duplicate_similarity).any(axis=1)
    return is_excluded
