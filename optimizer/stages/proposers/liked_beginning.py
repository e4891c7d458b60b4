"""Finds the beginning of an example's answer that people like best.

A base model imitates where the answers of its examples end. So an answer that has the preferred form only in its first
sentence is the better example without the rest, and an answer that is longer than the model may write teaches an end
that no reader sees. Only whole sentences and whole lines are cut off.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from index.measures.sentence_end import can_end

MAX_WORDS: Final = 150
_BYTES_PER_TOKEN: Final = 4
"""English has about four bytes per token. What is a little too long counts as seen, so that little is cut off."""
_SAME_CHANCE: Final = 0.02
_END: Final = re.compile(r"[.!?…。！？؟][\"'”’)\]*]*(?=\s|$)|(?<=[^\s:])(?=\s*\n)|\Z")


@dataclass(frozen=True, slots=True)
class Beginning:
    """The beginning of an answer, or the whole answer.

    Attributes:
        text: The text.
        chance: The estimated share of users who like what they see of an answer of this form.
        is_seen: Whether a model that imitates it can write all of it.
    """

    text: str
    chance: float
    is_seen: bool


def liked_beginning(answer: str, chance: Callable[[str], float], max_tokens: int | None) -> Beginning | None:
    """Return the beginning of an answer that people like best; None if all are too long for an example.

    Of beginnings that people like equally, one that the model can write as a whole is preferred, and then the longest.

    Args:
        answer: The answer.
        chance: Returns the estimated share of users who like an answer of the form of a text.
        max_tokens: The maximum length of the model's answers. None if there is no maximum.
    """
    room = _BYTES_PER_TOKEN * max_tokens if max_tokens else None
    found = [_beginning(text, chance, room) for text in beginnings(answer) if len(text.split()) <= MAX_WORDS]
    if not found:
        return None
    best = max(one.chance for one in found)
    return max(
        (one for one in found if one.chance >= best - _SAME_CHANCE), key=lambda one: (one.is_seen, len(one.text))
    )


def beginnings(answer: str) -> Iterator[str]:
    """Yield the beginnings of an answer that end with a sentence or a line, and the whole answer last.

    An answer with code has no other beginning, because half of it may not work.
    """
    text = answer.strip()
    ends = [] if "```" in text else [found.end() for found in _END.finditer(text)]
    yield from dict.fromkeys(text[:end] for end in (*ends, len(text)) if end == len(text) or can_end(text, end))


def _beginning(text: str, chance: Callable[[str], float], room: int | None) -> Beginning:
    seen = _seen(text, room)
    return Beginning(text, chance(seen), seen == text)


def _seen(text: str, room: int | None) -> str:
    """Return what fits into a number of bytes, without the last word, which may be cut in two."""
    content = text.encode("utf-8", "surrogatepass")
    if room is None or len(content) <= room:
        return text
    return content[:room].decode("utf-8", "ignore").rpartition(" ")[0]
