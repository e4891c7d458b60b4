"""Finds sequences of consecutive words that two texts share, in any script. All functions are pure."""

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

from index.measures.answer_form import CHARACTERS_PER_WORD

_WORD: Final = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_IGNORED: Final = frozenset(("Mn", "Mc", "Me", "Cf"))
"""Unicode categories of characters that are removed: marks, such as accents, and invisible characters."""
_WITHOUT_SPACES: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u3005-\u3007\u3040-\u312f\u31f0-\u31ff"
    "\u3400-\u9fff\ua000-\ua4cf\ua9e0-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
"""A character of a script in which spaces do not separate words."""
_MAX_WORD_CHARACTERS: Final = 40  # a longer word is a run of characters, as a broken model writes it
Sequences = frozenset[tuple[str, ...]]


def word_sequences(text: str, length: int) -> Sequences:
    """Return all sequences of `length` consecutive words of a text, in lower case and without punctuation.

    In a script in which spaces do not separate words, two characters count as a word, also if the rest of the text is
    in another script. Accents and vowel signs do not count. A text of fewer than `length` words has no sequence.
    """
    units = list(_units(text))
    needed, sequences = length * CHARACTERS_PER_WORD, set()
    end = size = 0
    for start, (_, weight) in enumerate(units):
        while size < needed and end < len(units):
            size += units[end][1]
            end += 1
        if size < needed:
            break
        sequences.add(tuple(unit for unit, _ in units[start:end]))
        size -= weight
    return frozenset(sequences)


def _units(text: str) -> Iterator[tuple[str, int]]:
    """Yield words, and single characters of scripts without spaces, each with its weight.

    The weight of a character is 1. The weight of a whole word is CHARACTERS_PER_WORD.
    """
    for match in _WORD.finditer(_plain(text)):
        word = match[0].replace("\u2019", "'")
        if len(word) > _MAX_WORD_CHARACTERS:
            yield from ((character, 1) for character in word)
            continue
        rest = 0
        for found in _WITHOUT_SPACES.finditer(word):
            if found.start() > rest:
                yield word[rest : found.start()], CHARACTERS_PER_WORD
            yield found[0], 1
            rest = found.end()
        if rest < len(word):
            yield word[rest:], CHARACTERS_PER_WORD


def _plain(text: str) -> str:
    """Return the text in lower case, without marks and invisible characters, and with one form of each letter."""
    if text.isascii():
        return text.lower()
    letters = unicodedata.normalize("NFKD", text.casefold())
    return "".join(one for one in letters if unicodedata.category(one) not in _IGNORED)
