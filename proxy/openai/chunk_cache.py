"""Translates by a short way those chunks of a stream that differ from an earlier one in their text alone, as nearly all
do: what stands around the text was translated once, and the text's own JSON is copied. Knows no HTTP and no plan.

Parsing and writing each chunk anew costs four times as much (tests/bench/README.md). Whatever is not surely the same is
left to be parsed.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

_TEXT: Final = b'"text":"'
_CONTENT: Final = b'"content":""'


class PlainChunks:
    """Remembers one chunk: what stood before and behind its text, and what came of it."""

    def __init__(self) -> None:
        self._before = self._behind = b""
        self._translated_before = self._translated_behind = b""

    def translate(self, event: bytes) -> bytes | None:
        """The translation of a whole event that is like the remembered one but for its text; None for any other."""
        before, behind = self._before, self._behind
        if not before or not event.startswith(before) or not event.endswith(behind):
            return None
        text = event[len(before) : -len(behind)]
        if not text or b'"' in text or text.endswith(b"\\"):  # an escaped quote: let a parser say where the text ends
            return None
        return self._translated_before + text + self._translated_behind

    def remember(self, event: bytes, text: str, translated: Mapping[str, Any]) -> None:
        """Keep an event whose one text is `text`, and the chat chunk that came of it, whose content is that text."""
        before, found, rest = event.partition(_TEXT)
        written, _, _ = rest.partition(b'"')
        if not found or rest.count(_TEXT) or b"\\" in written or written.decode("utf-8", "replace") != text:
            return
        (choice,) = translated["choices"]
        empty = {**translated, "choices": [{**choice, "delta": {"content": ""}}]}
        ours_before, ours, ours_behind = (b"data: " + orjson.dumps(empty) + b"\n\n").partition(_CONTENT)
        if not ours or ours_behind.count(_CONTENT):
            return
        self._before, self._behind = before + _TEXT, rest[len(written) :]
        self._translated_before, self._translated_behind = ours_before + _CONTENT[:-1], b'"' + ours_behind
