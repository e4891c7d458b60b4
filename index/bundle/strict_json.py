"""JSON read without tolerance: whatever is unknown, doubled, missing or of another type is an error with its place.

Knows no particular file. Every error is a BundleFormatError of one line that says where, what, and what is allowed.
"""

import json
import math
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import TypeGuard

from index.errors import BundleFormatError


def parse_json(data: bytes, place: str) -> object:
    """The JSON value in `data` (UTF-8). Doubled keys, NaN, infinities and unpaired surrogates are refused."""
    try:
        text = data.decode("utf-8")
        value: object = json.loads(
            text, object_pairs_hook=_without_doubles, parse_constant=_refuse_constant, parse_float=_finite
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise BundleFormatError(f"{place}: byte {error.start} is not UTF-8: save the file as UTF-8") from None
    except UnicodeEncodeError:
        raise BundleFormatError(f"{place}: holds half of a surrogate pair: write the whole character") from None
    except RecursionError:
        raise BundleFormatError(f"{place}: is nested too deeply to be read") from None
    except ValueError as error:
        raise BundleFormatError(f"{place}: is not valid JSON: {error}") from None
    return value


class Fields:
    """One JSON object whose keys are known in advance; each method takes out one value of one type."""

    def __init__(self, value: object, place: str, required: Collection[str], optional: Collection[str] = ()) -> None:
        """`place` begins every message: a file, a line, or a key inside them."""
        if not isinstance(value, dict):
            raise BundleFormatError(f"{place}: must be an object ({{...}}), not {_kind(value)}")
        self._values: dict[str, object] = value
        self._place = place
        refuse_unknown(value, (*required, *optional), place)
        missing = [key for key in required if key not in value]
        if missing:
            raise BundleFormatError(f"{place}: the key {quoted(missing[0])} is missing: add it")

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def raw(self, key: str) -> object:
        return self._values[key]

    def table(self, key: str) -> dict[str, object]:
        value = self._values[key]
        if not isinstance(value, dict):
            raise self._wrong(key, "an object ({...})")
        return value

    def text(self, key: str) -> str:
        value = self._values[key]
        if not isinstance(value, str):
            raise self._wrong(key, "a string")
        return value

    def line(self, key: str) -> str:
        """A string of printable characters on one line, not empty."""
        value = self._values[key]
        if not isinstance(value, str) or not is_line(value):
            raise self._wrong(key, "a string of one line, not empty")
        return value

    def choice(self, key: str, choices: Collection[str]) -> str:
        value = self._values[key]
        if not isinstance(value, str) or value not in choices:
            raise self._wrong(key, f"one of {', '.join(map(quoted, choices))}")
        return value

    def flag(self, key: str) -> bool:
        value = self._values[key]
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def lines(self, key: str) -> tuple[str, ...]:
        value = self._values[key]
        if not isinstance(value, list) or not all(isinstance(item, str) and is_line(item) for item in value):
            raise self._wrong(key, "a list of strings of one line each, not empty")
        return tuple(value)

    def integer(self, key: str, low: int, high: int) -> int:
        value = self._values[key]
        if not is_integer(value, low, high):
            raise self._wrong(key, f"an integer from {low} to {high}")
        return value

    def number(self, key: str, low: float, high: float) -> float:
        value = self._values[key]
        if not is_number(value, low, high):
            raise self._wrong(key, f"a number from {low:g} to {high:g}")
        return float(value)

    def _wrong(self, key: str, expected: str) -> BundleFormatError:
        return BundleFormatError(f"{self._place}: {quoted(key)} must be {expected}, not {_kind(self._values[key])}")


def refuse_unknown(keys: Iterable[str], known: Collection[str], place: str) -> None:
    """BundleFormatError for the first of `keys` that is not `known`, with the nearest that is."""
    for key in keys:
        if key not in known:
            nearest = get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise BundleFormatError(f"{place}: unknown key {quoted(key)}; the nearest known key is {quoted(nearest)}")


def is_line(text: str) -> bool:
    """Whether `text` is printable, on one line, and neither empty nor blank."""
    return text.isprintable() and bool(text.strip())


def is_integer(value: object, low: int, high: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_number(value: object, low: float, high: float) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def quoted(text: str) -> str:
    """`text` for a message: in quotes, on one line, not long."""
    return json.dumps(text if len(text) <= 60 else f"{text[:60]}...")


def _kind(value: object) -> str:
    """A value for a message: a short one as it is, another by its kind."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return json.dumps(value, default=str)  # TOML has dates


def _without_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key stands twice in the same object: remove one")
    return value


def _refuse_constant(constant: str) -> object:
    raise ValueError(f"{constant} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number
