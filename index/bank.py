"""examples.jsonl and prompt.txt: from bytes to checked values and back. Knows no directory and no vector.

One line is one example: `{"id": ..., "query": ..., "response": ..., "pinned": ..., "tags": [...]}`. A text that could
forge a turn (a role marker of any layout, a control token of a chat template, NUL) is refused. Messages name the file,
the line and the example's id, and never repeat its text.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from index.errors import BundleFormatError, BundleIntegrityError
from index.render import find_marker
from index.strict import Fields, parse_json, quoted
from index.types import Example

# Ids travel in an HTTP header.
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


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


def parse_example(line: bytes, place: str) -> Example:
    """One line. `pinned` and `tags` may be absent. BundleFormatError, BundleIntegrityError."""
    if not line.strip():
        raise BundleFormatError(f"{place}: the line is empty: remove it")
    fields = Fields(parse_json(line, place), place, ("id", "query", "response"), ("pinned", "tags"))
    example = Example(
        id=fields.text("id"),
        query=fields.text("query"),
        response=fields.text("response"),
        pinned=fields.flag("pinned") if "pinned" in fields else False,
        tags=fields.lines("tags") if "tags" in fields else (),
    )
    check_example(example, place)
    return example


def check_example(example: Example, place: str) -> None:
    """Raises what is wrong with the id or a text of `example`."""
    if not _ID.fullmatch(example.id):
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
