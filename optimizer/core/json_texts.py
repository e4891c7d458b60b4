"""Reads texts from the JSON of a model's reply. A value that is not a text is an error, and never becomes one."""

from typing import Any

from optimizer.core.errors import UnparsableReplyError


def text_field(fields: Any, name: str) -> str:
    """Return the text under a key of a JSON object that a model wrote.

    Raises:
        UnparsableReplyError: There is no object, the key is missing, or its value is not a text that UTF-8 can encode:
            null, a number, a list, an object, or a text with half of a surrogate pair.
    """
    value = fields.get(name) if isinstance(fields, dict) else None
    if not isinstance(value, str):
        raise UnparsableReplyError(f'"{name}" is not a text')
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UnparsableReplyError(f'"{name}" holds half of a surrogate pair') from None
    return value
