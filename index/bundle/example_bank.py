"""Parses and writes examples.jsonl and prompt.txt. This module does not depend on directories or vectors.

Each line of examples.jsonl is one example: `{"id": ..., "query": ..., "response": ..., "pinned": ..., "tags": [...]}`.
A text is unsafe, and is refused, if it contains a role marker of a layout or a control token of a chat template. A
model could take such a marker or token for the beginning of a new turn. A text with a NUL character is unsafe, too. An
error message names the file, the line and the example's id. It never repeats a query or a response.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from typing import Final, overload

import numpy as np
import orjson
from numpy.typing import NDArray

from index.bundle.files import Content
from index.bundle.strict_json import Fields, is_line, parse_json, quoted
from index.errors import BundleFormatError, BundleIntegrityError
from index.layouts import find_marker
from index.types import Example

# The proxy sends the ids of the shown examples in an HTTP header, so an id has only characters that a header allows.
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LINE_BREAK: Final = ord("\n")
_BYTES_PER_READ: Final = 2**24
_LINES_PER_BLOCK: Final = 1_000
_STANDARD_KEYS: Final = len(fields(Example))


def parse_prompt(data: bytes, location: str) -> str:
    """Parse prompt.txt. The prompt is the whole content, decoded as UTF-8 and otherwise unchanged.

    An empty file means that the bundle has no prompt, only examples.

    Raises:
        BundleFormatError: The data is not UTF-8, or has only white space.
        BundleIntegrityError: The prompt is unsafe.
    """
    try:
        prompt = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BundleFormatError(f"{location}: byte {error.start} is not UTF-8. Save the file as UTF-8") from None
    if prompt:
        refuse_unsafe(prompt, f"{location}: the prompt")
    return prompt


def parse_examples(data: bytes, location: str) -> tuple[Example, ...]:
    """Parse examples.jsonl. The examples are returned in the order of their lines.

    An empty file means that the bundle has no examples, only a prompt.

    Raises:
        BundleFormatError: A line is malformed, or two examples have the same id.
        BundleIntegrityError: A text is unsafe.
    """
    lines = data.removesuffix(b"\n").split(b"\n") if data else []
    examples = tuple(parse_example(line, f"{location}, line {n}") for n, line in enumerate(lines, start=1))
    refuse_duplicate_ids(enumerate(examples, start=1), location)
    return examples


class StoredExamples(Sequence[Example]):
    """The examples of a large bank (more than 50,000 examples), in the form of the lines of examples.jsonl.

    To save memory, each access to an example parses its line again. All lines are checked when the object is created.

    Attributes:
        pinned: The positions of the pinned examples in the bank.
    """

    def __init__(self, data: Content, location: str) -> None:
        """Check every line of `data`, the content of examples.jsonl. `location` is the file's name in messages.

        Raises:
            BundleFormatError: A line is malformed, two examples have the same id, or there is no example.
            BundleIntegrityError: A text is unsafe.
        """
        self._data = data
        self._location = location
        self._starts = _line_starts(data)
        self.pinned = self._check()

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, position: int) -> Example: ...
    @overload
    def __getitem__(self, position: slice) -> tuple[Example, ...]: ...
    def __getitem__(self, position: int | slice) -> Example | tuple[Example, ...]:
        if isinstance(position, slice):
            return tuple(self[one] for one in range(*position.indices(len(self))))
        one = range(len(self))[position]
        start, stop = int(self._starts[one]), int(self._starts[one + 1]) - 1
        return parse_example(self._data[start:stop], f"{self._location}, line {one + 1}", _parse_quickly)

    def _check(self) -> Sequence[int]:
        """Check every line and return the positions of the pinned examples."""
        if not len(self):
            raise BundleFormatError(f"{self._location}: there is no example. Add at least one")
        pinned, hashes = [], np.empty(len(self), np.int64)
        for start in range(0, len(self), _LINES_PER_BLOCK):
            for position, (name, is_pinned) in enumerate(self._block(start), start):
                hashes[position] = hash(name)
                if is_pinned:
                    pinned.append(position)
        # Two different ids can have the same hash, so the ids themselves are compared where hashes are equal.
        repeated, counts = np.unique(hashes, return_counts=True)
        suspects = np.flatnonzero(np.isin(hashes, repeated[counts > 1]))
        refuse_duplicate_ids(((int(one) + 1, self[int(one)]) for one in suspects), self._location)
        return pinned

    def _block(self, start: int) -> Sequence[tuple[str, bool]]:
        """Check the block of lines that begins at position `start`. Returns the id and `pinned` of each example.

        A fast check of the whole block comes first. It accepts the block only if each line has exactly the keys that
        `examples_bytes` writes, and is certainly valid. The lines of any other block are parsed one by one.
        """
        positions = range(start, min(start + _LINES_PER_BLOCK, len(self)))
        bounds = self._starts[start : positions.stop + 1].tolist()
        lines = self._data[bounds[0] : bounds[-1]].split(b"\n")[: len(positions)]
        return _parse_standard_lines(lines) or [(one.id, one.pinned) for one in map(self.__getitem__, positions)]


def _parse_standard_lines(lines: Sequence[bytes]) -> Sequence[tuple[str, bool]] | None:
    """Return the id and `pinned` of each example if all lines are in standard form and certainly valid, else None.

    A line in standard form has exactly the keys that `examples_bytes` writes.
    """
    try:
        values = [orjson.loads(line) for line in lines]
        texts = [value[key] for value in values for key in ("query", "response")]
        # One search in the joined texts is faster than one search in each text. Joining does not change what is found:
        # a marker counts only at the beginning of a line, and every text still begins a line.
        together = "\n".join(texts)
        if "\0" in together or find_marker(together) or not all(map(str.strip, texts)):
            return None
        return [(value["id"], value["pinned"]) for value in values] if all(map(_is_standard_record, values)) else None
    except (ValueError, KeyError, TypeError):
        return None


def _is_standard_record(value: dict[str, object]) -> bool:
    """Return whether the object of a line has exactly the standard keys, and its id, `pinned` and tags are valid."""
    name, tags = value["id"], value["tags"]
    return (
        len(value) == _STANDARD_KEYS
        and isinstance(name, str)
        and is_id(name)
        and isinstance(value["pinned"], bool)
        and isinstance(tags, list)
        and all(isinstance(tag, str) and is_line(tag) for tag in tags)
    )


def is_id(text: str) -> bool:
    """Return whether `text` is valid as the id of an example or the name of an example set."""
    return _ID.fullmatch(text) is not None


def pinned_positions(examples: Sequence[Example]) -> Sequence[int]:
    """Return the positions of the pinned examples in the bank."""
    if isinstance(examples, StoredExamples):
        return examples.pinned
    return [position for position, example in enumerate(examples) if example.pinned]


def parse_example(line: bytes, location: str, parse: Callable[[bytes, str], object] = parse_json) -> Example:
    """Parse one line of examples.jsonl. The keys `pinned` and `tags` are optional.

    Args:
        line: The line without its line break.
        location: The name of the file and the number of the line, for messages.
        parse: The JSON parser, which is called with `line` and `location`.

    Raises:
        BundleFormatError: The line is malformed.
        BundleIntegrityError: A text is unsafe.
    """
    if not line.strip():
        raise BundleFormatError(f"{location}: the line is empty. Remove it")
    record = Fields(parse(line, location), location, ("id", "query", "response"), ("pinned", "tags"))
    example = Example(
        id=record.text("id"),
        query=record.text("query"),
        response=record.text("response"),
        pinned=record.flag("pinned") if "pinned" in record else False,
        tags=record.lines("tags") if "tags" in record else (),
    )
    check_example(example, location)
    return example


def _parse_quickly(line: bytes, location: str) -> object:
    """Parse JSON ten times as fast as `parse_json`, but without an error for duplicate keys."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BundleFormatError(f"{location}: is not valid JSON in UTF-8: {error}") from None


def _line_starts(data: Content) -> NDArray[np.int64]:
    """Return the offset at which each line begins. The last element is the offset at which one more line would begin.

    The data is read in pieces to use little memory.
    """
    pieces = range(0, len(data), _BYTES_PER_READ)
    breaks = [
        np.flatnonzero(np.frombuffer(data[at : at + _BYTES_PER_READ], np.uint8) == _LINE_BREAK) + at for at in pieces
    ]
    ends = np.concatenate([np.empty(0, np.int64), *breaks])
    if len(data) and data[-1] != _LINE_BREAK:
        ends = np.append(ends, len(data))
    return np.concatenate([np.zeros(1, np.int64), ends + 1])


def check_example(example: Example, location: str) -> None:
    """Check the id and the texts of an example.

    Raises:
        BundleFormatError: The id is invalid, or a text is blank.
        BundleIntegrityError: A text is unsafe.
    """
    if not is_id(example.id):
        raise BundleFormatError(
            f"{location}: the id {quoted(example.id)} must be 1 to 64 letters, digits, dots, dashes or underscores "
            "(ASCII)"
        )
    advice = "Write a text, or remove the whole example"
    refuse_unsafe(example.query, f"{location}: the query of {quoted(example.id)}", advice)
    refuse_unsafe(example.response, f"{location}: the response of {quoted(example.id)}", advice)


def refuse_duplicate_ids(numbered: Iterable[tuple[int, Example]], location: str) -> None:
    """Check that all ids differ. `numbered` yields each example with the number of its line.

    Raises:
        BundleFormatError: Two examples have the same id.
    """
    first_lines: dict[str, int] = {}
    for n, example in numbered:
        if first_lines.setdefault(example.id, n) != n:
            raise BundleFormatError(
                f"{location}, line {n}: the id {quoted(example.id)} is taken by line {first_lines[example.id]}. "
                "Give each example an id of its own"
            )


def refuse_unsafe(text: str, what: str, advice: str = "Write a text") -> None:
    """Check that `text` is safe and not blank. `what` names it in messages; `advice` says what to do if it is blank.

    Raises:
        BundleFormatError: The text is blank.
        BundleIntegrityError: The text contains a NUL character, a role marker or a control token.
    """
    refuse_unreadable(text, what, advice)
    if (marker := find_marker(text)) is not None:
        raise BundleIntegrityError(
            f"{what} holds the role marker {quoted(marker)}, which a model could take for a new turn. Reword the text"
        )


def refuse_unreadable(text: str, what: str, advice: str = "Write a text") -> None:
    """Check that `text` is not blank and has no NUL character. See `refuse_unsafe` for `what` and `advice`.

    Raises:
        BundleFormatError: The text is blank.
        BundleIntegrityError: The text contains a NUL character.
    """
    if not text.strip():
        raise BundleFormatError(f"{what} is empty, or has only white space. {advice}")
    if "\0" in text:
        raise BundleIntegrityError(f"{what} holds a NUL character. Remove it")


def examples_bytes(examples: Sequence[Example]) -> bytes:
    """Return the content of examples.jsonl.

    Raises:
        BundleFormatError: A text contains an unpaired surrogate, which UTF-8 cannot encode.
    """
    try:
        return "".join(f"{json.dumps(_record(example), ensure_ascii=False)}\n" for example in examples).encode()
    except UnicodeEncodeError:
        raise BundleFormatError("examples.jsonl: holds half of a surrogate pair. Write the whole character") from None


def _record(example: Example) -> dict[str, object]:
    return {
        "id": example.id,
        "query": example.query,
        "response": example.response,
        "pinned": example.pinned,
        "tags": example.tags,
    }
