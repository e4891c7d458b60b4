"""Reads the prompt texts of URIAL: an instruction, and examples with a fence around each question and answer.

The authors' code puts the whole text before each question. All examples are therefore pinned, in their order. Older
texts have other forms: no fences, or the fence of a question on the line of its text. This module opens no files.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from index.bundle.example_bank import check_example, refuse_unsafe
from index.errors import BundleFormatError
from index.layouts import LAYOUTS
from index.published.published_prompt import PublishedPrompt, enough_tokens, make_published_prompt
from index.published.source_files import read_text
from index.rendering import render_preamble
from index.types import Example, RetrievalPolicy

_MARKER: Final = re.compile(r"^# (Query|Answer):[ \t]*", re.MULTILINE)
_FENCED: Final = re.compile(r"\s*```[ \t]*\n?(?P<text>.*?)(?:\n?```)?\s*", re.DOTALL)
_OTHER_MARKER: Final = re.compile(r"^(?:# )?User:", re.MULTILINE)
QUERY: Final = "Query"


@dataclass(frozen=True, slots=True)
class _Turn:
    """A question or an answer of a text.

    Attributes:
        name: The word of its marker: `Query` or `Answer`.
        line: The number of the line of its marker.
        text: Its text, without the fences.
        is_fenced: Whether the text has a fence around it.
    """

    name: str
    line: int
    text: str
    is_fenced: bool


def parse_urial(data: bytes, location: str) -> PublishedPrompt:
    """Parse a prompt text of URIAL.

    Args:
        data: The content of the file.
        location: The name of the file in messages.

    Raises:
        BundleFormatError: The file is not a prompt text of URIAL.
        BundleIntegrityError: A text contains a control token of a chat template, or another text that a bundle refuses.
    """
    text, lost = read_text(data, location)
    head, turns = _split(text)
    if not turns:
        raise BundleFormatError(_no_turns(text, location))
    prompt = head.removesuffix("\n").removesuffix("\n")
    if prompt:
        refuse_unsafe(prompt, f"{location}: the instruction")
    pairs, unpaired = _pair(turns)
    if not pairs:
        raise BundleFormatError(f'{location}: no "# Query:" has an "# Answer:" with a text, so no example was found')
    layout = LAYOUTS["urial" if any(turn.is_fenced for turn in turns) else "query-answer"]
    examples = [_example(number, *pair, location) for number, pair in enumerate(pairs, start=1)]
    tokens = enough_tokens(layout, prompt, examples, len(examples))
    policy = RetrievalPolicy(k=0, minimum_similarity=-1.0, duplicate_similarity=1.0, max_injected_tokens=tokens)
    texts = (f"{text}\n", render_preamble(layout, prompt, examples))  # the authors' code adds a line break
    return make_published_prompt(layout, prompt, examples, policy, texts, (*lost, *unpaired))


def _split(text: str) -> tuple[str, list[_Turn]]:
    """Return the text before the first marker, and the turns."""
    found = list(_MARKER.finditer(text))
    if not found:
        return text, []
    ends = [*(marker.start() for marker in found[1:]), len(text)]
    turns = [
        _turn(marker[1], text.count("\n", 0, marker.start()) + 1, text[marker.end() : end])
        for marker, end in zip(found, ends, strict=True)
    ]
    return text[: found[0].start()], turns


def _turn(name: str, line: int, body: str) -> _Turn:
    fenced = _FENCED.fullmatch(body)
    return _Turn(name, line, fenced["text"] if fenced else body.strip("\n"), fenced is not None)


def _pair(turns: Sequence[_Turn]) -> tuple[list[tuple[_Turn, _Turn]], list[str]]:
    """Return the pairs of a question and its answer, in the order of the questions, and what is lost.

    An answer belongs to the last question before it that has no answer yet. So a pair may stand between the question
    and the answer of another pair. A published text has such a pair.
    """
    pairs, waiting, lost = [], list[_Turn](), []
    for turn in turns:
        if turn.name == QUERY:
            waiting.append(turn)
        elif waiting and turn.text.strip():
            pairs.append((waiting.pop(), turn))
        elif turn.text.strip():
            lost.append(f"Line {turn.line}: an answer without a question is left out.")
    lost += [f"Line {turn.line}: a question without an answer is left out." for turn in waiting]
    pairs.sort(key=lambda pair: pair[0].line)
    lost += [
        f"Line {question.line}: a question stands between this one and its answer in line {answer.line}."
        for (question, answer), (later, _) in pairwise(pairs)
        if later.line < answer.line
    ]
    return pairs, lost


def _example(number: int, question: _Turn, answer: _Turn, location: str) -> Example:
    example = Example(f"urial-{number}", question.text, answer.text, pinned=True)
    check_example(example, f"{location}, line {question.line}")
    return example


def _no_turns(text: str, location: str) -> str:
    if text.lstrip().startswith(("{", "[")):
        return f"{location}: is JSON, and no text of URIAL. Are these examples of DRPO? Then use --from drpo"
    if _OTHER_MARKER.search(text):
        return (
            f'{location}: has turns that begin with "User:", which drpo cannot write as URIAL does. Import a text with '
            'turns that begin with "# Query:", such as inst_1k_v4.txt'
        )
    return (
        f'{location}: has no line "# Query:", so no example was found. A text of URIAL has an instruction, and then '
        'examples after lines "# Query:" and "# Answer:". Is it a prompt of DRPO? Then use --from drpo'
    )
