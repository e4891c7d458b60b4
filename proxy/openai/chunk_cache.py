"""A fast path for streams: translates a chunk by copying its text into the translation of an earlier chunk.

Nearly all chunks of a stream differ only in their text. Parsing and serializing such a chunk would take several times
as long as copying its text. A chunk that may also differ in another field must be parsed. The module does not depend on
HTTP or on how a request was planned.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

_TEXT_FIELD: Final = b'"text":"'
_CONTENT_FIELD: Final = b'"content":""'


class ChunkCache:
    """Stores one chunk and its translation. For each of the two, it keeps the bytes before and after the text."""

    def __init__(self) -> None:
        self._prefix = self._suffix = b""
        self._translated_prefix = self._translated_suffix = b""

    def translate(self, event: bytes) -> bytes | None:
        """Return the translation of an event that differs from the stored event only in its text.

        Return None if no event is stored, if `event` may differ from the stored event in another field, or if the text
        has a quote or ends with a backslash: then only a parser could find where the text ends.
        """
        prefix, suffix = self._prefix, self._suffix
        if not prefix or not event.startswith(prefix) or not event.endswith(suffix):
            return None
        text = event[len(prefix) : -len(suffix)]
        if not text or b'"' in text or text.endswith(b"\\"):  # the text may end before the suffix
            return None
        return self._translated_prefix + text + self._translated_suffix

    def store(self, event: bytes, text: str, translated: Mapping[str, Any]) -> None:
        """Store an event and its translation, for later events that differ from it only in their text.

        If the text has escapes, or its place in the event or in the translation is not certain, nothing is stored.

        Args:
            event: The bytes of one server-sent event. The chunk in it has exactly one text.
            text: The text of this chunk.
            translated: The chat chunk of the event, with the text as its content.
        """
        prefix, found, rest = event.partition(_TEXT_FIELD)
        encoded_text, _, _ = rest.partition(b'"')
        has_escapes = b"\\" in encoded_text
        if not found or rest.count(_TEXT_FIELD) or has_escapes or encoded_text.decode("utf-8", "replace") != text:
            return
        (choice,) = translated["choices"]
        empty = {**translated, "choices": [{**choice, "delta": {"content": ""}}]}
        serialized = b"data: " + orjson.dumps(empty) + b"\n\n"
        translated_prefix, found, translated_suffix = serialized.partition(_CONTENT_FIELD)
        if not found or translated_suffix.count(_CONTENT_FIELD):
            return
        self._prefix, self._suffix = prefix + _TEXT_FIELD, rest[len(encoded_text) :]
        self._translated_prefix = translated_prefix + _CONTENT_FIELD[:-1]
        self._translated_suffix = b'"' + translated_suffix
