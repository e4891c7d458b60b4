"""Load balancing: decides which backend gets a request, and how many retries may run at once.

The module depends only on counters, names and a clock. It does not depend on HTTP or on models.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import ceil
from typing import Final

Clock = Callable[[], float]  # returns the time in seconds

_MAX_FAILURES: Final = 3  # consecutive failures after which a backend is ejected
_MIN_EJECTION: Final = 5.0  # seconds; each further ejection lasts twice as long as the one before
_MAX_EJECTION: Final = 60.0  # seconds
_SLOW_START: Final = 10.0  # seconds in which the weight of a recovered backend grows to 1
_MIN_WEIGHT: Final = 0.1  # of a backend that is ejected or has just recovered
# A conversation or an example set stays with its backend while the requests in flight at this backend are fewer than
# the larger of two limits: the fair share of the backend times _MAX_LOAD_FACTOR (arXiv 1608.01350), or the fair share
# plus _MIN_EXTRA_LOAD times the weight of the backend. The second limit allows a few more requests, because waiting for
# them takes less time than computing the prefix again on another backend.
_MAX_LOAD_FACTOR: Final = 1.25
_MIN_EXTRA_LOAD: Final = 4
_RETRY_SHARE: Final = 0.2  # maximum number of retries per request in flight, as in Envoy's retry budget
_MIN_RETRIES: Final = 3  # this number of retries may always run at once


class BackendHealth:
    """The health of one backend: the result of its last health check, and its consecutive failed requests.

    After _MAX_FAILURES failed requests in a row, the backend is ejected: for some seconds, it is not available.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures = 0
        self._ejections = 0
        self._ejected_until = float("-inf")
        self._recovered_at = float("-inf")
        self._answers = False
        self._has_ever_answered = False

    @property
    def available(self) -> bool:
        """Whether the last health check succeeded and the backend is not ejected. Such backends are tried first."""
        return self._answers and self._clock() >= self._ejected_until

    @property
    def weight(self) -> float:
        """The backend's relative share of requests: 1, or less while it is ejected or has just recovered."""
        elapsed = self._clock() - max(self._recovered_at, self._ejected_until)
        return min(1.0, max(_MIN_WEIGHT, elapsed / _SLOW_START))

    def record_check(self, *, answering: bool) -> None:
        """Record a health check. If the backend answers again after a failed check, its weight is small at first."""
        if answering and not self._answers and self._has_ever_answered:
            self._recovered_at = self._clock()
        self._answers = answering
        self._has_ever_answered = self._has_ever_answered or answering

    def record_success(self) -> None:
        """Record a complete reply.

        If the last ejection ended more than _MAX_EJECTION seconds ago, the next ejection lasts only _MIN_EJECTION
        again.
        """
        self._failures = 0
        if self._clock() - self._ejected_until > _MAX_EJECTION:
            self._ejections = 0

    def record_failure(self) -> bool:
        """Record a failed request; return whether this failure ejects the backend."""
        self._failures += 1
        if self._failures < _MAX_FAILURES:
            return False
        self._failures = 0
        self._ejected_until = self._clock() + min(_MAX_EJECTION, _MIN_EJECTION * 2.0**self._ejections)
        self._ejections += 1
        return True


@dataclass(frozen=True, slots=True)
class BackendLoad:
    """The part of a backend's state that load balancing depends on.

    Attributes:
        name: Identifies the backend. The name is the same in every process, so that all processes choose the same
            backend for a conversation.
        available: Whether the last health check succeeded and the backend is not ejected.
        weight: The backend's relative share of requests, at most 1.
        in_flight: How many requests the backend is serving for this process.
    """

    name: str
    available: bool
    weight: float
    in_flight: int


@dataclass(frozen=True, slots=True)
class Affinity:
    """What a request has in common with earlier requests. A backend may have the common beginning in its prefix cache.

    Attributes:
        conversation: The key of the conversation; None if the request does not belong to one.
        example_set: The key of the example set that the request begins with; None if it has none.
        is_first_turn: Whether the request is the first one of its conversation. The cache then holds at most the
            example set. For a later turn, it also holds the earlier turns.
    """

    conversation: str | None = None
    example_set: str | None = None
    is_first_turn: bool = False


NO_AFFINITY: Final = Affinity()


class InFlightLimit:
    """Decides whether a backend has too many requests in flight to get another request that prefers it."""

    def __init__(self, backends: Sequence[BackendLoad]) -> None:
        """Compute the fair share of requests in flight. `backends` are those that can get the request."""
        self._per_weight = (sum([one.in_flight for one in backends]) + 1) / sum([one.weight for one in backends])

    def allows(self, backend: BackendLoad) -> bool:
        """Return whether the backend may get another request."""
        share = self._per_weight * backend.weight
        return backend.in_flight < ceil(max(_MAX_LOAD_FACTOR * share, share + _MIN_EXTRA_LOAD * backend.weight))


def rank_backends(backends: Sequence[BackendLoad], conversation: str | None) -> list[int]:
    """Return the positions in `backends` in the order in which to try them.

    For a conversation, the backend with the highest hash score comes first, because its prefix cache probably holds the
    earlier turns. If this backend has too much load, the backend with the next lower score takes its place, and so on.
    The other backends follow in the order of their load, the least load first. Without a conversation, all backends are
    in the order of their load. Backends that are not available come last. They are tried too, because there may be no
    available backend.

    Args:
        backends: The backends that serve the model.
        conversation: The key of the conversation; None if the request does not belong to one.
    """
    available = [n for n, backend in enumerate(backends) if backend.available]
    others = [n for n, backend in enumerate(backends) if not backend.available]
    return _ranked(backends, available, conversation) + _ranked(backends, others, conversation)


def _ranked(backends: Sequence[BackendLoad], positions: Sequence[int], conversation: str | None) -> list[int]:
    by_load = sorted(positions, key=lambda n: (backends[n].in_flight + 1) / backends[n].weight)
    if conversation is None or len(positions) < 2:
        return by_load
    by_name = {backends[n].name: n for n in positions}
    limit = InFlightLimit([backends[n] for n in positions])
    for name in affinity_order(conversation, by_name):
        n = by_name[name]
        if limit.allows(backends[n]):
            return [n, *(other for other in by_load if other != n)]
    return by_load


def affinity_order(key: str, names: Iterable[str]) -> list[str]:
    """Return the names of backends in the order in which a conversation or an example set prefers them.

    This is rendezvous hashing: the highest score comes first. If a backend is removed, only the keys that preferred it
    move to other backends (Thaler and Ravishankar, 1998).
    """
    return sorted(names, key=lambda name: _affinity_score(key, name), reverse=True)


def _affinity_score(key: str, name: str) -> bytes:
    return blake2b(f"{name}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


class InFlightCounter:
    """A context manager that counts how many of its `with` blocks are running."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def __enter__(self) -> None:
        self.value += 1

    def __exit__(self, *exception: object) -> None:
        self.value -= 1


class RetryBudget:
    """Limits how many retries run at once, so that failing backends do not get too many repeated requests.

    The code that serves a request runs in `with budget.requests`, and a retry also runs in `with budget.retries`.
    """

    def __init__(self) -> None:
        self.requests = InFlightCounter()
        self.retries = InFlightCounter()

    @property
    def has_room(self) -> bool:
        """Whether another retry may begin."""
        return self.retries.value < max(_MIN_RETRIES, _RETRY_SHARE * self.requests.value)
