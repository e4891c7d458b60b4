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


_SIMPLIFIED: Final = "".join(map(_simplified_byte, range(256))).encode()
_MANY_DIGITS: Final = b"0" * (_MAX_EXACT_CHARACTERS + 2)
_LARGE_EXPONENT: Final = b"0e000"
_SMALL_EXPONENT: Final = b"0e-000"


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
    return _decode_exactly(data) if _may_change_a_number(data) else value


def _may_change_a_number(data: bytes) -> bool:
    """Whether the data contains a number that orjson may change, or a text that looks like one. The check is fast.

    Such a number has many digits or a large exponent.
    """
    simple = data.translate(_SIMPLIFIED)
    return _MANY_DIGITS in simple or _LARGE_EXPONENT in simple or _SMALL_EXPONENT in simple


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
