"""Finds texts that speak to the judge instead of the user, so that they cannot win by it.

A constant answer that imitates the judge's own request, or holds a verdict, can get high scores from a judge without
answering anything (Zheng et al. 2024, arXiv 2410.07137). An answer that only praises itself is not found here, because
it shares no words with the judge's request. The reward `reference` finds it. All functions are pure.
"""

import re
from functools import cache
from itertools import chain
from typing import Any, Final

from index.measures.word_sequences import Sequences, word_sequences
from optimizer.models.reply_text import json_objects
from optimizer.rewards.judge_replies import criterion_key
from optimizer.templates import criteria_table, template

PLEADING: Final = "pleading"
SHARED_WORDS: Final = 8
_TEMPLATES: Final = (
    *(
        "evaluate",
        "evaluate_letter",
        "evaluate_plain",
        "compare",
        "compare_letter",
        "compare_plain",
        "compare_wordings",
    ),
    *("judge_anchored", "judge_critic", "judge_impartial", "judge_scale"),
)
_EACH_LINE: Final = re.IGNORECASE | re.MULTILINE
_HEADING: Final = re.compile(
    r"^[^\w\n#]{0,8}(query|answer(?: [ab])?|the criterion|criteria)(?:, and what (?:its|their) scores mean)?[ *_]{0,4}:"
    r"[^\w\n]{0,8}$",
    _EACH_LINE,
)
"""A line of the judge's request that announces the query, an answer or the criteria.

A line that begins with a number sign does not count: it belongs to a layout of prompts for base models.
"""
_SCORE_LINE: Final = re.compile(
    r"^[^a-z\n]{0,8}([a-z][a-z _-]{3,20}?)[^a-z\d\n]{1,8}[1-5](?: ?/ ?5)?[^\w\n]{0,4}$", _EACH_LINE
)
_MIN_HEADINGS: Final = 2
_MIN_SCORES: Final = 2


def pleads(text: str) -> bool:
    """Whether a text speaks to the judge.

    It does if it shares eight consecutive words with the instructions to the judge, has two of the headings of a
    request to the judge, or holds a verdict: scores for two criteria, or the key `better` with A or B.
    """
    return bool(
        word_sequences(text, SHARED_WORDS) & _instructions()
        or len(set(map(str.casefold, _HEADING.findall(text)))) >= _MIN_HEADINGS
        or _holds_verdict(text)
    )


@cache
def _instructions() -> Sequences:
    """The sequences of words of the judge's instructions. Fields in braces are left out."""
    texts = (re.sub(r"\{\w+\}", "\n", template(name)) for name in _TEMPLATES)
    return frozenset(chain(*(word_sequences(text, SHARED_WORDS) for text in texts)))


def _holds_verdict(text: str) -> bool:
    if '"' in text and any(_is_verdict(found.value) for found in json_objects(text)):
        return True
    return len(_known({match[1] for match in _SCORE_LINE.finditer(text)})) >= _MIN_SCORES


def _is_verdict(value: Any) -> bool:
    if str(value.get("better", "")).upper() in ("A", "B"):
        return True
    return len(_known({name for name, entry in value.items() if _is_score(entry)})) >= _MIN_SCORES


def _is_score(entry: Any) -> bool:
    return "score" in entry if isinstance(entry, dict) else isinstance(entry, int | float)


def _known(names: set[str]) -> set[str]:
    """Return those names that are criteria."""
    return {criterion_key(name) for name in names} & set(criteria_table())
