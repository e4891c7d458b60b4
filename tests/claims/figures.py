"""Finds the figures of a text, and says whether another text has the same figures.

A figure is a number that is not a part of a word, a version, a date or the level of an interval. The other text may
round a figure, and may write a share as per cent.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from tests.claims.pages import without_code, without_links

_NOT_FIGURES: Final = re.compile(
    r"`[^`]*`"  # code
    r"|<!--.*?-->"
    r"|https?://\S+"
    r"|\b\d{1,2} (?:January|February|March|April|May|June|July|August|September|October|November|December) \d{4}\b"
    r"|\b\d{4}-\d{2}-\d{2}\b"
    r"|\b(?:Python|version|arXiv) \d[\d.]*"
    r"|\b\d+(?:\.\d+)? %(?= (?:confidence )?(?:intervals?|level)\b)",
    re.DOTALL,
)
_NUMBER: Final = r"[+-]?\d+(?:,\d{3})*(?:\.\d+)?"
_PERCENT: Final = rf"\s?%|(?= (?:to|and|or) {_NUMBER}\s?%)"
_FIGURE: Final = re.compile(rf"(?<![\w.,/#-])({_NUMBER})(?![\w-]|[.,]\d)({_PERCENT})?( \[{_NUMBER}, {_NUMBER}\])?")


@dataclass(frozen=True, slots=True)
class Figure:
    """A number of a text.

    Attributes:
        text: How the text writes it, with its interval.
        value: Its value.
        unit: The value of one step of its last digit, such as 0.01.
        is_percent: Whether it is a number of per cent.
        has_interval: Whether an interval follows it.
    """

    text: str
    value: float
    unit: float
    is_percent: bool
    has_interval: bool


def figures(text: str) -> Iterator[Figure]:
    """Yield the figures of a text, in their order."""
    for found in _FIGURE.finditer(_NOT_FIGURES.sub(" ", without_links(without_code(text)))):
        number = found[1].replace(",", "")
        unit = 10.0 ** -len(number.partition(".")[2])
        yield Figure(found[0].strip(), float(number), unit, found[2] is not None, bool(found[3]))


def is_in(figure: Figure, text: str) -> bool:
    """Return whether a text has a figure.

    It may have more digits there, or be a share in place of per cent, or vice versa.
    """
    if figure.has_interval:
        return _plain(figure.text) in _plain(text)
    return any(_is_rounded(figure, value) for other in figures(text) for value in _values(other, figure))


def missing(figures_of: Iterable[Figure], text: str) -> list[str]:
    """Return the figures that a text does not have."""
    return [one.text for one in figures_of if not is_in(one, text)]


def _plain(text: str) -> str:
    """Return the text with single spaces, and without the plus signs of numbers."""
    return re.sub(r"\+(?=\d)", "", re.sub(r"\s+", " ", text))


def _values(other: Figure, figure: Figure) -> Iterator[float]:
    yield other.value
    if figure.is_percent and not other.is_percent:
        yield 100 * other.value
    if other.is_percent and not figure.is_percent:
        yield other.value / 100


def _is_rounded(figure: Figure, value: float) -> bool:
    return abs(figure.value - value) <= figure.unit / 2 + 1e-9
