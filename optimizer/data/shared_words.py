"""Finds texts that share eight or more consecutive words with a row. Such a text copies the row."""

import re
from collections.abc import Iterable, Iterator
from typing import Final

MAX_SHARED_WORDS: Final = 7
"""A text may share at most this number of consecutive words with a row."""

_WORD: Final = re.compile(r"\w+")


class RowTexts:
    """The texts of rows, in a form in which they are found in other texts. Case and punctuation do not matter."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._runs = {run for text in texts for run in _runs(text)}

    def share_words(self, text: str) -> bool:
        """Whether a text shares eight or more consecutive words with one of the rows."""
        return any(run in self._runs for run in _runs(text))


def _runs(text: str) -> Iterator[tuple[str, ...]]:
    words = _WORD.findall(text.casefold())
    length = MAX_SHARED_WORDS + 1
    return (tuple(words[start : start + length]) for start in range(len(words) - length + 1))
