"""Finds e-mail addresses, also those that are written in words or with spaces to hide them from programs."""

import re
from collections.abc import Iterator
from typing import Final

from optimizer.data.scrubbing.findings import EMAIL, Finding, folded, matches

_LOCAL: Final = r"(?:\"[^\"\n]{1,64}\"|[\w.!#$%&'*+/=?^`{|}~-]{1,64})"
_DOMAIN: Final = r"(?:\[?\d{1,3}(?:\.\d{1,3}){3}\]?|(?:[\w-]+\.)+[^\W\d_][\w-]+)"
_PLAIN: Final = re.compile(rf"{_LOCAL}[@＠﹫]{_DOMAIN}")
_SPACED: Final = re.compile(r"[\w+-]+(?: ?\. ?[\w+-]+)* ?[@＠] ?[\w-]+(?: ?\. ?[\w-]+)* ?\. ?[a-z]{2,6}\b")
_SIGN: Final = re.compile(r"[@＠﹫]")
_IN_WORDS: Final = re.compile(r"(?:at|ät|@|arroba|chez|собака)\s*[)\]}>]|\s(?:dot|punkt|punto|ponto)\s")
"""What a text must have, so that the slower patterns need not search most texts."""
_AT: Final = r"\s*[(\[{<]\s*(?:at|ät|@|arroba|chez|собака)\s*[)\]}>]\s*"
_DOT: Final = r"\s*(?:[(\[{<]\s*(?:dot|punkt|point|punto|ponto|\.|точка)\s*[)\]}>]|\.)\s*"
_BRACKETED: Final = re.compile(rf"[\w.+-]+{_AT}[\w-]+(?:{_DOT}[\w-]+)+", re.IGNORECASE)
_SPELLED: Final = re.compile(
    r"[\w.+-]+\s+(?:at|ät|arroba)\s+[\w-]+(?:\s+(?:dot|punkt|punto|ponto)\s+[\w-]+)+", re.IGNORECASE
)


def find_addresses(text: str) -> Iterator[Finding]:
    """Yield the e-mail addresses of a text."""
    patterns = (_PLAIN, _SPACED) if _SIGN.search(text) else ()
    written = (_BRACKETED, _SPELLED) if _IN_WORDS.search(folded(text)) else ()
    for pattern in (*patterns, *written):
        yield from matches(EMAIL, pattern, text)
