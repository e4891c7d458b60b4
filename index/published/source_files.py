"""Reads published files: texts and JSON, but no pickles. This module opens no files."""

import json
import pickletools
import shlex
from pathlib import Path
from typing import Final

from index.bundle.input_files import decode_text
from index.bundle.strict_json import parse_json
from index.errors import BundleFormatError

PICKLE_SUFFIXES: Final = (".pkl", ".pickle")
_PICKLE_REASON: Final = (
    "is a pickle, and reading a pickle can run code, so drpo reads none. If you trust the file, export its prompt as "
    "JSON on your own machine, in the folder of the authors' code, and import the JSON file"
)
_EXPORT: Final = (
    "import json, pickle; p = pickle.load(open({pickled}, {binary})); "
    "p = p.terminal_node.state[-1].system_prompt if hasattr(p, {node}) else p; "
    "json.dump({{{key}: p}}, open({exported}, {writing}))"
)
_MIN_OPERATIONS: Final = 3  # of a pickle that holds more than one plain value
_PICKLE_START: Final = b"\x80"  # the first byte of each pickle since protocol 2, and of no text in UTF-8


def read_text(data: bytes, location: str) -> tuple[str, tuple[str, ...]]:
    """Decode a published text. Returns the text, and a sentence for each kind of bytes that decoding changed.

    Raises:
        BundleFormatError: The file is a pickle or not in UTF-8.
    """
    if location.endswith(PICKLE_SUFFIXES) or _is_pickle(data):
        raise BundleFormatError(pickle_reason(location))
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BundleFormatError(f"{location}: is in UTF-16. Save the file as UTF-8")
    text, lost = decode_text(data, location), []
    if data.startswith(b"\xef\xbb\xbf"):
        lost.append("The byte order mark at the beginning of the file is left out.")
    if b"\r" in data:
        lost.append(f"{data.count(13):,} line breaks are CR or CR LF in the file. They are written as LF.")
    return text, tuple(lost)


def _is_pickle(data: bytes) -> bool:
    """Whether a file is a pickle, whatever its name is. The protocols 0 and 1 are text, so the file is decoded.

    `pickletools.genops` runs no code.
    """
    if data.startswith(_PICKLE_START) or not data.rstrip().endswith(b"."):
        return data.startswith(_PICKLE_START)
    try:
        operations = list(pickletools.genops(data.rstrip()))
    except Exception:  # noqa: BLE001 - a text can be any wrong pickle
        return False
    return len(operations) >= _MIN_OPERATIONS and operations[-1][2] == len(data.rstrip()) - 1


def read_json(data: bytes, location: str) -> object:
    """Parse a published JSON file.

    Raises:
        BundleFormatError: The file is a pickle, not in UTF-8 or not JSON.
    """
    text, _ = read_text(data, location)
    return parse_json(text.encode(), location)


def pickle_reason(location: str) -> str:
    """Return why a pickle is refused, and the command that exports its prompt."""
    path = str(Path(location).absolute())  # the user runs the command in another folder
    exported = f"{path.removesuffix('.pickle').removesuffix('.pkl')}.json"
    texts = {"pickled": path, "exported": exported, "binary": "rb", "writing": "w", "node": "terminal_node"}
    code = _EXPORT.format(key=json.dumps("prompt"), **{name: json.dumps(text) for name, text in texts.items()})
    return f"{location}: {_PICKLE_REASON}:\n  python3 -c {shlex.quote(code)}"
