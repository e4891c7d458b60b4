"""Examples as people write them, for a bundle that is to be built. Knows the text of the file, not where it lies.

More is allowed than in a bundle: ids may be absent, lines may be empty, white space may surround a text. All bad lines
are found in one reading.
"""

import hashlib
from collections.abc import Iterator

from index.bundle.example_bank import check_example, refuse_doubled_ids
from index.bundle.strict_json import Fields, parse_json
from index.errors import BundleError, BundleFormatError
from index.types import Example

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class BadLinesError(BundleFormatError):
    """Lines that are no examples; `reasons`: one line of text for each."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("\n".join(reasons))
        self.reasons = tuple(reasons)


def draft_examples(data: bytes, place: str) -> tuple[Example, ...]:
    """The examples of a JSONL file: query, response, and optionally id, pinned and tags. BadLinesError.

    An absent id is made of the example's text, and so stays the same when lines are moved.
    """
    numbered: list[tuple[int, Example]] = []
    reasons: list[str] = []
    for n, line in _filled_lines(data):
        try:
            numbered.append((n, _draft_example(line, f"{place}, line {n}")))
        except BundleError as error:
            reasons.append(str(error))
    if reasons:
        raise BadLinesError(reasons)
    if not numbered:
        raise BadLinesError([f"{place}: there is no example: write at least one, as a line of JSON"])
    refuse_doubled_ids(numbered, place)
    return tuple(example for _, example in numbered)


def _filled_lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    lines = enumerate(data.removeprefix(_BYTE_ORDER_MARK).split(b"\n"), start=1)
    return ((n, line) for n, line in lines if line.strip())


def _draft_example(line: bytes, place: str) -> Example:
    fields = Fields(parse_json(line, place), place, ("query", "response"), ("id", "pinned", "tags"))
    query, response = fields.text("query").strip(), fields.text("response").strip()
    example = Example(
        id=fields.text("id") if "id" in fields else _make_id(query, response),
        query=query,
        response=response,
        pinned=fields.flag("pinned") if "pinned" in fields else False,
        tags=fields.lines("tags") if "tags" in fields else (),
    )
    check_example(example, place)
    return example


def _make_id(query: str, response: str) -> str:
    return hashlib.sha256(f"{query}\0{response}".encode()).hexdigest()[:12]
