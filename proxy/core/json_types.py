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

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
# One escape sequence: first a pair of surrogates, then a surrogate without its partner, then any other sequence.
_ESCAPE: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


def repaired_json(data: bytes) -> bytes:
    """Return a JSON text without a byte order mark, and with U+FFFD for each surrogate without its partner.

    Programs write such a surrogate if they cut a text in the middle of an emoji.
    """
    return _ESCAPE.sub(_without_lone_surrogate, data.removeprefix(BYTE_ORDER_MARK))


def _without_lone_surrogate(escape: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if escape[1] else escape[0]
