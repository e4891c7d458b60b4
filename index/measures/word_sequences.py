"""Finds sequences of consecutive words that two texts share. All functions are pure."""

import re
from typing import Final

from index.measures.answer_form import CHARACTERS_PER_WORD, is_without_spaces

_WORD: Final = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
Sequences = frozenset[tuple[str, ...]]


def word_sequences(text: str, length: int) -> Sequences:
    """Return all sequences of `length` consecutive words of a text, in lower case and without punctuation.

    If spaces do not separate the words of the text, two characters count as a word. A text with fewer words has no
    sequence.
    """
    words = [word.replace("\u2019", "'") for word in _WORD.findall(text.casefold())]
    if is_without_spaces(words):
        words, length = list("".join(words)), length * CHARACTERS_PER_WORD
    return frozenset(tuple(words[start : start + length]) for start in range(len(words) - length + 1))
