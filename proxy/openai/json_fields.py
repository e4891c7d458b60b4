"""Reads those fields of a request that the proxy itself looks at: each has the JSON type it must have, or is absent.

All other fields are the backend's to judge. Pure.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from proxy.core.errors import BadRequestError


def object_field(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The object in a field; an empty one where it is absent or null. Raises BadRequestError."""
    return _typed(body, name, dict, "an object") or {}


def list_field(body: Mapping[str, Any], name: str) -> Sequence[Any]:
    """The list in a field; an empty one where it is absent or null. Raises BadRequestError."""
    return _typed(body, name, list, "a list") or ()


def text_field(body: Mapping[str, Any], name: str) -> str:
    """The string in a field; an empty one where it is absent or null. Raises BadRequestError."""
    return _typed(body, name, str, "a string") or ""


def flag_field(body: Mapping[str, Any], name: str) -> bool:
    """The flag in a field; false where it is absent or null. Raises BadRequestError."""
    return _typed(body, name, bool, "true or false") or False


def encode(body: Mapping[str, Any]) -> bytes:
    """A request's body as JSON. Raises BadRequestError where it is nested too deep to be written."""
    try:
        return orjson.dumps(body)
    except TypeError as error:
        raise BadRequestError("The body is nested too deep.") from error


def _typed(body: Mapping[str, Any], name: str, wanted: type, described: str) -> Any:
    value = body.get(name)
    if value is not None and not isinstance(value, wanted):
        raise BadRequestError(f"`{name}` must be {described}.", param=name)
    return value
