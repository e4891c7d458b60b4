"""Which backend gets a request, and how often a request may be sent again: rules over loads and standings.

Pure but for the numbers that it keeps; a clock is handed in. Knows no HTTP, no model and no destination.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import ceil
from typing import Final

Clock = Callable[[], float]

_FAILURES: Final = 3  # in a row, until a backend is ejected
_FIRST_EJECTION: Final = 5.0  # seconds; doubled with each one that follows
_LONGEST_EJECTION: Final = 60.0
_SLOW_START: Final = 10.0  # seconds in which a backend that comes back gets ever more
_LEAST_WEIGHT: Final = 0.1
_CROWDED: Final = 1.25  # times its share: a conversation's own backend is passed over (arXiv 1608.01350), but
_NEVER_CROWDED: Final = 4  # requests more than its share cost a server less than a conversation read anew
_RETRY_SHARE: Final = 0.2  # of the requests in flight, as Envoy's retry budget has it
_LEAST_RETRIES: Final = 3


class Standing:
    """How one backend did lately: its last health check, the failures since, and what follows from them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures = 0
        self._ejections = 0
        self._ejected_until = float("-inf")
        self._back_since = float("-inf")
        self._answering = False
        self._answered_ever = False

    @property
    def available(self) -> bool:
        """Whether it should be given requests while others can be."""
        return self._answering and self._clock() >= self._ejected_until

    @property
    def weight(self) -> float:
        """Its share beside the others': 1, or less while it is coming back."""
        since = self._clock() - max(self._back_since, self._ejected_until)
        return min(1.0, max(_LEAST_WEIGHT, since / _SLOW_START))

    def checked(self, *, answering: bool) -> None:
        """Note a health check. One that answers again after it did not starts slowly."""
        if answering and not self._answering and self._answered_ever:
            self._back_since = self._clock()
        self._answering = answering
        self._answered_ever = self._answered_ever or answering

    def succeeded(self) -> None:
        """Note a reply; after a good minute, earlier ejections are forgotten."""
        self._failures = 0
        if self._clock() - self._ejected_until > _LONGEST_EJECTION:
            self._ejections = 0

    def failed(self) -> bool:
        """Note a request that it broke, and whether that ejects it."""
        self._failures += 1
        if self._failures < _FAILURES:
            return False
        self._failures = 0
        self._ejected_until = self._clock() + min(_LONGEST_EJECTION, _FIRST_EJECTION * 2.0**self._ejections)
        self._ejections += 1
        return True


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backend as the choice sees it. name: the same in every process, so that all choose alike."""

    name: str
    available: bool
    weight: float
    in_flight: int


def order(candidates: Sequence[Candidate], conversation: str | None) -> list[int]:
    """Positions in `candidates`, the one to try first in front; those to be avoided last, since none may be left.

    A conversation goes to the backend that its hash names, whose prefix cache knows it, unless that has more than its
    share to do; anything else goes where least is going on.
    """
    usable = [n for n, candidate in enumerate(candidates) if candidate.available]
    avoided = [n for n, candidate in enumerate(candidates) if not candidate.available]
    return _ranked(candidates, usable, conversation) + _ranked(candidates, avoided, conversation)


def _ranked(candidates: Sequence[Candidate], among: Sequence[int], conversation: str | None) -> list[int]:
    by_load = sorted(among, key=lambda n: (candidates[n].in_flight + 1) / candidates[n].weight)
    if conversation is None or len(among) < 2:
        return by_load
    owners = sorted(among, key=lambda n: _affinity(conversation, candidates[n].name), reverse=True)
    total = sum(candidates[n].in_flight for n in among) + 1
    weights = sum(candidates[n].weight for n in among)
    for n in owners:
        share = total * candidates[n].weight / weights
        if candidates[n].in_flight < ceil(max(_CROWDED * share, share + _NEVER_CROWDED * candidates[n].weight)):
            return [n, *(other for other in by_load if other != n)]
    return by_load


def _affinity(conversation: str, name: str) -> bytes:
    """Rendezvous hashing (Thaler and Ravishankar, 1998): when a backend goes, only its own conversations move."""
    return blake2b(f"{name}\0{conversation}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


class Count:
    """How many are within a `with` of it now."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def __enter__(self) -> None:
        self.value += 1

    def __exit__(self, *exception: object) -> None:
        self.value -= 1


class RetryBudget:
    """How many requests may be on their second try at once, so that failing backends see no storm of repetitions.

    Each request is served within `with requests`, its second try within `with retries`, if it may have one.
    """

    def __init__(self) -> None:
        self.requests = Count()
        self.retries = Count()

    @property
    def has_room(self) -> bool:
        """Whether another request may be sent again."""
        return self.retries.value < max(_LEAST_RETRIES, _RETRY_SHARE * self.requests.value)
