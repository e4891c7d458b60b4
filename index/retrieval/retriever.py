"""Which examples a query is shown: vectors -> FAISS -> hits, or the set that they vote for. Knows no file and no model.

The search is exact, but that of a large bank, sorted into clusters (index/bundle/clusters.py), which may miss a
neighbour. The
index lives in memory and is built from the bundle's vectors, never read from a file.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import faiss
import numpy as np
from numpy.typing import NDArray

from index.bundle.clusters import ClusterIndex
from index.bundle.example_bank import pinned_positions
from index.types import Bundle, Example, ExampleSet, Hit, Message, Vectors

QUERY_CHARACTERS = 2_000
_QUICK_LIMIT = 5_000
# How many more than k are fetched at first, for near-duplicates to be dropped from.
_FETCH_FACTOR = 4
# What a vote counts grows with the voter's similarity to this power: twice as similar counts 16 times.
_VOTE_POWER = 4

Search = Callable[[Vectors, int], tuple[Vectors, NDArray[np.int64]]]
"""The similarities and positions of the `count` nearest to a vector, in no order."""


class Retriever:
    """Finds a bundle's examples nearest to a query. Safe to use from several threads at once."""

    def __init__(self, bundle: Bundle) -> None:
        self._policy = bundle.manifest.retrieval
        self._examples = bundle.examples
        self._vectors = bundle.vectors
        self._hidden = _hidden(bundle)
        self._sets = bundle.sets
        self._places = {example.id: place for place, example in enumerate(bundle.examples)} if bundle.sets else {}
        self._votes = {self._places[voter]: (n, one) for n, one in enumerate(bundle.sets) for voter in one.voters}
        if bundle.clusters is None or bundle.manifest.probes is None:
            self._best = _exact_search(bundle.vectors, np.flatnonzero(~self._hidden))
        else:
            self._best = ClusterIndex(bundle.vectors, bundle.clusters, bundle.manifest.probes).search

    @property
    def is_quick(self) -> bool:
        """Whether a search takes less than half a millisecond, and so may happen on an event loop."""
        return len(self._vectors) <= _QUICK_LIMIT

    def choose(self, vector: Vectors) -> tuple[Hit, ...]:
        """The examples to show for a query's `vector` (1-d, norm 1): the nearest or, of a bundle with sets, those of
        the set that the nearest vote for, in its order; perhaps none. ValueError as `nearest`."""
        hits = self.nearest(vector)
        return self._shown(elect(hits, self._votes), vector) if self._sets else hits

    def _shown(self, chosen: int | None, vector: Vectors) -> tuple[Hit, ...]:
        places = [] if chosen is None else [self._places[name] for name in self._sets[chosen].shown]
        return tuple(Hit(self._examples[place], float(self._vectors[place] @ vector), place) for place in places)

    def nearest(self, vector: Vectors) -> tuple[Hit, ...]:
        """The examples nearest to a query's `vector` (1-d, norm 1), most similar first; at most k, perhaps none.

        Left out are pinned examples, examples below the similarity floor, and near-duplicates of a pinned or a more
        similar example. Equal similarities stand in the bank's order. ValueError: another dimension, or not finite.
        """
        if vector.shape != self._vectors.shape[1:] or not np.isfinite(vector).all():
            raise ValueError(f"a query's vector must be finite and of shape {self._vectors.shape[1:]}")
        chosen: list[tuple[int, float]] = []
        for position, similarity in self._by_similarity(np.ascontiguousarray(vector, dtype=np.float32)):
            if len(chosen) >= self._policy.k or similarity < self._policy.minimum_similarity:
                break
            if not self._is_duplicate(position, [other for other, _ in chosen]):
                chosen.append((position, similarity))
        return tuple(Hit(self._examples[position], similarity, position) for position, similarity in chosen)

    def _by_similarity(self, vector: Vectors) -> Iterator[tuple[int, float]]:
        """Positions and similarities, best first; more are fetched only when the caller asks for more."""
        total = len(self._vectors)
        given: set[int] = set()
        fetch = max(1, self._policy.k * _FETCH_FACTOR)
        while True:
            found = self._search(vector, min(fetch, total))
            # Of those not fetched some may share the last similarity fetched: a wider search settles who comes first.
            settled = found if fetch >= total else [pair for pair in found if pair[1] > found[-1][1]]
            yield from (pair for pair in settled if pair[0] not in given and not self._hidden[pair[0]])
            if fetch >= total:
                return
            given.update(position for position, _ in settled)
            fetch *= _FETCH_FACTOR

    def _search(self, vector: Vectors, count: int) -> list[tuple[int, float]]:
        # The number of OpenMP threads belongs to the calling thread, so it is set where the search happens: a single
        # query is slower on two threads than on one.
        faiss.omp_set_num_threads(1)
        similarities, positions = self._best(vector, count)
        found = zip(positions.tolist(), similarities.tolist(), strict=True)
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))

    def _is_duplicate(self, position: int, others: Sequence[int]) -> bool:
        likeness = self._vectors[list(others)] @ self._vectors[position]
        return bool(np.any(likeness >= self._policy.duplicate_similarity))


def pinned(bundle: Bundle) -> tuple[Example, ...]:
    """The examples that every request is shown, in the bank's order."""
    return tuple(bundle.examples[position] for position in pinned_positions(bundle.examples))


def elect(hits: Sequence[Hit], votes: Mapping[int, tuple[int, ExampleSet]]) -> int | None:
    """The number of the set that the hits vote for: of the kind that has most votes, the set that has most.

    votes: by position, for which set, and its number. A vote counts the set's weight times the similarity to the fourth
    power. Where all voters are less similar than their sets ask for, all count. None where there is no voter; of equals
    the most similar voter's.
    """
    voters = [(hit.similarity, *votes[hit.position]) for hit in hits if hit.position in votes]
    near = [voter for voter in voters if voter[0] >= voter[2].minimum_similarity]
    kinds: dict[str, float] = {}
    sets: dict[str, dict[int, float]] = {}
    for similarity, number, wanted in near or voters:
        vote = wanted.weight * max(0.0, similarity) ** _VOTE_POWER
        kinds[wanted.kind] = kinds.get(wanted.kind, 0.0) + vote
        of_kind = sets.setdefault(wanted.kind, {})
        of_kind[number] = of_kind.get(number, 0.0) + vote
    if not kinds:
        return None
    of_chosen = sets[max(kinds, key=lambda kind: kinds[kind])]
    return max(of_chosen, key=lambda number: of_chosen[number])


def retrieval_query(messages: Sequence[Message]) -> str:
    """The text that chooses the examples of a whole conversation: its first user turn; empty if there is none.

    Cut to QUERY_CHARACTERS characters. Later turns change nothing, so that their text extends the cached prefix.
    """
    return next((message.text[:QUERY_CHARACTERS] for message in messages if message.role == "user"), "")


def _hidden(bundle: Bundle) -> NDArray[np.bool_]:
    """Which positions are no hits: pinned examples, and near-duplicates of one."""
    is_hidden = np.zeros(len(bundle.vectors), np.bool_)
    is_hidden[pinned_positions(bundle.examples)] = True
    likeness = bundle.vectors @ bundle.vectors[is_hidden].T
    is_hidden |= (likeness >= bundle.manifest.retrieval.duplicate_similarity).any(axis=1)
    return is_hidden


def _exact_search(vectors: Vectors, positions: NDArray[np.intp]) -> Search:
    """Of the rows of `vectors` at `positions`: all that is asked for, or all there are."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors[positions])

    def search(vector: Vectors, count: int) -> tuple[Vectors, NDArray[np.int64]]:
        # FAISS can't be asked for nothing; where there are fewer rows than asked for, it gives -1.
        similarities, rows = index.search(vector[np.newaxis], max(1, min(count, index.ntotal)))
        there = rows[0] >= 0
        return similarities[0][there], positions[rows[0][there]]

    return search
