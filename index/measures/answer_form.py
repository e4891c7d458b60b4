"""Pure functions that measure the form of an answer. They do not call a model."""

import re
from collections.abc import Sequence
from typing import Final

_GRAM_WORDS: Final = 4
CHARACTERS_PER_WORD: Final = 2  # in scripts without spaces, such as Chinese, most words have one or two characters
_MAX_WORD_CHARACTERS: Final = 20  # a longer average means that the text is not separated by spaces
_SCRIPTS_WITHOUT_SPACES: Final = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


def ends_by_itself(finish_reason: str) -> bool:
    """Return whether the model itself ended the answer. If not, the server cut it, usually at the maximum length."""
    return finish_reason == "stop"


def repeated_share(answer: str) -> float:
    """Return the share of repeated sequences of four words among all sequences of four words of an answer.

    A sequence is repeated if it also occurs earlier in the answer. The share is 0 if the answer has no such sequence.
    If spaces do not separate the words of the answer, sequences of eight characters take the place of four words.
    """
    words = answer.split()
    if is_without_spaces(words):
        return _repeated_share("".join(words), _GRAM_WORDS * CHARACTERS_PER_WORD)
    return _repeated_share(words, _GRAM_WORDS)


def word_count(answer: str) -> int:
    """Return the number of words of an answer. Two characters are one word if spaces do not separate the words."""
    words = answer.split()
    if is_without_spaces(words):
        return -(-sum(map(len, words)) // CHARACTERS_PER_WORD)
    return len(words)


def is_empty(answer: str) -> bool:
    """Return whether an answer contains no letter and no digit of any script."""
    return not any(map(str.isalnum, answer))


def is_without_spaces(words: Sequence[str]) -> bool:
    """Return whether the text is in a script without spaces, or is one long run of characters without spaces."""
    text = "".join(words)
    if len(text) > _MAX_WORD_CHARACTERS * len(words):
        return True
    return 2 * len(_SCRIPTS_WITHOUT_SPACES.findall(text)) > len(text)


def _repeated_share(units: Sequence[str], length: int) -> float:
    grams = [tuple(units[start : start + length]) for start in range(len(units) - length + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
