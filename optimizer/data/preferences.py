"""What people prefer: pairs of answers to the same conversation, ratings of single answers, and comments.

A file of preferences is JSONL. A line with a pair has the keys `query`, `chosen`, `rejected` and `source`, and may have
`history` and `comment`. A line with ratings has the keys `query`, `answer`, `likes` and `dislikes`. A line with the key
`comment` alone is what a user wrote about an answer that is in no pair.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from index.bundle.strict_json import Fields, parse_json, without_nulls
from index.errors import BundleError
from index.types import Message
from optimizer.core.errors import DataError
from optimizer.data.dataset import parse_history, read_lines

EDITED: Final = "edited"
CONTINUED: Final = "continued"
RATED: Final = "rated"
JUDGED: Final = "judged"
REWORDED: Final = "reworded"
REGENERATED: Final = "regenerated"
SOURCES: Final = (EDITED, CONTINUED, RATED, JUDGED, REWORDED, REGENERATED)
"""The kinds of evidence for a preference, the clearest kind first.

`edited`: the user corrected the answer. `continued`: the user got several answers, and went on with the chosen one.
`rated`: people liked the chosen answer, and disliked the other answer to the same conversation. `judged`: the shadow
judge preferred the chosen answer in both orders. `reworded`: the user asked the same question again in other words, and
the chosen answer is the later one. `regenerated`: the user asked for another answer, and for none after the chosen one.
"""
_RATING_KEYS: Final = ("query", "answer", "likes", "dislikes")
MAX_RATINGS: Final = 1_000_000_000
_KEYS: Final = ("query", "chosen", "rejected", "source", "history", "comment")


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two answers to the same conversation, of which people preferred one.

    Attributes:
        query: The text of the last user turn.
        chosen: The answer that people preferred.
        rejected: The other answer.
        source: What shows the preference: one of SOURCES.
        history: The turns before the query.
        comment: What a user wrote about the rejected answer; empty if nobody wrote anything.
    """

    query: str = field(repr=False)
    chosen: str = field(repr=False)
    rejected: str = field(repr=False)
    source: str
    history: tuple[Message, ...] = field(default=(), repr=False)
    comment: str = field(default="", repr=False)

    @property
    def as_json(self) -> Mapping[str, Any]:
        """The keys and values of the pair in a file. Optional keys that are empty are left out."""
        history = [{"role": turn.role, "content": turn.text} for turn in self.history]
        optional = {"history": history, "comment": self.comment}
        required = {"query": self.query, "chosen": self.chosen, "rejected": self.rejected, "source": self.source}
        return required | {name: value for name, value in optional.items() if value}


@dataclass(frozen=True, slots=True)
class AnswerRatings:
    """How many users liked and disliked an answer.

    Attributes:
        query: The text of the last user turn.
        answer: The answer.
        likes: Number of users who liked it.
        dislikes: Number of users who disliked it.
    """

    query: str = field(repr=False)
    answer: str = field(repr=False)
    likes: int
    dislikes: int

    @property
    def as_json(self) -> Mapping[str, Any]:
        """The keys and values of the ratings in a file."""
        return {"query": self.query, "answer": self.answer, "likes": self.likes, "dislikes": self.dislikes}


@dataclass(frozen=True, slots=True)
class Preferences:
    """What people prefer.

    Attributes:
        pairs: The preference pairs.
        comments: What users wrote about answers that are in no pair.
        ratings: The rated answers. An answer of a pair can be among them.
    """

    pairs: tuple[PreferencePair, ...] = ()
    comments: tuple[str, ...] = field(default=(), repr=False)
    ratings: tuple[AnswerRatings, ...] = ()

    @property
    def as_json(self) -> Sequence[Mapping[str, Any]]:
        """The lines of the file: the pairs, then the ratings, and then the comments."""
        comments = ({"comment": comment} for comment in self.comments)
        return [*(one.as_json for one in self.pairs), *(one.as_json for one in self.ratings), *comments]


def read_preferences(path: Path) -> Preferences:
    """Read a file of preferences.

    Raises:
        DataError: The file cannot be read, or lines are malformed.
    """
    lines = [one for _, one in read_lines(path, _parse_line)]
    pairs = tuple(one for one in lines if isinstance(one, PreferencePair))
    ratings = tuple(one for one in lines if isinstance(one, AnswerRatings))
    return Preferences(pairs, tuple(one for one in lines if isinstance(one, str)), ratings)


def _parse_line(line: bytes, location: str) -> PreferencePair | AnswerRatings | str:
    """Return the pair, the ratings or the comment of a line. Raises DataError."""
    try:
        record = without_nulls(parse_json(line, location))
        if isinstance(record, dict) and record.keys() == {"comment"}:
            return Fields(record, location, ("comment",)).text("comment")
        if isinstance(record, dict) and "answer" in record:
            fields = Fields(record, location, _RATING_KEYS)
            likes, dislikes = (fields.integer(name, 0, MAX_RATINGS) for name in _RATING_KEYS[2:])
            return AnswerRatings(fields.text("query"), fields.text("answer"), likes, dislikes)
        fields = Fields(record, location, _KEYS[:4], _KEYS)
        return PreferencePair(
            fields.text("query"),
            fields.text("chosen"),
            fields.text("rejected"),
            fields.choice("source", SOURCES),
            parse_history(fields.raw("history") if "history" in fields else [], location),
            fields.text("comment") if "comment" in fields else "",
        )
    except BundleError as error:
        raise DataError(str(error)) from None
