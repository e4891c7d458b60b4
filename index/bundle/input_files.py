"""Decodes and parses files that people write, such as the examples file for a new bundle. This module opens no files.

The rules for JSONL are less strict than for examples.jsonl in a bundle: an example may have no id, a line may be empty,
and white space may surround a text. A key whose value is null counts as absent. One error reports all invalid lines.
"""

import hashlib
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

from index.bundle.example_bank import check_example, refuse_duplicate_ids, refuse_unsafe
from index.bundle.strict_json import Fields, parse_json, quoted, without_nulls
from index.errors import BundleFormatError, DrpoError
from index.types import Example

T = TypeVar("T")
MAX_BAD_LINES: Final = 10_000
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_ONE_OBJECT: Final = 'Write one JSON object on each line, such as {"query": "..."}'
_MAX_BEGIN: Final = 100_000  # bytes of the first line that are looked at
_OTHER_FORMS: Final = (
    (re.compile(rb"\xff\xfe|\xfe\xff|.?\0", re.DOTALL), "is not in UTF-8, but in UTF-16 or UTF-32. Save it as UTF-8"),
    (re.compile(rb"\x1f\x8b|PK\x03\x04|PAR1|SQLite format|BZh|\x28\xb5\x2f\xfd"), f"is no text file. {_ONE_OBJECT}"),
    (re.compile(rb"version https://git-lfs"), "is a pointer of Git LFS. Fetch the file itself with `git lfs pull`"),
    (re.compile(rb"\s*<(?:!doctype|html|\?xml)", re.IGNORECASE), f"is a page or XML. {_ONE_OBJECT}"),
    (re.compile(rb"\s*\["), f"is a JSON list, and no JSONL. {_ONE_OBJECT}. `jq -c '.[]' FILE` writes a list so"),
    (re.compile(rb"\s*\{[^}]*\Z"), f"has an object on several lines. {_ONE_OBJECT}. `jq -c . FILE` writes objects so"),
    (re.compile(rb"[^\r]*\}\s*\r\s*\{"), "has lines that end with CR alone. Save it with LF or CR LF"),
    (re.compile(rb"\s*\{.*\}\s*,\s*\Z", re.DOTALL), f"has a comma after each object. {_ONE_OBJECT}, without commas"),
    (
        re.compile(rb"[\w \"'.-]{1,40}(?:[,;\t|][\w \"'.-]{0,40}){1,50}\s*\Z"),
        f"is a table (CSV or TSV), and no JSONL. {_ONE_OBJECT}",
    ),
)
"""Files of another form, by the beginning of their first line, and what is wrong with them."""


class BadLinesError(BundleFormatError):
    """An input file has invalid lines, or no example at all.

    Attributes:
        reasons: One message for each invalid line, or a single message that there is no example.
    """

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("\n".join(reasons))
        self.reasons = tuple(reasons)


def decode_text(data: bytes, location: str) -> str:
    """Decode a text file that a person wrote. Byte order marks are removed, and each line ending becomes a line feed.

    Programs on Windows begin a file with a byte order mark, and end its lines with a carriage return and a line feed.

    Raises:
        BundleFormatError: The file is not in UTF-8. The message begins with `location`, the name of the file.
    """
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise BundleFormatError(f"{location}: byte {error.start} is not UTF-8. Save the file as UTF-8") from None


def parse_lines(data: bytes, location: str, parse: Callable[[bytes, str], T]) -> list[tuple[int, T]]:
    """Parse the lines of a JSONL file that a person wrote (see `parse_each_line`).

    Args:
        data: The content of the file.
        location: The name of the file in messages.
        parse: Parses one line.

    Raises:
        BadLinesError: Lines are invalid.
    """
    return list(parse_each_line(data.split(b"\n"), location, parse))


def parse_each_line(lines: Iterable[bytes], location: str, parse: Callable[[bytes, str], T]) -> Iterator[tuple[int, T]]:
    """Yield the number of each line of a JSONL file, counted from 1, and the value that `parse` makes of the line.

    This function parses all files that people write, so that the same rules apply to all of them.

    A line ends with a line feed, or with a carriage return and a line feed. Lines without text are skipped, and byte
    order marks at the beginning of a line are ignored.

    Args:
        lines: The lines of the file, without line feeds.
        location: The name of the file in messages.
        parse: Parses one line. It is called with the line and the line's location, and raises DrpoError if the line is
            invalid.

    Raises:
        BadLinesError: Lines are invalid. It is raised after the last line, or after MAX_BAD_LINES invalid lines. If the
            first line shows that the whole file has another form, it is raised at once.
    """
    reasons, is_first = list[str](), True
    for n, line in enumerate(lines, start=1):
        text = line
        while text.startswith(_BYTE_ORDER_MARK):  # several, if an editor joined files that each begin with a mark
            text = text.removeprefix(_BYTE_ORDER_MARK)
        if not text.strip():
            continue
        try:
            parsed = parse(text, f"{location}, line {n}")
        except DrpoError as error:
            if is_first and (form := _other_form(line)):
                raise BadLinesError([f"{location}: {form}"]) from None
            is_first = False
            reasons.append(str(error))
            if len(reasons) >= MAX_BAD_LINES:
                break
        else:
            is_first = False
            yield n, parsed
    if reasons:
        raise BadLinesError(reasons)


def _other_form(line: bytes) -> str:
    """Return what is wrong with a file whose first line is invalid, if it is another kind of file; otherwise empty."""
    begin = line.removeprefix(_BYTE_ORDER_MARK)[:_MAX_BEGIN]
    return next((reason for form, reason in _OTHER_FORMS if form.match(begin)), "")


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
    numbered = parse_lines(data, location, _parse_input_example)
    if not numbered:
        raise BadLinesError([f"{location}: there is no example. Write at least one, as a line of JSON"])
    refuse_duplicate_ids(numbered, location)
    return tuple(example for _, example in numbered)


def parse_queries(data: bytes, location: str) -> tuple[str, ...]:
    """Parse a file of queries: JSONL with a string "query" in each line, or a text file (.txt) with a query per line.

    Other keys of a JSON object are ignored, so that data sets and logs can be read as they are.

    Args:
        data: The content of the file.
        location: The name of the file. Messages show it, and a name that ends in .txt means plain text.

    Raises:
        BadLinesError: Lines are invalid, or there is no query.
    """
    is_plain = location.lower().endswith(".txt")
    numbered = parse_lines(data, location, _parse_plain_query if is_plain else _parse_json_query)
    if not numbered:
        raise BadLinesError([f"{location}: there is no query. Write at least one, as a line"])
    return tuple(query for _, query in numbered)


def parse_toml(data: bytes, location: str) -> dict[str, Any]:
    """Parse a file of TOML.

    Args:
        data: The content of the file.
        location: The name of the file in messages.

    Raises:
        BundleFormatError: The data is not TOML in UTF-8. The message names the line.
    """
    text = decode_text(data, location)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        end = f"at the end of line {text.rstrip().count(chr(10)) + 1}"
        fault = str(error).replace("at end of document", end)
        raise BundleFormatError(f"{location}: is not TOML: {fault}. Correct it there") from None
    except RecursionError:
        raise BundleFormatError(f"{location}: is not TOML: it is nested too deeply. Remove brackets") from None


def parse_set_prompts(data: bytes, location: str) -> Mapping[str, str]:
    """Parse a TOML file with prompts for example sets. Each key is the name of a set or of a kind.

    Args:
        data: The content of the file.
        location: The name of the file in messages.

    Raises:
        BundleFormatError: The data is not TOML, there is no prompt, or a prompt is blank or no string.
        BundleIntegrityError: A prompt contains a marker or a control token that a model could take for the beginning of
            a turn.
    """
    table = parse_toml(data, location)
    if not table:
        raise BundleFormatError(f'{location}: there is no prompt. Write one, such as other = "Answer briefly."')
    return {name: _parse_set_prompt(one, f"{location}: the prompt of {quoted(name)}") for name, one in table.items()}


def _parse_set_prompt(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise BundleFormatError(f'{what} must be a string. Write NAME = "..." with the name of a set or of a kind')
    refuse_unsafe(value, what, "Write a text, or remove this prompt")
    return value.strip()


def _parse_plain_query(line: bytes, location: str) -> str:
    return decode_text(line, location).strip()


def _parse_json_query(line: bytes, location: str) -> str:
    value = parse_json(line, location)
    query = value.get("query") if isinstance(value, dict) else None
    if not isinstance(query, str) or not query.strip():
        raise BundleFormatError(
            f'{location}: must be an object with a string "query" that is not empty. A file of plain queries needs a '
            "name that ends in .txt"
        )
    return query.strip()


def _parse_input_example(line: bytes, location: str) -> Example:
    record = without_nulls(parse_json(line, location))
    fields = Fields(record, location, ("query", "response"), ("id", "pinned", "tags"))
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
