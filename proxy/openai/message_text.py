"""Reads the text of a message, and decides whether a message says something and whether a text has words.

All parts of the proxy use these functions, so that they agree on which messages are empty. All functions are pure.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any, Final, TypeGuard

from proxy.core.errors import BadRequestError
from proxy.core.json_types import Json, shown

_OTHER_CONTENT: Final = ("tool_calls", "function_call", "audio", "reasoning", "reasoning_content")
"""Fields of a message that say something, even if the content of the message is empty."""
_TEXT_TYPES: Final = ("text", "input_text", "output_text", "refusal")
_INVISIBLE: Final = frozenset(
    map(
        chr,
        chain(
            *(range(0x115F, 0x1161), range(0x17B4, 0x17B6), range(0x180B, 0x1810), range(0xFE00, 0xFE10)),
            *(range(0xE0100, 0xE01F0), (0x034F, 0x2800, 0x3164, 0xFFA0, 0xFFFC)),
        ),
    )
)
"""Characters without a shape, although Unicode counts them as letters, symbols or marks: the default ignorable ones
(Unicode, DerivedCoreProperties), the empty braille pattern, and U+FFFC, which stands for an object that is missing."""


def message_text(message: Json) -> str:
    """Return the text of a message. Content that is not text is ignored here. If it is invalid, the backend refuses it.

    If the content is empty, the text is the value of the field `refusal`, in which OpenAI's API returns a refusal.
    """
    content = message.get("content")
    if content.__class__ is str and content:  # the usual case
        return str(content)
    if isinstance(content, list):
        content = "\n".join(text for part in content if isinstance(text := _part_text(part), str))
    if content and isinstance(content, str):
        return content
    refusal = message.get("refusal")
    return refusal if isinstance(refusal, str) else ""


def content_text(content: object, field_name: str) -> str:
    """Return the text of a message's content.

    Args:
        content: A string, None (an empty text), or a list of text parts. The parts are joined by newlines.
        field_name: The name of the field in error messages.

    Raises:
        BadRequestError: The content is of another type, or a part is not text.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise BadRequestError(f"{field_name} must be a string or a list of parts.", param="messages")
    return "\n".join(_checked_text(part, field_name) for part in content)


def _checked_text(part: object, field_name: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type", "text") in _TEXT_TYPES and isinstance(text := _part_text(part), str):
        return text
    kind = f"a part of type {shown(part.get('type'))}" if isinstance(part, dict) else shown(part)
    raise BadRequestError(
        f"{field_name}: a base model reads text, not {kind}. Use a chat model that accepts it.",
        param="messages",
    )


def is_empty(message: Json) -> bool:
    """Whether a message says nothing: it has no visible character, no part other than text, and no tool call."""
    content = message.get("content")
    if content.__class__ is str and content and _is_plain(content[0]):  # the usual case
        return False
    if any(_says_something(message.get(name)) for name in _OTHER_CONTENT):
        return False
    if isinstance(content, list):
        if not all(_is_text_part(part) for part in content):
            return False
    elif content is not None and not isinstance(content, str):
        return False
    return is_blank(message_text(message))


def _says_something(value: object) -> bool:
    return not is_blank(value) if isinstance(value, str) else bool(value)


def other_parts(messages: Sequence[Json]) -> int:
    """Return how many parts are not text, such as images, plus how many entries of `messages` have no role."""
    contents = [message.get("content") for message in messages if message.get("content").__class__ is not str]
    if not contents:  # the usual case
        return 0
    parts = sum(not _is_text_part(part) for content in contents if isinstance(content, list) for part in content)
    return parts + sum("role" not in message for message in messages)


def is_blank(text: str) -> bool:
    """Whether a text has no visible character."""
    if text and _is_plain(text[0]):  # the usual case
        return False
    return not any(character.isprintable() and not _is_invisible(character) for character in text)


def has_words(text: str) -> bool:
    """Whether a text has a letter, a digit or an emoji. Examples cannot be retrieved for a text that has none."""
    if text and _is_plain(text[0]):  # the usual case
        return True
    return any((character.isalnum() or _is_emoji(character)) and not _is_invisible(character) for character in text)


def are_plain_texts(contents: list[Any]) -> TypeGuard[list[str]]:
    """Whether all contents are texts that begin with a letter or a digit. The check is fast for many contents."""
    if set(map(type, contents)) != {str}:
        return False
    beginnings = {content[:1] for content in contents}
    return all(map(str.isalnum, beginnings)) and beginnings.isdisjoint(_INVISIBLE)


def _is_plain(character: str) -> bool:
    return character.isascii() and character.isalnum()


def _is_invisible(character: str) -> bool:
    return character.isspace() or character in _INVISIBLE


def _is_emoji(character: str) -> bool:
    return (
        "\U0001f000" <= character < "\U000e0000"
        or "\u2600" <= character <= "\u27bf"
        or "\u2b00" <= character <= "\u2bff"
        or "\u2300" <= character <= "\u23ff"
    )


def _is_text_part(part: object) -> bool:
    """Whether a part of a message's content is text, or null."""
    return part is None or isinstance(part, str) or (isinstance(part, dict) and part.get("type", "text") in _TEXT_TYPES)


def _part_text(part: object) -> object:
    return part.get("text", part.get("refusal")) if isinstance(part, dict) else part
