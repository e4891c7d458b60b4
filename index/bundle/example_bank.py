"""examples.jsonl and prompt.txt: from bytes to checked values and back. Knows no directory and no vector.

One line is one example: `{"id": ..., "query": ..., "response": ..., "pinned": ..., "tags": [...]}`. A text that could
forge a turn (a role marker of any layout, a control token of a chat template, NUL) is refused. Messages name the file,
the line and the example's id, and never repeat its text.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields
from typing import Final, overload

import numpy as np
import orjson
from numpy.typing import NDArray

from index.bundle.files import Content
from index.bundle.strict_json import Fields, is_line, parse_json, quoted
from index.errors import BundleFormatError, BundleIntegrityError
from index.rendering import find_marker
from index.types import Example

# Ids travel in an HTTP header.
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LINE_BREAK: Final = ord("\n")
_BYTES_AT_ONCE: Final = 2**24
_LINES_AT_ONCE: Final = 1_000
_USUAL_KEYS: Final = len(fields(Example))


def parse_prompt(data: bytes, place: str) -> str:
    """The system prompt: exactly these bytes as UTF-8. BundleFormatError, BundleIntegrityError."""
    try:
        prompt = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BundleFormatError(f"{place}: byte {error.start} is not UTF-8: save the file as UTF-8") from None
    refuse_unsafe(prompt, f"{place}: the prompt")
    return prompt


def parse_examples(data: bytes, place: str) -> tuple[Example, ...]:
    """All examples, at least one, in the order of their lines. BundleFormatError, BundleIntegrityError."""
    lines = data.removesuffix(b"\n").split(b"\n") if data else []
    examples = tuple(parse_example(line, f"{place}, line {n}") for n, line in enumerate(lines, start=1))
    if not examples:
        raise BundleFormatError(f"{place}: there is no example: add at least one")
    refuse_doubled_ids(enumerate(examples, start=1), place)
    return examples


class StoredExamples(Sequence[Example]):
    """The examples of a large bank, each read from its line when it is asked for: a million would fill the memory.

    Every line is parsed and checked once at the start, in the way in which it will be read.
    """

    def __init__(self, data: Content, place: str) -> None:
        """`data` is examples.jsonl, mapped as a rule. BundleFormatError, BundleIntegrityError."""
        self._data = data
        self._place = place
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
        return parse_example(self._data[start:stop], f"{self._place}, line {one + 1}", _parse_quickly)

    def _check(self) -> Sequence[int]:
        """The positions of the pinned examples, after every line was parsed."""
        if not len(self):
            raise BundleFormatError(f"{self._place}: there is no example: add at least one")
        pinned, hashes = [], np.empty(len(self), np.int64)
        for start in range(0, len(self), _LINES_AT_ONCE):
            for position, (name, is_pinned) in enumerate(self._block(start), start):
                hashes[position] = hash(name)
                if is_pinned:
                    pinned.append(position)
        repeated, counts = np.unique(hashes, return_counts=True)
        suspects = np.flatnonzero(np.isin(hashes, repeated[counts > 1]))
        refuse_doubled_ids(((int(one) + 1, self[int(one)]) for one in suspects), self._place)
        return pinned

    def _block(self, start: int) -> Sequence[tuple[str, bool]]:
        """Id and `pinned` of some examples, checked together; one by one if anything is not as it usually is."""
        positions = range(start, min(start + _LINES_AT_ONCE, len(self)))
        bounds = self._starts[start : positions.stop + 1].tolist()
        lines = self._data[bounds[0] : bounds[-1]].split(b"\n")[: len(positions)]
        return _usual(lines) or [(one.id, one.pinned) for one in map(self.__getitem__, positions)]


def _usual(lines: Sequence[bytes]) -> Sequence[tuple[str, bool]] | None:
    """Id and `pinned` of each line, if they are as examples_bytes writes them and nothing in them is to be refused."""
    try:
        values = [orjson.loads(line) for line in lines]
        texts = [value[key] for value in values for key in ("query", "response")]
        together = "\n".join(texts)  # a line of each text stays a line, which is what a marker begins
        if "\0" in together or find_marker(together) or not all(map(str.strip, texts)):
            return None
        return [(value["id"], value["pinned"]) for value in values] if all(map(_is_usual, values)) else None
    except (ValueError, KeyError, TypeError):
        return None


def _is_usual(value: dict[str, object]) -> bool:
    """Whether one line has every key and no other, and what stands beside the texts is good."""
    name, tags = value["id"], value["tags"]
    return (
        len(value) == _USUAL_KEYS
        and isinstance(name, str)
        and is_id(name)
        and isinstance(value["pinned"], bool)
        and isinstance(tags, list)
        and all(isinstance(tag, str) and is_line(tag) for tag in tags)
    )


def is_id(text: str) -> bool:
    """Whether `text` may name an example: it travels in an HTTP header."""
    return _ID.fullmatch(text) is not None


def pinned_positions(examples: Sequence[Example]) -> Sequence[int]:
    """Where the pinned examples stand."""
    if isinstance(examples, StoredExamples):
        return examples.pinned
    return [position for position, example in enumerate(examples) if example.pinned]


def parse_example(line: bytes, place: str, parse: Callable[[bytes, str], object] = parse_json) -> Example:
    """One line. `pinned` and `tags` may be absent. BundleFormatError, BundleIntegrityError."""
    if not line.strip():
        raise BundleFormatError(f"{place}: the line is empty: remove it")
    found = Fields(parse(line, place), place, ("id", "query", "response"), ("pinned", "tags"))
    example = Example(
        id=found.text("id"),
        query=found.text("query"),
        response=found.text("response"),
        pinned=found.flag("pinned") if "pinned" in found else False,
        tags=found.lines("tags") if "tags" in found else (),
    )
    check_example(example, place)
    return example


def _parse_quickly(line: bytes, place: str) -> object:
    """As strict as parse_json, but that the last of two equal keys counts; ten times as fast."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BundleFormatError(f"{place}: is not valid JSON in UTF-8: {error}") from None


def _line_starts(data: Content) -> NDArray[np.int64]:
    """Where each line starts, and last where one more would: found in pieces, which take no memory to speak of."""
    pieces = range(0, len(data), _BYTES_AT_ONCE)
    breaks = [
        np.flatnonzero(np.frombuffer(data[at : at + _BYTES_AT_ONCE], np.uint8) == _LINE_BREAK) + at for at in pieces
    ]
    ends = np.concatenate([np.empty(0, np.int64), *breaks])
    if len(data) and data[-1] != _LINE_BREAK:
        ends = np.append(ends, len(data))
    return np.concatenate([np.zeros(1, np.int64), ends + 1])


def check_example(example: Example, place: str) -> None:
    """Raises what is wrong with the id or a text of `example`."""
    if not is_id(example.id):
        raise BundleFormatError(
            f"{place}: the id {quoted(example.id)} must be 1 to 64 letters, digits, dots, dashes or underscores (ASCII)"
        )
    refuse_unsafe(example.query, f"{place}: the query of {quoted(example.id)}")
    refuse_unsafe(example.response, f"{place}: the response of {quoted(example.id)}")


def refuse_doubled_ids(numbered: Iterable[tuple[int, Example]], place: str) -> None:
    """Raises for the second of two examples with one id; `numbered`: each with the number of its line."""
    first_lines: dict[str, int] = {}
    for n, example in numbered:
        if first_lines.setdefault(example.id, n) != n:
            raise BundleFormatError(
                f"{place}, line {n}: the id {quoted(example.id)} is taken by line {first_lines[example.id]}: "
                "give each example its own"
            )


def refuse_unsafe(text: str, what: str) -> None:
    """Raises if `text` is blank, or holds something that could be taken for the beginning of a turn."""
    if not text.strip():
        raise BundleFormatError(f"{what} is empty: write it, or remove it")
    if "\0" in text:
        raise BundleIntegrityError(f"{what} holds a NUL character: remove it")
    if (marker := find_marker(text)) is not None:
        raise BundleIntegrityError(
            f"{what} holds the role marker {quoted(marker)}, which could forge a turn: reword it"
        )


def examples_bytes(examples: Sequence[Example]) -> bytes:
    """The content of examples.jsonl. BundleFormatError for half of a surrogate pair, which UTF-8 cannot write."""
    try:
        return "".join(f"{json.dumps(asdict(example), ensure_ascii=False)}\n" for example in examples).encode()
    except UnicodeEncodeError:
        raise BundleFormatError("examples.jsonl: holds half of a surrogate pair: write the whole character") from None
