"""Counts the likes and dislikes of equal answers to equal conversations, in bounded memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from index.types import Message
from optimizer.data.preferences import RATED, PreferencePair
from optimizer.harvest.exchange import Exchange, Rating

MAX_ANSWERS: Final = 20_000
MAX_CHARACTERS: Final = 4_000
"""The maximum number of characters of a conversation, an answer or a comment that is kept. Longer texts are not
used."""
_MAX_COMMENTS: Final = 5
_DIGEST_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class RatedAnswer:
    """An answer to a conversation, with what all users together think of it.

    Attributes:
        turns: The turns of the conversation. The last one is the query.
        answer: The answer.
        likes: Number of users who liked it.
        dislikes: Number of users who disliked it.
        comments: What users wrote about it, at most five comments.
        time: Time of the latest request with this answer, Unix seconds.
    """

    turns: tuple[Message, ...] = field(repr=False)
    answer: str = field(repr=False)
    likes: int
    dislikes: int
    comments: tuple[str, ...] = field(repr=False)
    time: float

    @property
    def query(self) -> str:
        """The text of the last user turn."""
        return self.turns[-1].text

    @property
    def net(self) -> int:
        """The number of likes minus the number of dislikes."""
        return self.likes - self.dislikes

    @property
    def share(self) -> float:
        """The estimated share of users who like the answer. Without votes, it is one half."""
        return (self.likes + 1) / (self.likes + self.dislikes + 2)

    def with_vote(self, rating: Rating, count: int) -> "RatedAnswer":
        """Return the answer with one vote added (`count` is 1) or removed (`count` is -1)."""
        likes, dislikes = self.likes + count * rating.liked, self.dislikes + count * rating.disliked
        return RatedAnswer(self.turns, self.answer, likes, dislikes, self.comments, self.time)


class RatedAnswers:
    """Collects rated answers. The exchanges of one unit must be added one after the other.

    If there are too many answers, those whose numbers of likes and dislikes differ least are dropped.

    Attributes:
        dropped: Number of answers that were dropped because there were too many.
        too_long: Number of rated answers that were not kept because a text is too long.
        over_share: Number of ratings that did not count, because their unit had rated too many answers.
    """

    def __init__(self, per_user: int, most: int = MAX_ANSWERS) -> None:
        """Begin without answers.

        Args:
            per_user: The maximum number of answers that one unit may rate. Further ratings of the unit do not count.
            most: The number of answers that are kept. The weakest are dropped when there are twice as many.
        """
        self.dropped = self.too_long = self.over_share = 0
        self._per_user = per_user
        self._most = most
        self._answers: dict[bytes, RatedAnswer] = {}
        self._unit = b""
        self._votes: dict[bytes, Rating] = {}

    def add(self, exchange: Exchange) -> None:
        """Count the rating and keep the comments of an exchange. An exchange with neither is ignored."""
        if exchange.unit != self._unit:
            self._unit, self._votes = exchange.unit, {}
        if exchange.rating is None and not exchange.comments:
            return
        if not fits(exchange.turns, exchange.answer):
            self.too_long += 1
            return
        key = _digest(exchange)
        if key not in self._votes and len(self._votes) >= self._per_user:
            self.over_share += 1
            return
        self._count(key, exchange)
        if len(self._answers) > 2 * self._most:
            self._drop_weakest()

    def _count(self, key: bytes, exchange: Exchange) -> None:
        """Add one vote. A unit has one vote for each answer: its later vote replaces the earlier one."""
        known = self._answers.get(key) or RatedAnswer(exchange.turns, exchange.answer, 0, 0, (), exchange.time)
        rating = exchange.rating or self._votes.get(key) or Rating(liked=False, disliked=False)
        if earlier := self._votes.get(key):
            known = known.with_vote(earlier, -1)
        counted = known.with_vote(rating, 1)
        short = (one for one in exchange.comments if len(one) <= MAX_CHARACTERS)
        comments = tuple(dict.fromkeys((*counted.comments, *short)))[:_MAX_COMMENTS]
        time = max(counted.time, exchange.time)
        self._answers[key] = RatedAnswer(known.turns, known.answer, counted.likes, counted.dislikes, comments, time)
        self._votes[key] = rating

    def _drop_weakest(self) -> None:
        kept = sorted(self._answers.items(), key=lambda item: (-abs(item[1].net), -item[1].time))[: self._most]
        self.dropped += len(self._answers) - len(kept)
        self._answers = dict(kept)

    def liked(self) -> Sequence[RatedAnswer]:
        """Return the answers with more likes than dislikes, the most liked first."""
        return sorted((one for one in self._answers.values() if one.net > 0), key=lambda one: (-one.share, -one.time))

    def disliked(self) -> Sequence[RatedAnswer]:
        """Return the answers with more dislikes than likes, and those with a comment alone. The most disliked first."""
        found = (one for one in self._answers.values() if one.net < 0 or (one.comments and one.net == 0))
        return sorted(found, key=lambda one: (one.share, -one.time))

    def pairs(self) -> Iterator[PreferencePair]:
        """Yield the most liked and the most disliked answer to each conversation that has both, the clearest first."""
        by_turns: dict[tuple[Message, ...], list[RatedAnswer]] = {}
        for one in self._answers.values():
            by_turns.setdefault(one.turns, []).append(one)
        both = [(max(found, key=_rank), min(found, key=_rank)) for found in by_turns.values()]
        clear = [(best, worst) for best, worst in both if best.net > 0 > worst.net]
        for best, worst in sorted(clear, key=lambda two: two[1].share - two[0].share):
            comment = worst.comments[-1] if worst.comments else ""
            yield PreferencePair(best.query, best.answer, worst.answer, RATED, best.turns[:-1], comment)


def fits(turns: Sequence[Message], *answers: str) -> bool:
    """Whether a conversation and its answers are short enough to be kept."""
    return sum(len(turn.text) for turn in turns) <= MAX_CHARACTERS and all(
        len(one) <= MAX_CHARACTERS for one in answers
    )


def _rank(answer: RatedAnswer) -> tuple[float, float]:
    return answer.share, answer.time


def _digest(exchange: Exchange) -> bytes:
    digest = blake2b(digest_size=_DIGEST_BYTES)
    for text in (*(part for turn in exchange.turns for part in (turn.role, turn.text)), exchange.answer):
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8) + data)
    return digest.digest()
