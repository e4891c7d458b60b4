"""Finds keys, tokens, passwords, and URLs with credentials."""

import re
from collections.abc import Iterator
from typing import Final

from optimizer.data.scrubbing.findings import CREDENTIALS, SECRET, Finding, folded, matches
from optimizer.data.scrubbing.words import any_of

_KEY_BLOCK: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_WEB_TOKEN: Final = re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?")
_KNOWN_PREFIX: Final = re.compile(
    r"\b(?:sk|pk|rk)[-_](?:[a-z]{1,20}[-_]){0,4}[A-Za-z0-9]{12,}[\w-]*|\b(?:gh[opsur]|hf|npm|shp[a-z]{2}|dop_v1|drpo)_[A-Za-z0-9]{12,}\w*"
    r"|\bgithub_pat_\w{20,}|\bgl[a-z]{2,4}-[\w-]{16,}|\bxox[a-z]-[\w-]{10,}|\b(?:AKIA|ASIA|AIDA|AROA)[A-Z0-9]{12,}"
    r"|\bAIza[\w-]{30,}|\bya29\.[\w-]{20,}|\bSG\.[\w-]{16,}\.[\w-]{16,}|\bpypi-[\w-]{20,}"
)
_AUTHORIZATION: Final = re.compile(r"\b(?:bearer|basic|token)\s+(?P<private>[\w.~+/=-]{16,})", re.IGNORECASE)
_WORD: Final = rf"(?<![^\W_]){any_of('password_words')}"
_ASSIGNED: Final = re.compile(rf"{_WORD}[\"']?\s*(?::|=|：|:=|=>)\s*[\"']?(?P<private>[^\s\"',;]{{4,}})")
_STATED: Final = re.compile(rf"{_WORD}\s+{any_of('password_verbs')}\s+[\"'`]?(?P<private>[^\s\"'`,;]{{4,}})")
_LONG_TOKEN: Final = re.compile(r"(?<![\w/.-])[A-Za-z0-9_-]{24,}(?![\w-])")
_MIN_DIGITS, _MIN_LETTERS = 4, 4
_URL_LOGIN: Final = re.compile(
    r"(?<![a-z0-9+.-])[a-z][a-z0-9+.-]{0,30}+://(?P<private>[^\s/@:]*:[^\s/@]+)@", re.IGNORECASE
)
_URL_PARAMETER: Final = re.compile(
    r"[?&](?:[\w-]*(?:token|key|secret|signature|password|passwd)|sig|pwd|code|session|sid|auth)=(?P<private>[^&\s#]{4,})",
    re.IGNORECASE,
)


def find_secrets(text: str) -> Iterator[Finding]:
    """Yield private keys, tokens and passwords, and the credentials in URLs."""
    small = folded(text)
    yield from matches(SECRET, _ASSIGNED, small)
    for pattern in (_KEY_BLOCK, _WEB_TOKEN, _KNOWN_PREFIX, _AUTHORIZATION):
        yield from matches(SECRET, pattern, text)
    for pattern in (_URL_LOGIN, _URL_PARAMETER):
        yield from matches(CREDENTIALS, pattern, text)
    yield from (one for one in matches(SECRET, _STATED, small) if _is_no_word(text[one.start : one.end]))
    yield from (one for one in matches(SECRET, _LONG_TOKEN, text) if _is_mixed(text[one.start : one.end]))


def _is_no_word(value: str) -> bool:
    """Whether the text after "the password is" can be a password. A plain word, such as "wrong", cannot."""
    return not value.strip(".!?)").isalpha()


def _is_mixed(token: str) -> bool:
    """Whether a long token has digits among its letters, as random tokens have and words do not."""
    digits = sum(map(str.isdigit, token))
    letters = sum(map(str.isalpha, token))
    return digits >= _MIN_DIGITS and letters >= _MIN_LETTERS and not token.strip("-_").isupper()
