"""Finds e-mail addresses, also those that are written in words or with spaces to hide them from programs."""

import re
from collections.abc import Iterator
from typing import Final

from optimizer.data.scrubbing.findings import EMAIL, Finding, folded, matches

_LOCAL: Final = r"(?:\"[^\"\n]{1,64}\"|[\w.!#$%&'*+/=?^`{|}~-]{1,64})"
_DOMAIN: Final = r"(?:\[?\d{1,3}(?:\.\d{1,3}){3}\]?|(?:[\w-]+\.)+[^\W\d_][\w-]+)"
_AT_SIGN: Final = r"(?:[@＠﹫]|&#0{0,3}64;|&#x40;|&commat;|%40)"
"""The sign itself, and how HTML and URLs write it."""
_PLAIN: Final = re.compile(rf"{_LOCAL}{_AT_SIGN}{_DOMAIN}")
_SPACED: Final = re.compile(
    r"(?<![\w+-])[\w+-]{1,64}+(?: ?\. ?[\w+-]{1,64}+){0,4} ?[@＠]"
    r" ?[\w-]{1,63}(?: ?\. ?[\w-]{1,63}){0,4} ?\. ?[a-z]{2,6}\b"
)
"""All repetitions are bounded, so that the time of a search grows with the length of a text, not with its square."""
_SIGN: Final = re.compile(_AT_SIGN)
_IN_WORDS: Final = re.compile(
    r"(?:at|ät|@|arroba|chez|собака)\s*[)\]}>]|[(\[]a[)\]]|\s(?:dot|point|punkt|punto|ponto|kropka|точка)\s"
)
"""A text is searched with the slower patterns only if this pattern matches. Most texts have no match."""
_AT: Final = r"\s*[(\[{<]\s*(?:at|ät|@|arroba|chez|собака)\s*[)\]}>]\s*"
_DOT: Final = r"\s*(?:[(\[{<]\s*(?:dot|punkt|point|punto|ponto|\.|точка)\s*[)\]}>]|\.)\s*"
_LEFT: Final = r"(?<![\w.+-])[\w.+-]{1,64}+"
_BRACKETED: Final = re.compile(rf"{_LEFT}{_AT}[\w-]{{1,63}}(?:{_DOT}[\w-]{{1,63}}){{1,6}}", re.IGNORECASE)
_LONE_A: Final = re.compile(rf"{_LEFT} ?[(\[]a[)\]] ?[\w-]{{2,63}}(?:\.[\w-]{{2,63}}){{0,3}}\.[a-z]{{2,6}}\b")
"""The "(a)" of German and Russian addresses. It often begins an item of a list, so a domain must follow."""
_LANGUAGES: Final = (
    ("at|ät", "dot|punkt"),
    ("arroba", "punto|ponto"),
    ("arobase", "point"),
    ("chiocciola", "punto"),
    ("małpa", "kropka"),
    ("собака", "точка"),
)
"""The words for at and dot of each language. Words of two languages together are no address: "at this point"."""
_SPELLED: Final = tuple(
    re.compile(
        rf"{_LEFT}(?:\s+(?:{dot})\s+[\w-]{{1,64}}){{0,3}}\s+(?:{at})\s+[\w-]{{1,63}}(?:\s+(?:{dot})\s+[\w-]{{1,63}}){{1,5}}",
        re.IGNORECASE,
    )
    for at, dot in _LANGUAGES
)


def find_addresses(text: str) -> Iterator[Finding]:
    """Yield the e-mail addresses of a text."""
    patterns = (_PLAIN, _SPACED) if _SIGN.search(text) else ()
    written = (_BRACKETED, _LONE_A, *_SPELLED) if _IN_WORDS.search(folded(text)) else ()
    for pattern in (*patterns, *written):
        yield from matches(EMAIL, pattern, text)
