"""Reads an object that is nearly JSON, as models without a JSON mode write it.

These deviations are read: single or typographic quotation marks, keys and words without quotation marks, quotation
marks inside of a text, commas before a closing bracket, comments, and the constants of Python. All functions are pure.
"""

import json
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from index.bundle.strict_json import object_without_duplicates

MAX_RELAXED_CHARACTERS: Final = 20_000
"""The largest object that is read. A reply of a judge or a writer model is much shorter."""
_TOKEN: Final = re.compile(
    r"""(?P<blank>[\s\ufeff\u200b]+|//[^\n]*|\#[^\n]*|/\*.*?\*/)
    |(?P<text>"(?:[^"\\]|\\.|"(?!\s*(?:[,:}\]]|//|\#)))*"
      |'(?:[^'\\]|\\.|'(?!\s*(?:[,:}\]]|//|\#)))*'
      |[\u201c\u201d\u201e][^\u201c\u201d\u201e]*[\u201c\u201d])
    |(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3})?(?![\w.]))
    |(?P<word>[^\W\d][\w-]*)
    |(?P<sign>[{}\[\]:,])""",
    re.DOTALL | re.VERBOSE,
)
"""A quotation mark ends a text only if a sign of JSON follows it."""
_CONSTANTS: Final[Mapping[str, str]] = MappingProxyType(
    {"true": "true", "True": "true", "false": "false", "False": "false", "null": "null", "None": "null"}
)
_NO_ESCAPE: Final = re.compile(r'\\(?!["\\/bfnrtu])')


def relaxed_object(text: str, start: int) -> tuple[dict[str, Any], int] | None:
    """Return the object that begins at a position of a text, and the position after it. None if it cannot be read.

    An object that has the same key twice, or that is cut at the end of the text, cannot be read.
    """
    tokens, position, depth = list[str](), start, 0
    while found := _TOKEN.match(text, position, start + MAX_RELAXED_CHARACTERS):
        position = found.end()
        if found.lastgroup == "blank":
            continue
        if found[0] in "}]" and tokens[-1:] == [","]:
            tokens.pop()
        depth += (found[0] in "{[") - (found[0] in "}]")
        tokens.append(_as_json(found))
        if depth == 0:
            value = _parsed(tokens)
            return None if value is None else (value, position)
    return None


def _as_json(token: re.Match[str]) -> str:
    """Return a token as JSON writes it."""
    if token.lastgroup == "word":
        return _CONSTANTS.get(token[0]) or json.dumps(token[0])
    if token.lastgroup != "text":
        return token[0]
    inner = _NO_ESCAPE.sub(r"\\\\", token[0][1:-1].replace("\\'", "'"))
    return '"' + re.sub(r'(?<!\\)((?:\\\\)*)"', r'\1\\"', inner) + '"'


def _parsed(tokens: Sequence[str]) -> dict[str, Any] | None:
    try:
        value = json.loads("".join(tokens), strict=False, object_pairs_hook=object_without_duplicates)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
