"""Decodes JSON so that each number can be encoded again without a change of its value.

orjson turns integers of more than 64 bits into floats, rounds long decimal fractions, turns very small numbers into 0,
and rejects numbers that are larger than a float. A number that orjson would change is kept as `orjson.Fragment`, which
contains the digits as the client wrote them. Such a number is neither an int nor a float, so the proxy passes it to the
backend and never computes with it.
"""

import json
from typing import Any, Final, NoReturn

import orjson

from proxy.core.errors import BadRequestError
from proxy.core.json_types import repaired_json

_MAX_EXACT_CHARACTERS: Final = 15
"""A float keeps all digits of a number that has no more characters than this, and no exponent."""
_MAX_INTEGER: Final = 2**64 - 1
_MIN_INTEGER: Final = -(2**63)


def _simplified_byte(byte: int) -> str:
    character = chr(byte)
    if character in "0123456789.":
        return "0"
    return {"e": "e", "E": "e", "+": "-", "-": "-"}.get(character, "x")


# Maps each byte to one that stands for its kind: 0 for digits and points, e for exponents, - for signs, x for others.
_SIMPLIFIED: Final = "".join(map(_simplified_byte, range(256))).encode()
_MANY_DIGITS: Final = b"0" * (_MAX_EXACT_CHARACTERS + 2)
_LARGE_EXPONENT: Final = b"0e000"
_SMALL_EXPONENT: Final = b"0e-000"
_ANY_EXPONENT: Final = b"0e"
_BYTES_PER_VALUE: Final = 64
"""Decoded JSON is searched for floats only if it has at most one value per this many bytes.

The search then takes less time than the check of the bytes.
"""


def decode(data: bytes) -> Any:
    """Decode JSON. A number whose value a float or a 64-bit integer cannot hold becomes an orjson.Fragment.

    Raises:
        orjson.JSONDecodeError: The data is not JSON.
        BadRequestError: The data is nested too deep.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if "infinity" not in error.msg:
            raise
        return _decode_exactly(data)
    if _has_no_float(value, len(data) // _BYTES_PER_VALUE) or not _may_change_a_number(data):
        return value
    return _decode_exactly(data)


def _has_no_float(value: Any, most: int) -> bool:
    """Return whether a decoded value certainly has no float. orjson makes a float of each number that it changes.

    Args:
        value: The decoded value.
        most: The maximum number of values that are searched. If there are more, the result is False.
    """
    containers: list[Any] = [[value]]
    visited = 0
    for container in containers:  # the list grows while it is read
        children = container.values() if container.__class__ is dict else container
        visited += len(children)
        if visited > most:
            return False
        for child in children:
            kind = child.__class__
            if kind is float:
                return False
            if kind is dict or kind is list:
                containers.append(child)
    return True


def _may_change_a_number(data: bytes) -> bool:
    """Return whether the data contains a number that orjson may change, or a text that looks like one.

    Such a number has many digits or a large exponent.
    """
    simple = data.translate(_SIMPLIFIED)
    if _MANY_DIGITS in simple:
        return True
    return _ANY_EXPONENT in simple and (_LARGE_EXPONENT in simple or _SMALL_EXPONENT in simple)


def _decode_exactly(data: bytes) -> Any:
    try:
        return json.loads(repaired_json(data).decode(), parse_int=_integer, parse_float=_float, parse_constant=_refuse)
    except RecursionError as error:
        raise BadRequestError("The body is nested too deep.") from error
    except ValueError as error:
        raise BadRequestError(f"The body is not JSON: {error}.") from error


def _integer(literal: str) -> int | orjson.Fragment:
    if len(literal) > len(str(_MIN_INTEGER)):
        return orjson.Fragment(literal.encode())
    value = int(literal)
    return value if _MIN_INTEGER <= value <= _MAX_INTEGER else orjson.Fragment(literal.encode())


def _float(literal: str) -> float | orjson.Fragment:
    value = float(literal)
    is_short = len(literal) <= _MAX_EXACT_CHARACTERS and "e" not in literal.lower()
    is_exact = is_short or literal in (repr(value), orjson.dumps(value).decode())
    return value if is_exact else orjson.Fragment(literal.encode())


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")
