"""Finds candidates that differ from a known one only in the order of words, in punctuation or in function words.

Such an edit costs as many calls as any other, and a model rarely answers differently because of it.
"""

import re
import unicodedata
from typing import Final

import orjson

from optimizer.core.candidate import Candidate
from optimizer.core.journal import NO_CHANGE
from optimizer.templates import template

_TOKEN: Final = re.compile(r"[\w']+|[^\w\s]")
SAME_AS_PARENT: Final = f"{NO_CHANGE} content word of its parent"
SAME_AS_KNOWN: Final = f"{NO_CHANGE} content word of an earlier candidate"


class KnownCandidates:
    """Remembers the content of all candidates of a search."""

    def __init__(self) -> None:
        self._known: set[bytes] = set()

    def add(self, candidate: Candidate) -> None:
        """Remember a candidate."""
        self._known.add(_content(candidate))

    def fault(self, child: Candidate, parent: Candidate) -> str:
        """Return why a candidate is not new. If it is new, return an empty text, and remember the candidate."""
        content = _content(child)
        if content == _content(parent):
            return SAME_AS_PARENT
        if content in self._known:
            return SAME_AS_KNOWN
        self._known.add(content)
        return ""


def content_words(text: str) -> list[str]:
    """Return the content words of a text in alphabetical order, in lower case, as often as they occur.

    Punctuation and function words (templates/function_words.txt) are left out. `not`, `no`, `never`, `if` and `unless`
    are no function words. A symbol that is no punctuation, such as a plus sign, counts as a word.
    """
    tokens = _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())
    function_words = frozenset(template("function_words").split())
    return sorted(token for token in tokens if not _is_punctuation(token) and token not in function_words)


def _content(candidate: Candidate) -> bytes:
    """Return a value that is equal for two candidates if only their prompts differ, and these in no content word."""
    prompts = {one.name: content_words(one.prompt) for one in candidate.bank.sets if one.prompt is not None}
    rest = candidate.with_prompt("")
    return orjson.dumps([content_words(candidate.prompt), prompts, rest.key])


def _is_punctuation(token: str) -> bool:
    return all(unicodedata.category(character).startswith("P") for character in token)
