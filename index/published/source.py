"""Defines what an importer reads: the input of a bundle, and what the bundle cannot express of the original.

This module opens no files.
"""

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Final

from index.bundle.input_files import decode_text
from index.errors import BundleFormatError
from index.layouts import TextLayout
from index.rendering import render_example, render_prompt
from index.token_estimate import estimated_tokens
from index.types import Example, RetrievalPolicy

_PICKLE_REASON: Final = (
    "is a pickle, and reading a pickle can run code, so drpo reads none. If you trust the file, export its prompt as "
    "JSON on your own machine, in the folder of the authors' code, and import the JSON file"
)
_EXPORT: Final = (
    "import json, pickle; p = pickle.load(open({pickled}, {binary})); "
    "p = p.terminal_node.state[-1].system_prompt if hasattr(p, {node}) else p; "
    "json.dump({{{key}: p}}, open({exported}, {writing}))"
)
_PICKLE_START: Final = b"\x80"  # the first byte of each pickle since protocol 2, and of no text in UTF-8
_MAX_PLACES: Final = 10
_MAX_SHOWN_LINES: Final = 3
_MAX_SHOWN_CHARACTERS: Final = 40
_ROUNDED_TO: Final = 128
_MAX_EXACT_LINES: Final = 1_000


@dataclass(frozen=True, slots=True)
class Published:
    """A published prompt with its examples, as the parts of a bundle.

    Attributes:
        layout: The name of the layout that writes the text of the authors.
        prompt: The system prompt; empty if the authors have none.
        examples: The examples, in the order of the authors.
        retrieval: The policy with which the authors choose examples.
        lost: What the bundle does not express of the original, one sentence each.
        size: The number of bytes of the original text, if the bundle gives exactly this text; otherwise None.
    """

    layout: str
    prompt: str
    examples: tuple[Example, ...]
    retrieval: RetrievalPolicy
    lost: tuple[str, ...]
    size: int | None


def published(
    layout: TextLayout,
    prompt: str,
    examples: Sequence[Example],
    retrieval: RetrievalPolicy,
    texts: tuple[str, str],
    lost: Iterable[str],
) -> Published:
    """Compare both texts, and return what was read.

    Args:
        layout: The layout that writes the text of the authors.
        prompt: The system prompt.
        examples: The examples, in the order of the authors.
        retrieval: The policy with which the authors choose examples.
        texts: The text that the authors' code makes of their files, and the text that the bundle gives.
        lost: What is already known to be lost.
    """
    original, rendered = texts
    all_lost = (*lost, *differences(original, rendered))
    size = len(original.encode()) if original == rendered else None
    return Published(layout.name, prompt, tuple(examples), retrieval, all_lost, size)


def read_text(data: bytes, location: str) -> tuple[str, tuple[str, ...]]:
    """Decode a published text. Returns the text, and what is lost of its line breaks and its byte order mark.

    Raises:
        BundleFormatError: The file is a pickle or not in UTF-8.
    """
    if data.startswith(_PICKLE_START) or location.endswith((".pkl", ".pickle")):
        raise BundleFormatError(pickle_reason(location))
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BundleFormatError(f"{location}: is in UTF-16: save the file as UTF-8")
    text, lost = decode_text(data, location), []
    if data.startswith(b"\xef\xbb\xbf"):
        lost.append("The byte order mark at the beginning of the file is left out.")
    if b"\r" in data:
        lost.append(f"{data.count(13):,} line breaks are CR or CR LF in the file. They are written as LF.")
    return text, tuple(lost)


def pickle_reason(location: str) -> str:
    """Return why a pickle is refused, and the command that exports its prompt."""
    path = str(Path(location).absolute())  # the user runs the command in another folder
    exported = f"{path.removesuffix('.pickle').removesuffix('.pkl')}.json"
    texts = {"pickled": path, "exported": exported, "binary": "rb", "writing": "w", "node": "terminal_node"}
    code = _EXPORT.format(key=json.dumps("prompt"), **{name: json.dumps(text) for name, text in texts.items()})
    return f"{location}: {_PICKLE_REASON}:\n  python3 -c {shlex.quote(code)}"


def enough_tokens(layout: TextLayout, prompt: str, examples: Iterable[Example], count: int) -> int:
    """Return a limit on the tokens of the prompt and any `count` examples that they do not exceed.

    The authors have no such limit. The tokenizer is unknown, so the limit is a quarter above the estimate.
    """
    sizes = sorted((estimated_tokens(render_example(layout, example)) for example in examples), reverse=True)
    tokens = (estimated_tokens(render_prompt(layout, prompt)) + sum(sizes[:count])) * 5 // 4
    return -(-tokens // _ROUNDED_TO) * _ROUNDED_TO


def differences(original: str, rendered: str) -> tuple[str, ...]:
    """Return a sentence for each place where the text of the bundle differs from the original.

    If only white space differs, or only the order of lines, one sentence describes all places. In a text of more than
    1,000 lines, frequent lines such as markers are not compared with each other, because the time would grow with the
    square of their number.
    """
    if original == rendered:
        return ()
    before, after = original.split("\n"), rendered.split("\n")
    ignores_frequent = len(after) > _MAX_EXACT_LINES
    changes = [
        _Change(start + 1, before[start:end], after[new_start:new_end])
        for kind, start, end, new_start, new_end in SequenceMatcher(None, before, after, ignores_frequent).get_opcodes()
        if kind != "equal"
    ]
    if changes and "".join(original.split()) == "".join(rendered.split()):
        return (f"Only line breaks and spaces differ, in {len(changes):,} places. {_difference(changes[0])}",)
    if changes and sorted(filter(None, before)) == sorted(filter(None, after)):
        return (f"Only the order of lines and empty lines differ, from line {changes[0].line} to {changes[-1].line}.",)
    lost = [_difference(change) for change in changes[:_MAX_PLACES]]
    if len(changes) > _MAX_PLACES:
        lost.append(f"The text differs in {len(changes) - _MAX_PLACES:,} more places.")
    return tuple(lost)


@dataclass(frozen=True, slots=True)
class _Change:
    """Lines that differ.

    Attributes:
        line: The number of the first line in the original.
        old: The lines of the original.
        new: The lines that stand there in the text of the bundle.
    """

    line: int
    old: Sequence[str]
    new: Sequence[str]


def _difference(change: _Change) -> str:
    if not change.new:
        return f"Line {change.line}: {_shown(change.old)} is left out."
    if not change.old:
        return f"Line {change.line}: {_shown(change.new)} is added before it."
    return f"Line {change.line}: {_shown(change.old)} is written {_shown(change.new)}."


def _shown(lines: Sequence[str]) -> str:
    """Return the beginning of lines as JSON, which has no control characters that a terminal would obey."""
    if len(lines) == 1 and not lines[0]:
        return "an empty line"
    shown = [json.dumps(_short(line), ensure_ascii=False) for line in lines[:_MAX_SHOWN_LINES]]
    return ", ".join([*shown, *(["…"] if len(lines) > _MAX_SHOWN_LINES else [])])


def _short(line: str) -> str:
    return line if len(line) <= _MAX_SHOWN_CHARACTERS else f"{line[:_MAX_SHOWN_CHARACTERS]}…"
