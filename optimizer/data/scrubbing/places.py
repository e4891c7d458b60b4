"""Finds street addresses with a house number, and the numbers of documents, such as passport and tax numbers."""

import re
from collections.abc import Iterator
from typing import Final

from optimizer.data.scrubbing.findings import DOCUMENT, PLACE, Finding, folded, matches
from optimizer.data.scrubbing.words import any_of, word_groups

_HOUSE: Final = r"\d{1,5}[a-zA-Z]?(?:[-/]\d{1,4})?(?![:.,]\d)"
_CAPITALISED: Final = r"[^\W\d_a-zß-ÿа-яё][\w'’.-]{0,30}"
_INNER: Final = rf"(?:(?:(?:d[aeiou]\w{{0,3}}|l[aeo]s?|el|y|e)|d[’']\w{{1,30}}|{_CAPITALISED})\s){{0,4}}?"
"""The words that may stand between "rue" or "calle" and the last word of a street's name.

If other words stand there, the patterns do not match, because the text is then probably part of a usual sentence.
"""
_CITY: Final = r"(?:,?\s+(?:[A-Z]{1,2}-)?\d{4,5}\s+[^\W\d_][\w-]{1,30})?"
_STREETS: Final = (
    rf"(?<![\w.]){_HOUSE},?\s(?:[A-Z0-9][\w'’.-]{{0,30}}\s){{1,4}}{any_of('streets_after')}(?![^\W_])\.?",
    rf"(?<![^\W_])[^\W\d_][\w-]{{0,40}}{any_of('street_endings')}\s?{_HOUSE}(?!\w){_CITY}",
    rf"(?<![^\W_])(?:[^\W\d_][\w-]{{0,30}}\s){{1,3}}{any_of('streets_apart')}\s{_HOUSE}(?!\w){_CITY}",
    rf"(?<![^\W_]){any_of('streets_before')}\s{_INNER}{_CAPITALISED},?\s(?:n[º°o.]{{1,2}}\s?|д\.\s?)?{_HOUSE}(?!\w){_CITY}",
    rf"(?<![\w.]){_HOUSE}(?:\s(?:bis|ter))?,?\s{any_of('streets_french')}\s{_INNER}(?:[dl][’'])?{_CAPITALISED}{_CITY}",
    r"[一-鿿]{2,12}(?:路|街|道|巷|弄)\d{1,5}[号號][一-鿿\d]{0,12}",
    r"[一-鿿ヶ々ノ]{2,12}\d{1,2}丁目\d{1,3}(?:番(?:地)?|[-－])\d{0,3}号?",
)
_PLACES: Final = tuple(map(re.compile, _STREETS))
_NUMBER: Final = r"(?P<private>[a-z0-9](?:[ ./-]?[a-z0-9]){4,20})(?![^\W_])"
_BETWEEN: Final = (
    r"(?:[ -]?(?:number|no|nr|n|nummer|num|numéro|número|numero|id|号码|號碼)(?![^\W_]))?"
    r"[.:：#º°]{0,2}(?:\s(?:is|ist|est|es|è|é|jest|to))?[:：]?[^\S\n]?"
)
_NAMED: Final = re.compile(
    rf"(?:(?<![^\W_]){any_of('document_words')}|{any_of('unspaced_document_words')}){_BETWEEN}{_NUMBER}"
)
_FORMS: Final = tuple(map(re.compile, word_groups()["document_forms"]))
_MIN_DIGITS: Final = 5  # fewer may be a year


def find_places(text: str) -> Iterator[Finding]:
    """Yield street addresses. A street without a house number does not count, because it identifies nobody."""
    for pattern in _PLACES if any(map(str.isdecimal, text)) else ():
        yield from matches(PLACE, pattern, text)


def find_documents(text: str) -> Iterator[Finding]:
    """Yield the numbers of documents, such as passports.

    A number is found if a word such as "passport" precedes it, or if it has the format of certain national document
    numbers.
    """
    for one in matches(DOCUMENT, _NAMED, folded(text)):
        number = _until_words(text[one.start : one.end])
        if sum(map(str.isdecimal, number)) >= _MIN_DIGITS:
            yield one._replace(end=one.start + len(number))
    for pattern in _FORMS:
        yield from matches(DOCUMENT, pattern, text)


def _until_words(number: str) -> str:
    """Return a number without the words after it.

    The text is cut before the first word that contains no digit. The very first word is always kept.
    """
    parts = number.split(" ")
    words = next((place for place, part in enumerate(parts[1:], start=1) if not any(map(str.isdecimal, part))), None)
    return " ".join(parts[:words])
