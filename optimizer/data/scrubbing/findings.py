"""The value that all rules return, and the names of the kinds of private data."""

import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeAlias

EMAIL: Final = "e-mail address"
PHONE: Final = "phone number"
CARD: Final = "card number"
ACCOUNT: Final = "bank account"
IP: Final = "IP address"
CREDENTIALS: Final = "user and password"
SECRET: Final = "secret"  # noqa: S105 - the name of a kind
NAME: Final = "name"
PLACE: Final = "street address"
DOCUMENT: Final = "document number"


class Finding(NamedTuple):
    """A part of a text that is private.

    Attributes:
        kind: The kind of the private data, such as `e-mail address`. The placeholder is the kind in brackets.
        start: The position of the first private character.
        end: The position after the last one.
    """

    kind: str
    start: int
    end: int


Rule: TypeAlias = Callable[[str], Iterator[Finding]]
"""Yields the private parts of a text."""


def folded(text: str) -> str:
    """Return a text in lower case, in which every character keeps its position.

    A character whose lower case has several characters is left as it is.
    """
    small = text.lower()
    return small if len(small) == len(text) else "".join(low if len(low := one.lower()) == 1 else one for one in text)


def matches(kind: str, pattern: re.Pattern[str], text: str) -> Iterator[Finding]:
    """Yield the matches of a pattern. If the pattern has a group named `private`, only this group is private."""
    group = "private" if "private" in pattern.groupindex else 0
    for match in pattern.finditer(text):
        yield Finding(kind, *match.span(group))
