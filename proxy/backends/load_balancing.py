"""Load balancing: which backend gets a request, and how many requests may be retried at once.

The rules depend on counters and a clock alone. They do not depend on HTTP, models or URLs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import ceil
from typing import Final

Clock = Callable[[], float]

_MAX_FAILURES: Final = 3  # consecutive failures that eject a backend
_MIN_EJECTION: Final = 5.0  # seconds; each further ejection takes twice as long
_MAX_EJECTION: Final = 60.0
_SLOW_START: Final = 10.0  # seconds in which the weight of a backend that is back grows to 1
_MIN_WEIGHT: Final = 0.1
_MAX_LOAD_FACTOR: Final = 1.25  # times its fair share, for the backend of a conversation (arXiv 1608.01350)
_MIN_EXTRA_LOAD: Final = 4  # requests over its fair share: they cost less than to compute a conversation's prefix anew
_RETRY_SHARE: Final = 0.2  # of the requests in flight, as in Envoy's retry budget
_MIN_RETRIES: Final = 3


class BackendHealth:
    """The health of one backend: its last health check, and outlier detection by consecutive failures."""

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
        """Whether the backend should get requests before those that are not available."""
        return self._answers and self._clock() >= self._ejected_until

    @property
    def weight(self) -> float:
        """The share of requests relative to other backends: 1, or less during slow start."""
        elapsed = self._clock() - max(self._recovered_at, self._ejected_until)
        return min(1.0, max(_MIN_WEIGHT, elapsed / _SLOW_START))

    def record_check(self, *, answering: bool) -> None:
        """Record a health check. A backend that answers again begins with a slow start."""
        if answering and not self._answers and self._has_ever_answered:
            self._recovered_at = self._clock()
        self._answers = answering
        self._has_ever_answered = self._has_ever_answered or answering

    def record_success(self) -> None:
        """Record a complete reply. The ejection time is reset when the last ejection is long enough ago."""
        self._failures = 0
        if self._clock() - self._ejected_until > _MAX_EJECTION:
            self._ejections = 0

    def record_failure(self) -> bool:
        """Record a failed request; return whether it ejects the backend."""
        self._failures += 1
        if self._failures < _MAX_FAILURES:
            return False
        self._failures = 0
        self._ejected_until = self._clock() + min(_MAX_EJECTION, _MIN_EJECTION * 2.0**self._ejections)
        self._ejections += 1
        return True


@dataclass(frozen=True, slots=True)
class BackendLoad:
    """The state of one backend that load balancing depends on.

    Attributes:
        name: Identifies the backend. It is the same in every process, so that all processes choose the same backend.
        available: See BackendHealth.
        weight: See BackendHealth.
        in_flight: How many requests the backend is serving for this process.
    """

    name: str
    available: bool
    weight: float
    in_flight: int


def rank_backends(backends: Sequence[BackendLoad], conversation: str | None) -> list[int]:
    """Return the positions in `backends` in the order in which to try them.

    Backends that are not available come last: there may be no other. A conversation goes to the backend that its hash
    selects, because that backend's prefix cache holds the earlier turns. Any other request, and a conversation whose
    backend has too much load, goes to the backend with the least load.

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
    by_affinity = sorted(positions, key=lambda n: _affinity(conversation, backends[n].name), reverse=True)
    total = sum(backends[n].in_flight for n in positions) + 1
    weights = sum(backends[n].weight for n in positions)
    for n in by_affinity:
        share = total * backends[n].weight / weights
        if backends[n].in_flight < ceil(max(_MAX_LOAD_FACTOR * share, share + _MIN_EXTRA_LOAD * backends[n].weight)):
            return [n, *(other for other in by_load if other != n)]
    return by_load


def _affinity(conversation: str, name: str) -> bytes:
    """Return the rank of a backend for a conversation by rendezvous hashing (Thaler and Ravishankar, 1998).

    When a backend is removed, only its own conversations move to another one.
    """
    return blake2b(f"{name}\0{conversation}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


class InFlightCounter:
    """Counts the `with` blocks of it that are open now."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def __enter__(self) -> None:
        self.value += 1

    def __exit__(self, *exception: object) -> None:
        self.value -= 1


class RetryBudget:
    """Limits how many retries run at once, so that failing backends do not get a storm of repeated requests.

    Each request is served within `with requests`, and each retry within `with retries`.
    """

    def __init__(self) -> None:
        self.requests = InFlightCounter()
        self.retries = InFlightCounter()

    @property
    def has_room(self) -> bool:
        """Whether another retry may begin."""
        return self.retries.value < max(_MIN_RETRIES, _RETRY_SHARE * self.requests.value)
