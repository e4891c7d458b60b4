"""Chooses the passages of a query that are embedded: the whole query, or the opening and the ending of a long one.

The vector of a long text is a mean over its subjects, so a text that a user pastes outweighs the question. People put
the question or the task first or last. Of a long query, the opening and the ending are therefore embedded, each alone.
The retriever uses the passage that resembles an example most. The time to embed a query thus has an upper bound that
does not depend on its length.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from index.embedders.base import Embedder
from index.types import Vectors

MAX_PASSAGE_CHARACTERS: Final = 200
MAX_WHOLE_CHARACTERS: Final = 2 * MAX_PASSAGE_CHARACTERS
"""The maximum length of a query that is one passage."""

_READ_CHARACTERS: Final = 4_000  # at each end of the text; a passage further inside is not found
_MIN_SENTENCE_CHARACTERS: Final = 15  # a shorter sentence, such as "Thanks!", needs its neighbour
_SENTENCE_END: Final = re.compile(r"(?<=[.!?\u2026])[\"'\u201d\u00bb)\]]*\s+|(?<=[\u3002\uff01\uff1f])")


def query_passages(text: str) -> tuple[str, ...]:
    """Return the passages of a query: one if it has at most 400 characters, otherwise two of at most 200 characters.

    The two passages come from the first and from the last line that holds a letter or a digit. A line of more than 200
    characters is cut to its first or its last sentence. If this sentence is very short, such as "Thanks!", its
    neighbour is added.
    """
    if len(text) <= MAX_WHOLE_CHARACTERS:
        return (text,)
    first = _first_with_words(text[:_READ_CHARACTERS].splitlines())
    last = _first_with_words(reversed(text[-_READ_CHARACTERS:].splitlines()))
    return _opening(first), _ending(last)


def read_parts(texts: Sequence[str]) -> Sequence[str]:
    """Return the part of each text from which its passages are taken: the whole text, or both ends of a long text.

    The passages of the part are the passages of the text.
    """
    if max(map(len, texts), default=0) <= 2 * _READ_CHARACTERS:  # the usual case
        return texts
    return [text if len(text) <= 2 * _READ_CHARACTERS else _ends(text) for text in texts]


def embed_query(embedder: Embedder, text: str) -> Vectors:
    """Return the vectors of a query's passages: (passages, dimension).

    Raises:
        EmbedderError: The embedder did not answer.
    """
    return embedder.embed(query_passages(text))


def _ends(text: str) -> str:
    return text[:_READ_CHARACTERS] + text[-_READ_CHARACTERS:]


def _first_with_words(lines: Iterable[str]) -> str:
    return next((line.strip() for line in lines if any(map(str.isalnum, line))), "")


def _opening(line: str) -> str:
    if len(line) <= MAX_PASSAGE_CHARACTERS:
        return line
    return " ".join(_enough(_SENTENCE_END.split(line[:MAX_PASSAGE_CHARACTERS])))


def _ending(line: str) -> str:
    if len(line) <= MAX_PASSAGE_CHARACTERS:
        return line
    return " ".join(reversed(_enough(reversed(_SENTENCE_END.split(line[-MAX_PASSAGE_CHARACTERS:])))))


def _enough(sentences: Iterable[str]) -> list[str]:
    """Return the first sentences that have 15 characters together."""
    taken: list[str] = []
    for sentence in filter(None, sentences):
        taken.append(sentence)
        if sum(map(len, taken)) >= _MIN_SENTENCE_CHARACTERS:
            break
    return taken
