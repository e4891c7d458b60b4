"""Says where an answer can be cut. The module knows the form of texts, not their language."""

import re
from typing import Final

_MARKER: Final = re.compile(r"(?:^|\n)(?:\W*(?:\d{1,3}|[A-Za-z])[.)]|\s*[-*•–])$")
"""The mark, the number or the letter of a list item, at the end of a text."""
_ABBREVIATION: Final = re.compile(r"\b(?:Dr|Mr|Mrs|Ms|Prof|St|No|vs|e\.g|i\.e|[A-Z])\.$")


def can_end(text: str, end: int) -> bool:
    """Return whether a text can be cut after its first `end` characters, where a sentence or a line seems to end.

    It cannot be cut after the mark of a list item or an abbreviation, or if the next word begins in lower case.
    """
    before, after = text[:end], text[end:].lstrip()
    return bool(before.strip()) and not (_MARKER.search(before) or _ABBREVIATION.search(before) or after[:1].islower())
