"""Reads the fields of a request that the proxy depends on, and checks their JSON types.

The backend checks all other fields.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from proxy.core.errors import BadRequestError

_WHOLE_NUMBER: Final = re.compile(r"\s*([+-]?[0-9]{1,18})(?:\.0*)?\s*")


def object_field(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the object in a field; {} if the field is absent or null. Raises BadRequestError for another type."""
    value = body.get(name)
    return {} if value is None else _typed(body, name, dict, "an object") or {}


def list_field(body: Mapping[str, Any], name: str) -> Sequence[Any]:
    """Return the list in a field; empty if the field is absent or null. Raises BadRequestError for another type."""
    return _typed(body, name, list, "a list") or ()


def text_field(body: Mapping[str, Any], name: str) -> str:
    """Return the string in a field; empty if the field is absent or null. Raises BadRequestError for another type."""
    return _typed(body, name, str, "a string") or ""


def flag_field(body: Mapping[str, Any], name: str) -> bool:
    """Return the boolean in a field; false if the field is absent or null. Raises BadRequestError for another type."""
    value = body.get(name)
    return bool(value) if value is None or value is True else _typed(body, name, bool, "true or false") or False


def whole_number(value: object) -> int | None:
    """Return a value as vLLM reads it in a field for integers, or None if vLLM refuses it.

    vLLM also accepts a float without a fraction, such as 4000.0, and a text of digits. Some clients send these.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    found = _WHOLE_NUMBER.fullmatch(value) if isinstance(value, str) else None
    return int(found[1]) if found else None


def encode(body: Mapping[str, Any]) -> bytes:
    """Serialize the body of a request as JSON. Raises BadRequestError if the body is nested too deep."""
    try:
        return orjson.dumps(body)
    except TypeError as error:
        raise BadRequestError("The body is nested too deep.") from error


def _typed(body: Mapping[str, Any], name: str, expected: type, description: str) -> Any:
    value = body.get(name)
    if value is not None and not isinstance(value, expected):
        raise BadRequestError(f"`{name}` must be {description}.", param=name)
    return value
