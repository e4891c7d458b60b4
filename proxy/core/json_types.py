"""Type aliases for JSON objects, and the repair of JSON texts that parsers refuse although their meaning is clear.

The proxy reads single fields of JSON objects and defines no classes for them.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

Json = Mapping[str, Any]
"""A JSON object that the code only reads."""

JsonDict = dict[str, Any]
"""A JSON object that the code may change."""

_MAX_SHOWN: Final = 60  # characters
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_MAX_REPAIRS: Final = 10_000
"""A text with more escaped surrogates than this number is not repaired, so that a repair takes only milliseconds."""
_LOOK_BACK: Final = 1024  # bytes before a surrogate in which backslashes are counted
# A pair of escaped surrogates, or one surrogate without its partner.
_SURROGATES: Final = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(\\u[dD][c-fC-F][0-9a-fA-F]{2})?|[c-fC-F][0-9a-fA-F]{2})"
)
_UNKNOWN: Final = rb"\ufffd"


def shown(value: object) -> str:
    """Return a client's value for an error message: a text in quotation marks, cut after 60 characters, or only a type.

    A value that is neither text nor a value of another JSON type is a number that `proxy.openai.exact_numbers` kept.
    """
    if isinstance(value, str):
        return repr(value if len(value) <= _MAX_SHOWN else f"{value[:_MAX_SHOWN]}...")
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return "a number"


def repaired_json(data: bytes) -> bytes:
    """Remove the byte order mark of a JSON text, and replace each escaped surrogate without its partner by U+FFFD.

    Programs write such a surrogate if they cut a text in the middle of an emoji. A text with more than _MAX_REPAIRS
    escaped surrogates is not repaired.
    """
    data = data.removeprefix(BYTE_ORDER_MARK)
    if data.count(rb"\ud") + data.count(rb"\uD") > _MAX_REPAIRS:
        return data
    return _SURROGATES.sub(_repaired, data)


def _repaired(found: re.Match[bytes]) -> bytes:
    before = found.string[max(0, found.start() - _LOOK_BACK) : found.start()]
    if (len(before) - len(before.rstrip(b"\\"))) % 2:  # the first backslash is escaped, so it begins no surrogate
        return found[0] if found[1] is None else found[0][: -len(found[1])] + _UNKNOWN
    return _UNKNOWN if found[1] is None else found[0]
