"""Reads a store once and keeps what feedback shows: rated answers and preference pairs, in bounded memory."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from optimizer.data.preferences import SOURCES, PreferencePair
from optimizer.harvest.exchange import Exchange
from optimizer.harvest.rated_answers import RatedAnswer, RatedAnswers
from optimizer.harvest.turn_pairs import blocks_by_unit, pairs_of_block

MAX_PAIRS: Final = 1_000
"""The maximum number of pairs that are kept of each source."""
DROPPED: Final = "there were too many answers with more votes"
TOO_LONG: Final = "a text was too long"
OVER_SHARE: Final = "their user had rated too many answers"


@dataclass(frozen=True, slots=True)
class Collected:
    """What one reading of a store found. The texts still contain private data.

    Attributes:
        liked: The answers with more likes than dislikes, the most liked first.
        disliked: The answers with more dislikes than likes, or with a comment alone, the most disliked first.
        pairs: The preference pairs, sorted from the clearest source to the least clear one.
        ignored: Number of ratings that did not count, by reason.
    """

    liked: tuple[RatedAnswer, ...] = field(repr=False)
    disliked: tuple[RatedAnswer, ...] = field(repr=False)
    pairs: tuple[PreferencePair, ...] = field(repr=False)
    ignored: Mapping[str, int]


def collect(exchanges: Iterator[Exchange | None], per_user: int, advance: Callable[[], None]) -> Collected:
    """Read all exchanges, and return what they show. They must be ordered by unit, and by time within each unit.

    Args:
        exchanges: The requests. None stands for a request that cannot be used.
        per_user: The maximum number of ratings, and of pairs, of one unit that count.
        advance: Called after each request, to show the progress.
    """
    answers = RatedAnswers(per_user)
    pairs = PairCollector()

    def added() -> Iterator[Exchange]:
        for exchange in exchanges:
            advance()
            if exchange is not None:
                answers.add(exchange)
                yield exchange

    unit, found = b"", 0
    for block in blocks_by_unit(added()):
        unit, found = (block[0].unit, found if block[0].unit == unit else 0)
        for pair in pairs_of_block(block):
            found += found < per_user and pairs.add(pair)
    for pair in answers.pairs():
        pairs.add(pair)
    ignored = {DROPPED: answers.dropped, TOO_LONG: answers.too_long, OVER_SHARE: answers.over_share}
    counted = {reason: count for reason, count in ignored.items() if count}
    return Collected(tuple(answers.liked()), tuple(answers.disliked()), pairs.all(), counted)


class PairCollector:
    """Keeps different pairs, at most MAX_PAIRS of each source. The first pairs are kept."""

    def __init__(self) -> None:
        self._pairs: dict[str, dict[tuple[str, str, str], PreferencePair]] = {source: {} for source in SOURCES}

    def add(self, pair: PreferencePair) -> bool:
        """Keep a pair if it is new, and its source has fewer than MAX_PAIRS pairs. Return whether it was kept."""
        kept = self._pairs[pair.source]
        key = (pair.query, pair.chosen, pair.rejected)
        if key in kept or len(kept) >= MAX_PAIRS:
            return False
        kept[key] = pair
        return True

    def all(self) -> tuple[PreferencePair, ...]:
        """Return the pairs, sorted from the clearest source to the least clear one."""
        return tuple(chain.from_iterable(kept.values() for kept in self._pairs.values()))


def counts_by_source(pairs: Sequence[PreferencePair]) -> Mapping[str, int]:
    """Return the number of pairs of each source that has any."""
    return Counter(pair.source for pair in pairs)
