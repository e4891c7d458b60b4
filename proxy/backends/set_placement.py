"""Chooses the backends for requests that have an example set.

Each set belongs to one backend, or to few backends. The prefix caches of all backends together can therefore hold more
sets than one cache can hold. A plan (proxy/backends/set_plan.py) says which backend a set belongs to.

A plan fits the recent requests only on average. Each first turn is therefore also checked against two limits: the
backend's share of the recent requests, and its requests in flight. A later turn is checked only against the second
limit. If the backend exceeds a limit, the next backend in the set's order of preference gets the request.

The module depends only on names, counters and weights. It does not depend on HTTP, bundles or models.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple
from zlib import crc32

from proxy.backends.load_balancing import Affinity, BackendLoad, InFlightLimit, rank_backends
from proxy.backends.set_plan import Part, Plan, plan_sets, preference

_WINDOW: Final = 2048  # requests; older requests hardly count
# A backend gets no further first turns when it has more requests than _MAX_LOAD times its share, plus _ROUNDING.
_MAX_LOAD: Final = 1.25
_ROUNDING: Final = 0.5
_PLAN_INTERVAL: Final = 32  # requests between two plans; more if there are many sets
_FORGOTTEN: Final = 0.01  # requests; a set with fewer recent requests is forgotten
# The number of router keys of a set depends on its share of all requests with sets: one key per _SHARE_OF_KEY, rounded,
# and at least one key. The number changes only if the exact quotient differs from it by more than _KEY_TOLERANCE.
_SHARE_OF_KEY: Final = 0.25
_KEY_TOLERANCE: Final = 0.75
_FIRST_REQUESTS: Final = 50  # added to the number of all requests, because shares of few requests are not reliable
_HASHES: Final = float(2**32)  # the number of different checksums


class Placed(NamedTuple):
    """The backends of one request.

    Attributes:
        positions: The positions of the backends in the order in which to try them.
        choice: How the first backend was chosen. `preferred`: it comes first in the order of preference of the set.
            `balanced`: the plan moved the set, or a part of its conversations, to this backend, because the preferred
            backend has its share already. `spilled`: the planned backend had too many requests at that moment.
    """

    positions: list[int]
    choice: str


class SetPlacement:
    """Chooses the backends for the requests of one model that have an example set. It counts these requests.

    Each process counts only its own requests. All processes have the same order of preference, so they choose the same
    backend for a set unless this backend would get more than its share.
    """

    def __init__(self) -> None:
        self._sets = _SetCounts()
        self._backends: dict[str, _BackendCounts] = {}
        self._keys: dict[str, int] = {}
        self._plan: Plan = {}
        self._planned_for: AbstractSet[str] = frozenset()

    def router_key(self, example_set: str, conversation: str | None) -> str:
        """Return a key for a router that sends all requests with the same key to the same server.

        Normally, all conversations with the set have the same key. If the set has a large share of the requests, its
        conversations are divided among several keys, because such a router does not limit the load of a server. All
        turns of a conversation have the same key.
        """
        part = int(_position(conversation) * self._keys.get(example_set, 1))
        return f"{_checksum(f'{example_set}/{part}'):08x}"

    def place(self, backends: Sequence[BackendLoad], affinity: Affinity, example_set: str) -> Placed:
        """Count a request, and return its backends.

        Backends that are not available come last, as in `rank_backends`.

        Args:
            backends: The backends that serve the model; at least one.
            affinity: The conversation of the request, and whether the request is its first turn.
            example_set: The key of the example set.
        """
        if len(backends) == 1:
            self.count_alone(backends[0].name, example_set)
            return Placed([0], "preferred")
        ordered = rank_backends(backends, None)
        usable = [backend for backend in backends if backend.available] or list(backends)
        self._count(usable, example_set)
        name, choice = self._choose(usable, affinity, example_set)
        first = ordered[0] if name is None else next(n for n in ordered if backends[n].name == name)
        self._backends[backends[first].name].received += 1.0
        return Placed([first, *[n for n in ordered if n != first]], choice)

    def count_alone(self, name: str, example_set: str) -> None:
        """Count a request of a model that only one backend serves. `name` is the name of this backend."""
        self._count_set(example_set, {name: 1.0})

    def _count(self, usable: Sequence[BackendLoad], example_set: str) -> None:
        """Count a request of a set, and for each backend the share of this request that the backend should get."""
        total = sum([backend.weight for backend in usable])
        shares = {backend.name: backend.weight / total for backend in usable}
        for name, share in shares.items():
            counts = self._backends.get(name)
            if counts is None:
                counts = self._backends[name] = _BackendCounts()
            counts.add_share(share)
        self._count_set(example_set, shares)

    def _count_set(self, example_set: str, shares: Mapping[str, float]) -> None:
        """Count a request of a set. Make a new plan if the backends have changed, or if the plan is old."""
        self._sets.count(example_set)
        if self._sets.new >= max(_PLAN_INTERVAL, 2 * len(self._plan)) or shares.keys() != self._planned_for:
            self._make_plan(shares)

    def _make_plan(self, shares: Mapping[str, float]) -> None:
        recent = self._sets.recent()
        self._plan = plan_sets(recent, shares, self._plan)
        self._planned_for = shares.keys()
        unit = _SHARE_OF_KEY * (sum(recent.values()) + _FIRST_REQUESTS)
        self._keys = {one: _router_keys(count / unit, self._keys.get(one, 1)) for one, count in recent.items()}

    def _choose(self, usable: Sequence[BackendLoad], affinity: Affinity, example_set: str) -> tuple[str | None, str]:
        """Return the name of the backend, and how it was chosen. The name is None if every backend has too much load.

        Only a first turn is checked against the share of recent requests. A later turn stays at its backend, which has
        the whole conversation in its cache.
        """
        order = preference(example_set, tuple([backend.name for backend in usable]))
        home = _home(self._plan[example_set], affinity.conversation) if example_set in self._plan else order[0]
        limit, by_name = InFlightLimit(usable), {backend.name: backend for backend in usable}
        for name in (home, *order):
            has_share = not affinity.is_first_turn or self._backends[name].has_room
            if has_share and limit.allows(by_name[name]):
                choice = "preferred" if name == order[0] else "balanced"
                return name, choice if name == home else "spilled"
        return None, "spilled"


class _BackendCounts:
    """The recent requests of one backend. Each further request for the model makes the older requests count less.

    Attributes:
        received: How many recent requests the backend received.
        share: How many recent requests the backend should have received. For a backend that joins later, both numbers
            begin with 0, so it does not get extra requests to catch up with the others.
    """

    __slots__ = ("received", "share")

    def __init__(self) -> None:
        self.received = 0.0
        self.share = 0.0

    def add_share(self, share: float) -> None:
        """Add the backend's share of one request."""
        self.received *= 1.0 - 1.0 / _WINDOW
        self.share = self.share * (1.0 - 1.0 / _WINDOW) + share

    @property
    def has_room(self) -> bool:
        """Whether the backend may receive another request.

        At least one backend always has room, because it received less than its share.
        """
        return self.received < self.share or self.received + 1.0 <= _MAX_LOAD * self.share + _ROUNDING


class _SetCounts:
    """The recent requests of each set. Older requests count less.

    Attributes:
        new: How many requests were counted since the last call of `recent`.
    """

    def __init__(self) -> None:
        self._counts: dict[str, float] = {}
        self.new = 0

    def count(self, example_set: str) -> None:
        """Count a request."""
        self._counts[example_set] = self._counts.get(example_set, 0.0) + 1.0
        self.new += 1

    def recent(self) -> Mapping[str, float]:
        """Let the older requests count less, and return the counts. Sets without recent requests are forgotten."""
        factor = (1.0 - 1.0 / _WINDOW) ** self.new
        self.new = 0
        self._counts = {name: n * factor for name, n in self._counts.items() if n * factor >= _FORGOTTEN}
        return self._counts


def _home(parts: Sequence[Part], conversation: str | None) -> str:
    """Return the backend of the part to which a conversation belongs."""
    position = _position(conversation)
    for part in parts:
        position -= part.share
        if position < 0.0:
            return part.backend
    return parts[-1].backend


def _position(conversation: str | None) -> float:
    """Return a number from 0 to 1 (exclusive) that depends only on the conversation; 0 if there is none."""
    return 0.0 if conversation is None else _checksum(conversation) / _HASHES


def _checksum(text: str) -> int:
    return crc32(text.encode("utf-8", "surrogatepass"))


def _router_keys(share: float, before: int) -> int:
    """Return the number of router keys of a set.

    Args:
        share: The set's share of the requests, divided by _SHARE_OF_KEY.
        before: The present number of its router keys.
    """
    return before if abs(share - before) <= _KEY_TOLERANCE else max(1, round(share))
