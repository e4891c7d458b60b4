"""The hidden tastes: what a user of the simulation likes in an answer, computed from its text."""

import re
from collections.abc import Callable, Mapping
from typing import Final

HiddenTaste = Callable[[str], bool]
_LIST_LINE: Final = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s", re.MULTILINE)
_READER: Final = re.compile(r"\b(?:you|your)\b", re.IGNORECASE)
_HEDGE: Final = re.compile(
    r"\b(?:may|might|could|can|usually|often|generally|probably|perhaps|likely)\b", re.IGNORECASE
)
_INSTANCE: Final = re.compile(r"\b(?:for example|for instance|such as|like|including)\b", re.IGNORECASE)
_DIGIT: Final = re.compile(r"\d")
_SHORT, _LONG = 20, 30  # words

TASTES: Final[Mapping[str, HiddenTaste]] = {
    "short": lambda answer: 0 < len(answer.split()) <= _SHORT,
    "long": lambda answer: len(answer.split()) >= _LONG,
    "list": lambda answer: len(_LIST_LINE.findall(answer)) > 1,
    "closing-question": lambda answer: answer.rstrip(" \n\"'").endswith("?"),
    "reader": lambda answer: _READER.search(answer) is not None,
    "no-hedging": lambda answer: bool(answer.strip()) and _HEDGE.search(answer) is None,
    "figures": lambda answer: _DIGIT.search(answer) is not None,
    "paragraphs": lambda answer: "\n\n" in answer.strip(),
    "instances": lambda answer: _INSTANCE.search(answer) is not None,
    "exclamation": lambda answer: "!" in answer,
}
"""The tastes by name. Nothing that improves a bundle imports this module."""
