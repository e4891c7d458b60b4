"""A fast path for streams: translates chunks by copying their texts into the translation of an earlier chunk.

Nearly all chunks of a stream differ only in their text. Parsing and checking such a chunk would take several times as
long as comparing its other bytes. A chunk that may also differ in another field must be parsed. The module does not
depend on HTTP or on how a request was planned.
"""

import re
from typing import Final

# The text of one chunk, as JSON: no quotation mark, no control character, and only valid escape sequences. A newline
# stands between the texts of two chunks. Only the class of characters is possessive: before Python 3.11.5, a possessive
# group that contains alternatives could match too much.
_PIECE: Final = rb'(?:[^"\\\x00-\x1f]++|\\(?:[\\/bfnrt]|u[0-9a-fA-F]{4}))+'
_PIECES: Final = re.compile(_PIECE + rb"(?:\n" + _PIECE + rb")*")


class ChunkCache:
    """Stores one event and its translation. For each of the two, it keeps the bytes before and after the text."""

    __slots__ = (
        *("_is_same", "_joint", "_prefix", "_suffix"),
        *("_translated_joint", "_translated_prefix", "_translated_suffix"),
    )

    def __init__(self) -> None:
        self._prefix = self._suffix = self._joint = b""
        self._translated_prefix = self._translated_suffix = self._translated_joint = b""
        self._is_same = False

    def translate(self, events: bytes) -> bytes | None:
        """Return the translation of joined events that differ from the stored event only in their texts.

        Return None if no event is stored, if an event may differ from the stored event in another field, or if a text
        is empty, has a quotation mark or is not valid JSON in UTF-8.
        """
        prefix, suffix = self._prefix, self._suffix
        if not prefix or not events.startswith(prefix) or not events.endswith(suffix):
            return None
        texts = events[len(prefix) : -len(suffix)].split(self._joint)
        separated = texts[0] if len(texts) == 1 else b"\n".join(texts)
        if separated.count(b"\n") != len(texts) - 1 or not _PIECES.fullmatch(separated):  # a text may have a newline
            return None
        if not (separated.isascii() or _is_utf8(separated)):
            return None
        if self._is_same:
            return events
        return b"".join((self._translated_prefix, self._translated_joint.join(texts), self._translated_suffix))

    def store(self, event: bytes, field: str, text: str, translated: bytes, translated_field: str) -> None:
        """Store an event and its translation, for later events that differ from it only in their text.

        If the text has escapes, or its place in the event or in the translation is not certain, nothing is stored.

        Args:
            event: The bytes of one server-sent event. The chunk in it has exactly one text.
            field: The name of the field that has the text in the event.
            text: The text.
            translated: The translation of the event: the bytes of one event that has the same text.
            translated_field: The name of the field that has the text in the translation.
        """
        around, translated_around = _around(event, field, text), _around(translated, translated_field, text)
        if around is None or translated_around is None:
            return
        self._prefix, self._suffix = around
        self._translated_prefix, self._translated_suffix = translated_around
        self._joint = self._suffix + self._prefix
        self._translated_joint = self._translated_suffix + self._translated_prefix
        self._is_same = around == translated_around


def _around(event: bytes, field: str, text: str) -> tuple[bytes, bytes] | None:
    """Return the bytes before and after the text of an event; None if the place of the text is not certain."""
    for mark in (f'"{field}":"'.encode(), f'"{field}": "'.encode()):
        prefix, found, rest = event.partition(mark)
        if found and mark not in rest:
            encoded = rest.partition(b'"')[0]
            is_plain = b"\\" not in encoded and encoded.decode("utf-8", "replace") == text
            return (prefix + mark, rest[len(encoded) :]) if is_plain else None
    return None


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
