"""Parses the examples file that people write as the input of a new bundle. This module opens no files.

The rules are less strict than for examples.jsonl in a bundle: an example may have no id, a line may be empty, and white
space may surround a text. One error reports all invalid lines.
"""

import hashlib
from collections.abc import Iterator

from index.bundle.example_bank import check_example, refuse_duplicate_ids
from index.bundle.strict_json import Fields, parse_json
from index.errors import BundleError, BundleFormatError
from index.types import Example

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class BadLinesError(BundleFormatError):
    """An input file has invalid lines, or no example at all.

    Attributes:
        reasons: One message for each invalid line, or a single message that there is no example.
    """

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("\n".join(reasons))
        self.reasons = tuple(reasons)


def parse_input_examples(data: bytes, location: str) -> tuple[Example, ...]:
    """Parse a JSONL file of examples. Each line has a query and a response, and optionally an id, `pinned` and tags.

    An example without an id gets a hash of its query and response as its id. This id stays the same when the line moves
    to another place in the file.

    Args:
        data: The content of the file.
        location: The name of the file in messages.

    Raises:
        BadLinesError: Lines are invalid, or there is no example.
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
