"""Reads a judge's verdict from the text of its reply: from a JSON object, or from lines and sentences.

A text that holds no verdict raises UnparsableReplyError. It never gets a default score. All functions are pure.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from index.embedders.base import encodable
from optimizer.core.errors import UnparsableReplyError
from optimizer.models.reply_text import FoundObject, find_object, nested_objects, without_reasoning

MIN_SCORE, MAX_SCORE = 1, 5
_SCORE: Final = re.compile(
    r"\s*(?:(?:score|rating)\W{0,3})?(\d+(?:[.,]\d+)?)\s*(?:(?:/|out of)\s*(\d+(?:\.0+)?)\s*)?(?:stars?\s*)?"
    r"(?:[.!]\s*|[(:,;\u2013\u2014-](?!\d)[^\d]*)?",
    re.IGNORECASE,
)
"""A score in the value of an object, with its scale and a comment without digits."""
_WORDS: Final[Mapping[str, str]] = MappingProxyType({"one": "1", "two": "2", "three": "3", "four": "4", "five": "5"})
_WORD_SCORE: Final = re.compile(
    r"\b(one|two|three|four|five)\b(?=[*_\"']*\s*(?:$|/\s*(?:5|five)\b|out of))", re.IGNORECASE | re.MULTILINE
)
"""A score in words. In a sentence, such a word stands before another word."""
_STARS: Final = re.compile(r"[\u2605\u2b50]+(?=[\u2606\s*_|]*$)", re.MULTILINE)
_LIST_NUMBER: Final = re.compile(r"^([^\S\n]*)\d+[.)](?=[^\S\n]+\S)", re.MULTILINE)
_TABLE_ROW: Final = re.compile(r"^\s*\|(.*)\|\s*$", re.MULTILINE)
_CELL_SCORE: Final = re.compile(r"[\s*_]*\d(?:\.\d+)?(?:\s*/\s*\d+)?[\s*_]*")
_SCORE_KEYS: Final = ("score", "rating", "value", "grade")
_NAME_KEYS: Final = ("name", "criterion", "criteria", "aspect", "metric", "dimension")
_WRAPPER: Final = re.compile(
    r"\\boxed\{(?:\\text\{)?|</?(?:answer|response|final_answer|verdict|choice|preference|better|winner)>|```\w*",
    re.IGNORECASE,
)
_SCORE_IN_LINE: Final = (
    r"(\d+(?:\.\d+)?)\s*(?:(?:[(\[][^()\[\]\n]*[)\]]\s*)?(?:/|out of)\s*(\d+))?(?![\w.]*\d|\s*(?:-|\u2013|to)\s*\d)"
)
"""A score, and optionally its scale. A comment in brackets may stand between them."""
_LETTER: Final = re.compile(r"[\W_]*(?:(?:answer|output|response|option)[\W_]*)?([AB])[\W_]*", re.IGNORECASE)
_LAST_LINE: Final = re.compile(
    r"[\W_]*(?:(?:(?:my|the)\s+)?(?:final\s+)?(?:verdict|choice|preference|decision|winner|answer)(?:\s+is)?[\W_]+)?"
    r"(?:(?:answer|output|response|option|assistant)[\W_]*)?([AB])[\W_]*"
    r"(?:\s+is\s+(?:the\s+)?better(?:\s+(?:answer|output|response|option|one))?)?[\W_]*(?<!\?)",
    re.IGNORECASE,
)
_NEGATION: Final = re.compile(r"\b(?:not|never|neither|nor|whether|doubt)\b|n't", re.IGNORECASE)
_CLAUSE_END: Final = re.compile(r"[.,;:!?\n]")
_NOT_BOTH: Final = r"(?!\w|'|\.\w|\s*(?:or|and|/|,)\s*\W?(?-i:[AB])\b)"
_IN_WORDS: Final = (
    re.compile(
        r"(?:\b(?:answer|output|response)\s*\W{0,2}([AB])|\b(?-i:([AB])))\W{0,3}\s+"
        r"(?:is\s+(?:the\s+)?(?:better|best|winner)\b(?!\s+(?:at|in|if|for|on|when)\b)|wins\b)",
        re.IGNORECASE,
    ),
    re.compile(
        r"(?<!not )(?<!n't )(?<!never )\b(?:better|best|verdict|winner|preference|preferred|choice|prefers?|chooses?)\b"
        rf"(?:[^\w.!?]|_){{0,6}}(?:(?:is|answer|output|response|one)\b(?:[^\w.!?]|_){{0,6}}){{0,3}}(?-i:([AB])){_NOT_BOTH}",
        re.IGNORECASE,
    ),
)
"""Sentences that name the better answer. A bare letter has to be a capital, because "a" is also a word."""


@dataclass(frozen=True, slots=True)
class WrittenScore:
    """A score in the text of a reply.

    Attributes:
        value: The score, from 1 to 5.
        rationale: The judge's reason; may be empty.
        digit: The position of the score's digit in the text; None if it is not known.
    """

    value: float
    rationale: str
    digit: int | None


def read_scores(text: str, names: Sequence[str]) -> dict[str, WrittenScore]:
    """Read the score for each criterion.

    The last JSON object that has a score for each of the names counts. If there is none, the scores may be in several
    objects, or in a list of objects, each for some of the criteria. A text without a brace may instead have a line with
    a name and a score for each criterion.

    Raises:
        UnparsableReplyError: A score is missing, or is not from 1 to 5.
    """
    wanted = set(map(criterion_key, names))
    if found := find_object(text, lambda value: wanted <= set(map(criterion_key, value))):
        return _object_scores(text, found, names)
    entries = _scattered_entries(text, wanted)
    if wanted <= entries.keys():
        return {name: _entry_score(entries[criterion_key(name)], None) for name in names}
    answer = without_reasoning(text)
    if "{" in answer:
        raise UnparsableReplyError("no JSON object with a score for each criterion")
    lines = _plain_lines(answer)
    return {name: WrittenScore(_score_in_lines(lines, name, names), "", None) for name in names}


def read_letter(text: str) -> str:
    """Read which of two answers is better: A or B.

    The last JSON object with the key `better` counts. A text without a brace may instead end with a line such as "B"
    or "Answer B is better", or contain sentences such as "I prefer B". If these sentences name both, none counts.

    Raises:
        UnparsableReplyError: The text does not name exactly one of A and B.
    """
    if found := find_object(text, lambda value: "better" in _in_lower_case(value)):
        return _one_letter(_in_lower_case(found.value)["better"])
    answer = _WRAPPER.sub("\n", without_reasoning(text)).strip()
    if "{" in answer or not answer:
        raise UnparsableReplyError("no JSON object with the key better")
    first, *_ = lines = answer.splitlines()
    if alone := _LAST_LINE.fullmatch(lines[-1]):
        return alone[1].upper()
    said = {letter.upper() for pattern in _IN_WORDS for found in pattern.finditer(answer) for letter in _said(found)}
    if alone := _LAST_LINE.fullmatch(first):  # an explanation follows the letter
        said.add(alone[1].upper())
    if len(said) != 1:
        raise UnparsableReplyError("both A and B" if said else "neither A nor B")
    return said.pop()


def parse_score(value: Any) -> float:
    """Return a score from 1 to 5 that is written as a number, or as a text such as "4", "4/5", "four" or "4 - clear".

    Raises:
        UnparsableReplyError: The value is no score, or is not from 1 to 5.
    """
    if isinstance(value, str) and (found := _SCORE.fullmatch(_in_digits(value))):
        value = _on_scale(found[1], found[2])
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnparsableReplyError("a score that is not a number")
    if not MIN_SCORE <= value <= MAX_SCORE:  # before any conversion: an integer may be too large for a float
        raise UnparsableReplyError("a score that is not from 1 to 5")
    return float(value)


def criterion_key(name: str) -> str:
    """Return a criterion's name in the form in which names are compared: critical-thinking for "Critical_Thinking"."""
    return "-".join(re.findall(r"\w+", name.casefold().replace("_", " ")))


def _object_scores(text: str, found: FoundObject, names: Sequence[str]) -> dict[str, WrittenScore]:
    entries = {criterion_key(name): entry for name, entry in found.value.items()}
    digits = _digit_positions(text, found)
    return {
        name: _entry_score(entries[key], digits.get(key))
        for name, key in zip(names, map(criterion_key, names), strict=True)
    }


def _entry_score(entry: Any, digit: int | None) -> WrittenScore:
    if not isinstance(entry, dict):
        return WrittenScore(parse_score(entry), "", None)
    values = _in_lower_case(entry)
    rationale = values.get("rationale")
    score = next((values[key] for key in _SCORE_KEYS if key in values), None)
    return WrittenScore(parse_score(score), encodable(rationale) if isinstance(rationale, str) else "", digit)


def _scattered_entries(text: str, wanted: Collection[str]) -> Mapping[str, Any]:
    """Return the last entry for each criterion, from objects that hold some of the criteria or name one of them."""
    entries: dict[str, Any] = {}
    for one in nested_objects(text):
        entries |= {key: entry for name, entry in one.items() if (key := criterion_key(name)) in wanted}
        values = _in_lower_case(one)
        named = next((values[key] for key in _NAME_KEYS if isinstance(values.get(key), str)), "")
        if criterion_key(named) in wanted:
            entries[criterion_key(named)] = one
    return entries


def _in_lower_case(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an object with its keys in lower case."""
    return {key.lower(): one for key, one in value.items()}


def _digit_positions(text: str, found: FoundObject) -> Mapping[str, int]:
    """Return the position of each score's digit by the criterion, if each entry of the object has exactly one score."""
    digits = [one.end() - 1 for one in re.finditer(r'"score"\s*:\s*"?[1-5]', text[found.start : found.end])]
    if len(digits) != len(found.value):
        return {}
    return {criterion_key(name): found.start + digit for name, digit in zip(found.value, digits, strict=True)}


def _plain_lines(text: str) -> str:
    """Return a text in which the scores are digits, and in which each row of a table is a line with its score."""
    text = _TABLE_ROW.sub(lambda row: _row_line(row[1].split("|")), text)
    return _LIST_NUMBER.sub(r"\1-", _STARS.sub(lambda stars: str(len(stars[0])), _in_digits(text)))


def _row_line(cells: Sequence[str]) -> str:
    """Return a row of a table as a line: its first words, and the last cell after them that is only a score."""
    first = next((place for place, cell in enumerate(cells) if any(map(str.isalpha, cell))), 0)
    scores = [cell for cell in cells[first + 1 :] if _CELL_SCORE.fullmatch(cell)]
    return f"{cells[first]}: {scores[-1].strip(' *_')}" if scores else " ".join(cells)


def _in_digits(text: str) -> str:
    return _WORD_SCORE.sub(lambda word: _WORDS[word[0].lower()], text)


def _score_in_lines(text: str, name: str, names: Sequence[str]) -> float:
    score = r"\b(?:score|rating)[\W_]*(?:of\s+)?"
    others = "|".join(_name_pattern(one) for one in names)
    paragraph = rf"[\W_]*\n(?:(?!^[\W\d_]*(?:{others})\b)[\s\S]){{0,2000}}?{score}"
    between = rf"(?:[\W_]*(?:{score})?|[^\n]*?{score}|{paragraph})"
    pattern = rf"(?:^[\W\d_]*|[,;:>][^\S\n]*[*_\"'`]*){_name_pattern(name)}\b{between}{_SCORE_IN_LINE}"
    found = re.findall(pattern, text, re.IGNORECASE | re.MULTILINE)
    if not found:
        raise UnparsableReplyError(f"no score for {name}")
    return parse_score(_on_scale(*found[-1]))


def _name_pattern(name: str) -> str:
    """Return a pattern for a criterion's name in any spelling."""
    return r"[\s_-]+".join(re.escape(word) for word in criterion_key(name).split("-"))


def _on_scale(score: str, scale: str | None) -> float | None:
    """Return the score; None if it is on another scale than 1 to 5."""
    return float(score.replace(",", ".")) if not scale or float(scale) == MAX_SCORE else None


def _said(found: re.Match[str]) -> list[str]:
    """Return the letter that a sentence names; nothing if the clause is negated, or is a question."""
    clause = _CLAUSE_END.split(found.string[: found.start()])[-1]
    is_question = found.string[found.end() :].lstrip().startswith("?")
    return [] if is_question or _NEGATION.search(clause) else [letter for letter in found.groups() if letter]


def _one_letter(value: Any) -> str:
    found = _LETTER.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise UnparsableReplyError("neither A nor B")
    return found[1].upper()
