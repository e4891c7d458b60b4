"""Finds card numbers, bank accounts, IP addresses and phone numbers. Digits of all scripts count."""

import ipaddress
import re
import unicodedata
from collections.abc import Iterator
from typing import Final

from optimizer.data.scrubbing.findings import ACCOUNT, CARD, IP, PHONE, Finding, matches
from optimizer.data.scrubbing.words import any_of

_GAP: Final = r"[ \u00a0\u202f.\-–]?"
"""What may stand between two characters of the number of a card or of an account."""
_CARD: Final = re.compile(rf"(?<!\d)\d(?:{_GAP}\d){{12,18}}(?!\d)")
_ISSUED: Final = re.compile(r"3\d{13,15}|4\d{12}|4\d{15}|4\d{18}|5\d{15}|2[2-7]\d{14}|6\d{11,18}|[89]\d{15}")
_ACCOUNT: Final = re.compile(rf"(?<![^\W_])[A-Z]{{2}}{_GAP}\d{{2}}(?:{_GAP}[A-Z0-9]){{11,30}}(?![^\W_])", re.IGNORECASE)
_ANNOUNCED_ACCOUNT: Final = re.compile(
    rf"(?<![^\W_])IBAN\W{{0,3}}(?:is\s|ist\s|est\s|es\s)?(?P<private>[A-Z]{{2}}{_GAP}\d{{2}}(?:{_GAP}\d){{4,30}})",
    re.IGNORECASE,
)
"""A number that is called an IBAN is private, also with a mistake in it."""
_MIN_ACCOUNT: Final = 15  # characters of the shortest IBAN, which is that of Norway
_IP_4: Final = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?!\.?\d)")
_IP_6: Final = re.compile(r"(?<![\w:.])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?![\w:])", re.IGNORECASE)

_MIN_PHONE, _MAX_PHONE = 7, 15  # digits; E.164 allows 15
_MIN_ANNOUNCED: Final = 6  # digits of a number after a word such as "call"
_MIN_NATIONAL, _MAX_NATIONAL = 9, 12  # digits of a number without a country code
_ANNOUNCED_WITHIN: Final = 32  # characters between a word such as "call" and the number
_NUMBER: Final = re.compile(
    r"(?<![^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3])(?<![.,+])(?:\+|＋)?[(（]?\d(?:[\s().,/‐-―\-（）－・]{0,3}\d){5,17}(?:\s*(?:ext\.?|extension|x|#|dw)\s*\d{1,5})?(?![\d%])",
    re.IGNORECASE,
)
_PHONE_WORD: Final = re.compile(
    rf"(?<![^\W_]){any_of('phone_words')}(?![^\W_])|{any_of('unspaced_phone_words')}", re.IGNORECASE
)
_GROUPED: Final = re.compile(r"\(?\d{2,4}\)?[\s./-]{1,2}\d{2,4}(?:[\s./-]\d{2,4}){1,3}")
_AREA_CODE: Final = re.compile(r"(?:8[\s-]?)?\(\d{2,5}\)[\s-]?\d{3,5}[\s-]?(?:\d{3,5}|\d\d[\s-]\d\d)")
_PAIRS: Final = re.compile(r"\d\d(?: \d\d)+")
_THOUSANDS: Final = re.compile(r"\d{1,3}(?:([ ,.\u00a0\u202f'])\d{3})(?:\1\d{3})*(?:(?!\1)[.,]\d+)?")
_DATE: Final = re.compile(
    r"(?:\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{2,4}|\d{4}\s*[-–]\s*\d{4})(?:[T\s].*)?"
)
_PLAIN: Final = re.compile(r"[2-9]\d{9}|1\d{10}|[2-9]\d{10}")


def find_numbers(text: str) -> Iterator[Finding]:
    """Yield card numbers and bank accounts whose check digits are right, IP addresses, and phone numbers."""
    yield from (Finding(CARD, *one.span()) for one in _CARD.finditer(text) if _is_card(_digits(one[0])))
    yield from _accounts(text)
    for pattern in (_IP_4, _IP_6):
        yield from (Finding(IP, *one.span()) for one in pattern.finditer(text) if _is_address(one[0]))
    for one in _NUMBER.finditer(text):
        if _is_phone(one[0], text[max(0, one.start() - _ANNOUNCED_WITHIN) : one.start()]):
            yield Finding(PHONE, *one.span())


def _digits(text: str) -> str:
    """Return the digits of a text, of any script, as ASCII digits."""
    return "".join(str(unicodedata.decimal(one)) for one in text if one.isdecimal())


def _is_card(digits: str) -> bool:
    """Whether an issuer of cards has such numbers, and the last digit is the check digit of Luhn's algorithm.

    Source: ISO/IEC 7812.
    """
    if not _ISSUED.fullmatch(digits):
        return False
    doubled = (2 * int(one) if place % 2 else int(one) for place, one in enumerate(reversed(digits)))
    return len(set(digits)) > 1 and sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def _accounts(text: str) -> Iterator[Finding]:
    """Yield bank accounts. The words that follow an account may look like a part of it, so shorter ends are tried."""
    for match in _ACCOUNT.finditer(text):
        ends = [end for end in range(match.end(), match.start(), -1) if text[end - 1].isalnum()]
        found = next((end for end in ends if _is_account(text[match.start() : end])), None)
        if found is not None:
            yield Finding(ACCOUNT, match.start(), found)
    yield from matches(ACCOUNT, _ANNOUNCED_ACCOUNT, text)


def _is_account(text: str) -> bool:
    """Whether a text is an IBAN: the remainder of its division by 97 is 1 (ISO 13616)."""
    plain = "".join(filter(str.isalnum, text)).upper()
    if len(plain) < _MIN_ACCOUNT or not plain.isascii():
        return False
    return int("".join(str(int(one, 36)) for one in plain[4:] + plain[:4])) % 97 == 1


def _is_address(text: str) -> bool:
    """Whether a text is an IP address that identifies a machine, unlike 127.0.0.1, :: and netmasks."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or text.startswith("255."))


def _is_phone(number: str, before: str) -> bool:
    """Whether a number is a phone number, by its form or by a word before it.

    Args:
        number: Digits with the characters between them.
        before: The text before the number.
    """
    digits = _digits(number)
    if _DATE.fullmatch(number) or not _MIN_ANNOUNCED <= len(digits) <= _MAX_PHONE + 5:
        return False
    if "," in number or _THOUSANDS.fullmatch(number):
        return "," in number and not _THOUSANDS.fullmatch(number) and _PHONE_WORD.search(before) is not None
    if _PHONE_WORD.search(before):
        return True
    if number[0] in "+＋" or digits.startswith("00"):
        return len(digits) >= _MIN_PHONE
    if digits.startswith("0"):
        return _MIN_NATIONAL <= len(digits) <= _MAX_NATIONAL
    is_grouped = _is_grouped(number) and _MIN_NATIONAL < len(digits) <= _MAX_NATIONAL
    return is_grouped or (_PLAIN.fullmatch(number) is not None and not digits.endswith("000"))


def _is_grouped(number: str) -> bool:
    """Whether the digits are grouped as in a phone number. Digits in pairs alone are more likely a list of numbers."""
    return not _PAIRS.fullmatch(number) and any(form.fullmatch(number) for form in (_GROUPED, _AREA_CODE))
