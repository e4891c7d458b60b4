"""Defines what an importer reads: the parts of a bundle, and the parts of the original that a bundle cannot express."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final

from index.counted import counted
from index.layouts import TextLayout
from index.rendering import render_example, render_prompt
from index.token_estimate import estimated_tokens
from index.types import Example, RetrievalPolicy

_MAX_PLACES: Final = 10
_MAX_SHOWN_LINES: Final = 3
_MAX_SHOWN_CHARACTERS: Final = 40
_ROUNDED_TO: Final = 128
_MAX_EXACT_LINES: Final = 1_000


@dataclass(frozen=True, slots=True)
class PublishedPrompt:
    """A published prompt with its examples, as the parts of a bundle.

    Attributes:
        layout: The name of the layout that writes the text of the authors.
        prompt: The system prompt; empty if the authors have none.
        examples: The examples, in the order of the authors.
        retrieval: The policy with which the authors choose examples.
        lost: One sentence for each part of the original that the bundle does not express.
        size: The number of bytes of the original text, if the bundle gives exactly this text; otherwise None.
    """

    layout: str
    prompt: str
    examples: tuple[Example, ...]
    retrieval: RetrievalPolicy
    lost: tuple[str, ...]
    size: int | None


def make_published_prompt(
    layout: TextLayout,
    prompt: str,
    examples: Sequence[Example],
    retrieval: RetrievalPolicy,
    texts: tuple[str, str],
    lost: Iterable[str],
) -> PublishedPrompt:
    """Return the published prompt as the parts of a bundle, and what differs between the two texts.

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
    return PublishedPrompt(layout.name, prompt, tuple(examples), retrieval, all_lost, size)


def enough_tokens(layout: TextLayout, prompt: str, examples: Iterable[Example], count: int) -> int:
    """Return a number of tokens that the prompt and any `count` examples together do not exceed.

    The authors have no such limit, but a bundle needs one. The tokenizer is unknown, so the limit is a quarter above
    the estimate.
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
        return (f"Only line breaks and spaces differ, in {counted(len(changes), 'place')}. {_difference(changes[0])}",)
    if changes and sorted(filter(None, before)) == sorted(filter(None, after)):
        return (f"Only the order of lines and empty lines differ, from line {changes[0].line} to {changes[-1].line}.",)
    lost = [_difference(change) for change in changes[:_MAX_PLACES]]
    if len(changes) > _MAX_PLACES:
        lost.append(f"The text differs in {counted(len(changes) - _MAX_PLACES, 'more place')}.")
    return tuple(lost)


@dataclass(frozen=True, slots=True)
class _Change:
    """Lines that differ.

    Attributes:
        line: The number of the first line in the original.
        old: The lines of the original.
        new: The lines that the text of the bundle has instead.
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
