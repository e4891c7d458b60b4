"""Finds names in patterns such as "my name is X", "Dear X" and "Regards, X". A name without a pattern is not found."""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

from optimizer.data.scrubbing.findings import NAME, Finding, folded, matches
from optimizer.data.scrubbing.words import any_of, word_groups

_MAX_WORDS: Final = 5  # words of a name
_MIN_PART: Final = 3  # characters; shorter parts of a name are not searched for on their own
_BEGIN: Final = r"\b"
_TITLED: Final = rf"(?:{any_of('titles')}\.?[^\S\n]+){{0,3}}"
_NO_NAMES: Final = frozenset(word_groups()["no_names"])
_PARTICLES: Final = frozenset(word_groups()["particles"])
_WORD: Final = re.compile(r"[^\W\d_](?:[\w'’.-]*\w)?\.?(?=\W|$)")
_GAP: Final = re.compile(r"[^\S\n]+|,[^\S\n]?(?=[JS]r\b)")
_CLAUSE_END: Final = re.compile(r"[^\S\n]*(?:[,!.:;?)\n،，！]|$)")
_LINE_END: Final = re.compile(r"[^\S\n]*(?:[,.!)]{0,2}[^\S\n]*(?:\n|$))")
_ANY: Final = re.compile(r"")
_CONTRACTION: Final = re.compile(r"['’](?:m|s|re|ll|ve|d|t)$")


def _before_name(group: str, between: str = r"[,:]?[^\S\n]+") -> re.Pattern[str]:
    """Return a pattern that matches a word of a group, and the text between this word and the name.

    Use the pattern on folded text: the text in lower case, in which every character keeps its position (see `folded`).
    """
    return re.compile(rf"{_BEGIN}{any_of(group)}(?![^\W_]){between}[\"'“„(]?{_TITLED}")


_STATED: Final = _before_name("stated", r"[,:]?\s+")
_LABEL: Final = re.compile(
    rf"(?:^|[\n,;|(*])(?>[^\S\n]*(?:[-*•]+[^\S\n]*)?){any_of('labels')}[*]*[^\S\n]*[:：=][^\S\n]*{_TITLED}"
)
_CAPITALISED: Final = (
    (_LABEL, _ANY),
    (_before_name("related"), _ANY),
    (_before_name("presented"), re.compile(rf"\s*(?:,\s|{any_of('presented_ends')}(?![^\W_]))")),
    (_before_name("greetings", r"[^\S\n]+"), _CLAUSE_END),
    (_before_name("sign_offs", r"(?:[^\S\n]*[,.!–-]?[^\S\n]*\n\s*[-–~]?[^\S\n]*|[^\S\n]*,[^\S\n]*)"), _LINE_END),
)
"""Pairs of patterns: for the folded text before a capitalised name, and for the text that must follow the name."""
_SAFE_TITLE: Final = re.compile(rf"{_BEGIN}(?:{any_of('safe_titles')}\.?[^\S\n]+)+")
_UNSPACED: Final = tuple(map(re.compile, word_groups()["unspaced"]))


def find_names(text: str) -> Iterator[Finding]:
    """Yield the names that stand in a known pattern."""
    small = folded(text)
    yield from _after(_STATED.finditer(small), _ANY, text, may_be_small=True)
    yield from _after(_SAFE_TITLE.finditer(text), _ANY, text)
    for begin, follows in _CAPITALISED:
        yield from _after(begin.finditer(small), follows, text)
    for pattern in _UNSPACED:
        yield from matches(NAME, pattern, text)


def find_known_names(text: str, names: Collection[str]) -> Iterator[Finding]:
    """Yield each occurrence of a name in `names`, or of a part of it.

    The names may come from any text of the same conversation, not only from `text`.
    """
    parts = {part for name in names for part in (name, *name.split()) if _is_searched(part, name)}
    if not parts:
        return
    longest_first = "|".join(map(re.escape, sorted(parts, key=len, reverse=True)))
    bounds = (r"(?<!\w)", r"(?!\w)") if all(part.isascii() or _has_case(part) for part in parts) else ("", "")
    yield from matches(NAME, re.compile(rf"{bounds[0]}(?:{longest_first}){bounds[1]}", re.IGNORECASE), text)


def _is_searched(part: str, name: str) -> bool:
    plain = part.strip(".,")
    if not _has_case(plain):
        return part == name and len(part) > 1
    return len(plain) >= _MIN_PART and plain.lower() not in _NO_NAMES | _PARTICLES


def _has_case(word: str) -> bool:
    return word.lower() != word.upper()


def _after(
    begins: Iterable[re.Match[str]], follows: re.Pattern[str], text: str, *, may_be_small: bool = False
) -> Iterator[Finding]:
    """Yield the names after the matches of a pattern.

    Args:
        begins: The matches of a pattern for the text before a name.
        follows: The pattern that must match after the name.
        text: The text.
        may_be_small: Whether the first word of a name may be written in lower case.
    """
    for match in begins:
        words = _name_words(text, match.end(), may_be_small=may_be_small)
        if words and follows.match(text, words[-1].end()):
            yield Finding(NAME, words[0].start(), words[-1].end() - _closing_dot(words))


def _closing_dot(words: Sequence[re.Match[str]]) -> int:
    """Return 1 if the last word ends with the dot of a sentence, else 0. The dot of an initial belongs to the name."""
    word = words[-1][0]
    return int(word.endswith(".") and len(word) > 2)


def _name_words(text: str, start: int, *, may_be_small: bool) -> list[re.Match[str]]:
    """Return the words of the name that begins at a position; none if no name begins there."""
    found: list[re.Match[str]] = []
    while len(found) < _MAX_WORDS and (word := _WORD.match(text, start)):
        plain = _CONTRACTION.sub("", word[0].strip(".").lower())
        is_name = plain not in _NO_NAMES and (not word[0][0].islower() or (may_be_small and not found))
        if not is_name and not (plain in _PARTICLES and (found or word[0].islower())):
            break
        found.append(word)
        gap = _GAP.match(text, word.end())
        if gap is None or (word[0].endswith(".") and len(word[0]) > 2):
            break
        start = gap.end()
    while found and found[-1][0].lower() in _PARTICLES:
        found.pop()
    return found
