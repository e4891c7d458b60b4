"""Plans which backends the example sets of a model belong to. All functions are pure.

The plan is a form of consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, arXiv 1608.01350): a
set goes to the first backend in its own order of preference that has room for it. It differs from the paper as follows:

- Rendezvous hashing gives the order of preference. It needs no virtual nodes, and all processes get the same order.
- The load of a backend is the number of recent requests of its sets, because few requests are in flight at low
  concurrency.
- A set moves as a whole, because two backends that share it must both hold it in their caches. Only a set whose
  requests are too many for one backend is split. A part is a share of the conversations with this set.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from math import sqrt
from typing import Final, NamedTuple

from proxy.backends.load_balancing import affinity_order

# A backend has two limits: its fair share of the recent requests, times each of these factors. A set moves to a backend
# only if the load of the backend is then at most the lower limit. A set leaves a backend whose load is above the higher
# limit. Both limits are raised by the standard deviation of a random count, so that fluctuations move few sets.
_MAX_PLANNED_LOAD: Final = 1.04
_MAX_KEPT_LOAD: Final = 1.12
_MIN_REQUESTS: Final = 16  # per backend; with fewer recent requests, every set is at its preferred backend
_MAX_CACHED_ORDERS: Final = 4096  # results that each of two functions caches


class Part(NamedTuple):
    """The part of a set's conversations that belongs to one backend.

    Attributes:
        backend: The name of the backend.
        share: The share of the conversations. The shares of all parts of a set have the sum 1.
    """

    backend: str
    share: float


def set_key(bundle: str, name: str) -> str:
    """Return the key of an example set. `bundle` is the id of its bundle, as x-drpo-bundle shows it."""
    return f"{bundle}/{name}"


Plan = Mapping[str, tuple[Part, ...]]
"""The parts of each set, by the key of the set."""


@lru_cache(maxsize=_MAX_CACHED_ORDERS)
def preference(example_set: str, backends: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the backends in the order in which a set prefers them.

    All processes get the same order. If a backend is removed, the order of the others stays the same.
    """
    return tuple(affinity_order(example_set, backends))


def plan_sets(counts: Mapping[str, float], shares: Mapping[str, float], previous: Plan) -> Plan:
    """Return the parts of each set, so that no backend gets much more than its share of the requests.

    The sets are placed one after the other, in an order that depends only on their keys. So processes that count
    slightly different numbers of requests place most sets alike.

    Args:
        counts: The recent requests of each set.
        shares: The share of the requests that each backend should get. The sum is 1.
        previous: The plan until now. A set stays where it is unless its backend has too much load.
    """
    filling = _Filling(shares, sum(counts.values()))
    return {one: filling.put(one, counts[one], previous.get(one, ())) for one in sorted(counts, key=_insertion)}


@lru_cache(maxsize=_MAX_CACHED_ORDERS)
def _insertion(example_set: str) -> bytes:
    return blake2b(example_set.encode("utf-8", "surrogatepass"), digest_size=8).digest()


class _Filling:
    """The loads of the backends while the sets are placed, one after the other."""

    def __init__(self, shares: Mapping[str, float], total: float) -> None:
        self._names = tuple(shares)
        self._fair = {name: share * total for name, share in shares.items()}
        self._says_little = total < _MIN_REQUESTS * len(shares)
        self._load = dict.fromkeys(shares, 0.0)

    def put(self, example_set: str, count: float, previous: tuple[Part, ...]) -> tuple[Part, ...]:
        """Place a set with `count` requests, and return its parts."""
        order = preference(example_set, self._names)
        if self._says_little:
            return (Part(order[0], 1.0),)
        parts = (
            self._whole(order, count, previous or (Part(order[0], 1.0),))
            or self._as_before(count, previous)
            or self._whole(order, count, tuple(Part(name, 1.0) for name in order))
            or self._split(order, count)
        )
        for part in parts:
            self._load[part.backend] += count * part.share
        return parts

    def _whole(self, order: Iterable[str], count: float, kept: Sequence[Part]) -> tuple[Part, ...]:
        """Return the set as one part at the first backend that has room; empty if no backend has room.

        The higher limit applies to a backend that has the whole set in `kept`.
        """
        for name in order:
            part = Part(name, 1.0)
            if count <= self._room(name, _MAX_KEPT_LOAD if part in kept else _MAX_PLANNED_LOAD):
                return (part,)
        return ()

    def _as_before(self, count: float, previous: tuple[Part, ...]) -> tuple[Part, ...]:
        """Return the parts as they were, if their backends are still there and have room; else empty."""
        fits = [
            part.backend in self._fair and count * part.share <= self._room(part.backend, _MAX_KEPT_LOAD)
            for part in previous
        ]
        return previous if all(fits) else ()

    def _split(self, order: Sequence[str], count: float) -> tuple[Part, ...]:
        """Split the set: each backend in order gets as much as it has room for."""
        parts: list[Part] = []
        rest = 1.0
        for name in order:
            room = self._room(name, _MAX_PLANNED_LOAD) / count
            share = rest if rest * count <= self._room(name, _MAX_KEPT_LOAD) else room
            if share > 0.0:
                parts.append(Part(name, share))
                rest -= share
            if rest <= 0.0:
                break
        return tuple(parts)

    def _room(self, name: str, limit: float) -> float:
        """Return how many more requests a backend has room for. `limit` is one of the two factors."""
        fair = self._fair[name]
        return limit * fair + sqrt(fair) - self._load[name]
