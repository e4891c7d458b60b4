"""Parses JSON strictly: an unknown, duplicate or missing key is an error, and so is a value of an unexpected type.

Every error is a BundleFormatError. Its message has one line, which names the location and the problem. This module does
not depend on what a particular file contains.
"""

import json
import math
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import Any, TypeGuard

from index.errors import BundleFormatError


def parse_json(data: bytes, location: str) -> object:
    """Parse the JSON value in `data` (UTF-8). Every message begins with `location`.

    Raises:
        BundleFormatError: The data is not JSON in UTF-8, is nested too deeply, or contains a duplicate key, NaN, an
            infinity or an unpaired surrogate.
    """
    try:
        text = data.decode("utf-8")
        value: object = json.loads(
            text,
            object_pairs_hook=object_without_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise BundleFormatError(f"{location}: byte {error.start} is not UTF-8. Save the file as UTF-8") from None
    except UnicodeEncodeError:
        raise BundleFormatError(f"{location}: holds half of a surrogate pair. Write the whole character") from None
    except RecursionError:
        raise BundleFormatError(f"{location}: is nested too deeply to be read. Remove brackets") from None
    except ValueError as error:
        raise BundleFormatError(f"{location}: is not valid JSON: {error}") from None
    return value


class Fields:
    """A JSON object whose keys have been checked.

    Each method returns the value of one key. Each method except `raw` first checks the value, and raises
    BundleFormatError if its type is wrong or the value is not valid.
    """

    def __init__(self, value: object, location: str, required: Collection[str], optional: Collection[str] = ()) -> None:
        """Check the keys of an object.

        Args:
            value: The value, which must be a JSON object.
            location: The place of the value, such as a file and a line. Every message begins with it.
            required: Keys that the object must have.
            optional: Further keys that the object may have.

        Raises:
            BundleFormatError: The value is not an object, or a key is unknown or missing.
        """
        if not isinstance(value, dict):
            raise BundleFormatError(f"{location}: must be an object ({{...}}), not {_describe(value)}")
        self._values: dict[str, object] = value
        self._location = location
        refuse_unknown(value, (*required, *optional), location)
        missing = [key for key in required if key not in value]
        if missing:
            raise BundleFormatError(f"{location}: the key {quoted(missing[0])} is missing. Add it")

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def raw(self, key: str) -> object:
        return self._values[key]

    def table(self, key: str) -> dict[str, object]:
        value = self._values[key]
        if not isinstance(value, dict):
            raise self._type_error(key, "an object ({...})")
        return value

    def text(self, key: str) -> str:
        value = self._values[key]
        if not isinstance(value, str):
            raise self._type_error(key, "a string")
        return value

    def line(self, key: str) -> str:
        """Return a string that is printable, on one line, and not blank."""
        value = self._values[key]
        if not isinstance(value, str) or not is_line(value):
            raise self._type_error(key, "a string of one line, not empty")
        return value

    def choice(self, key: str, choices: Collection[str]) -> str:
        value = self._values[key]
        if not isinstance(value, str) or value not in choices:
            raise self._type_error(key, f"one of {', '.join(map(quoted, choices))}")
        return value

    def flag(self, key: str) -> bool:
        value = self._values[key]
        if not isinstance(value, bool):
            raise self._type_error(key, "true or false")
        return value

    def lines(self, key: str) -> tuple[str, ...]:
        value = self._values[key]
        if not isinstance(value, list) or not all(isinstance(item, str) and is_line(item) for item in value):
            raise self._type_error(key, "a list of strings of one line each, not empty")
        return tuple(value)

    def integer(self, key: str, low: int, high: int) -> int:
        value = self._values[key]
        if not is_integer(value, low, high):
            raise self._type_error(key, f"an integer from {low} to {high}")
        return value

    def number(self, key: str, low: float, high: float) -> float:
        value = self._values[key]
        if not is_number(value, low, high):
            raise self._type_error(key, f"a number from {low:g} to {high:g}")
        return float(value)

    def _type_error(self, key: str, expected: str) -> BundleFormatError:
        return BundleFormatError(
            f"{self._location}: {quoted(key)} must be {expected}, not {_describe(self._values[key])}"
        )


def refuse_unknown(keys: Iterable[str], known: Collection[str], location: str) -> None:
    """Raise BundleFormatError for the first key that is not in `known`. The message names the nearest known key."""
    for key in keys:
        if key not in known:
            nearest = get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise BundleFormatError(
                f"{location}: unknown key {quoted(key)}; the nearest known key is {quoted(nearest)}"
            )


def without_nulls(value: object) -> object:
    """Return a JSON object without the keys whose value is null. Any other value is returned unchanged."""
    return {key: one for key, one in value.items() if one is not None} if isinstance(value, dict) else value


def is_line(text: str) -> bool:
    """Return whether `text` is printable, on one line, and not blank."""
    return text.isprintable() and bool(text.strip())


def is_integer(value: object, low: int, high: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_number(value: object, low: float, high: float) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def quoted(text: str) -> str:
    """Return `text` as it appears in messages: in quotes, on one line, and cut after 60 characters."""
    return json.dumps(text if len(text) <= 60 else f"{text[:60]}...")


def _describe(value: object) -> str:
    """Return a short description of any JSON or TOML value, for a message."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return json.dumps(value, default=str)  # `default` is for dates: the optimizer checks TOML with this module


def object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object with these keys and values. Raises ValueError if a key appears twice."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key appears twice in the same object. Remove one of the two")
    return value


def _refuse_constant(constant: str) -> object:
    raise ValueError(f"{constant} is not a JSON number. Write a number")


def _finite_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number is too large. Write a smaller one")
    return number
