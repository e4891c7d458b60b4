"""Parses the examples that people write as the input of a new bundle. It depends on the content of the file alone.

The input may be less strict than a bundle: ids may be absent, lines may be empty, and white space may surround a text.
All invalid lines are reported together.
"""

import hashlib
from collections.abc import Iterator

from index.bundle.example_bank import check_example, refuse_duplicate_ids
from index.bundle.strict_json import Fields, parse_json
from index.errors import BundleError, BundleFormatError
from index.types import Example

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class BadLinesError(BundleFormatError):
    """Lines are not valid examples.

    Attributes:
        reasons: One message for each invalid line.
    """

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("\n".join(reasons))
        self.reasons = tuple(reasons)


def parse_input_examples(data: bytes, location: str) -> tuple[Example, ...]:
    """Parse the examples of a JSONL file: query, response, and optionally id, pinned and tags.

    An absent id is a hash of the example's text, so that it stays the same when lines are moved.

    Args:
        data: The content of the file.
        location: The name of the file in messages.

    Raises:
        BadLinesError: Lines are invalid, or there are none.
        BundleFormatError: Two examples have the same id.
    """
    numbered: list[tuple[int, Example]] = []
    reasons: list[str] = []
    for n, line in _lines_with_text(data):
        try:
            numbered.append((n, _parse_input_example(line, f"{location}, line {n}")))
        except BundleError as error:
            reasons.append(str(error))
    if reasons:
        raise BadLinesError(reasons)
    if not numbered:
        raise BadLinesError([f"{location}: there is no example: write at least one, as a line of JSON"])
    refuse_duplicate_ids(numbered, location)
    return tuple(example for _, example in numbered)


def _lines_with_text(data: bytes) -> Iterator[tuple[int, bytes]]:
    lines = enumerate(data.removeprefix(_BYTE_ORDER_MARK).split(b"\n"), start=1)
    return ((n, line) for n, line in lines if line.strip())


def _parse_input_example(line: bytes, location: str) -> Example:
    fields = Fields(parse_json(line, location), location, ("query", "response"), ("id", "pinned", "tags"))
    query, response = fields.text("query").strip(), fields.text("response").strip()
    example = Example(
        id=fields.text("id") if "id" in fields else _make_id(query, response),
        query=query,
        response=response,
        pinned=fields.flag("pinned") if "pinned" in fields else False,
        tags=fields.lines("tags") if "tags" in fields else (),
    )
    check_example(example, location)
    return example


def _make_id(query: str, response: str) -> str:
    return hashlib.sha256(f"{query}\0{response}".encode()).hexdigest()[:12]
