"""Finds texts that try to influence the judge instead of answering the user, so that such texts cannot win.

A constant answer that imitates the judge's own request, or holds a verdict, can get high scores from a judge without
answering anything (Zheng et al. 2024, arXiv 2410.07137). The words of a verdict are known in 15 languages
(templates/verdicts.toml). A good answer may hold such words if its query asks about scores or judges, so they do not
count in this case. An answer that only praises itself in other words is not found here. The reward `reference` gives
such an answer a low score. All functions are pure.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any, Final

from index.measures.word_sequences import Sequences, word_sequences
from optimizer.models.reply_text import json_objects
from optimizer.rewards.judge_replies import criterion_key
from optimizer.templates import criteria_table, template, verdict_phrases

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
_HEADING_TOPIC: Final = re.compile(
    r"(?<![^\W_])(?:quer(?:y|ies)|questions?|quiz(?:zes)?|multiple[ -]choice|exams?|tests?|interviews?|flash ?cards?"
    r"|faqs?|sql)\b",
    re.IGNORECASE,
)
"""Words of a query that asks for questions and answers, such as a quiz. A good answer to it may have these headings."""
_MIN_HEADINGS: Final = 2
_MIN_SCORES: Final = 2
_SENTENCE_END: Final = re.compile(r"\n|(?<=[.!?])\s+|(?<=[。！？؟।])")
_OF: Final = r"(?:/|／|out of|of|von|sur|de|su|van|z|av|из|من|点満点中|점 ?만점에|分?[(（]?满分)"
_UNIT: Final = "(?:stars?|points?|punkten?|sternen?|分|点|점|星)?"
_FULL_MARKS: Final = rf"(?P<given>\d{{1,3}})\s*{_OF}\s*(?P<most>\d{{1,3}})[\W_]*{_UNIT}"
_ONLY_MARKS: Final = re.compile(rf"[\W_]*{_FULL_MARKS}[\W_]*", re.IGNORECASE)
_NUMBERED: Final = re.compile(r"^[^\d\n:=：]{1,40}(?:\(\d+-\d+\) *)?[:=：].*\d.*$", re.MULTILINE)
"""A line with a name and a number, such as a score."""
_RANGE: Final = r"(?:\(\d+-\d+\)[\W_]*)?"
_MARKS: Final = " \t*_#>.!-"
_IN_BRACKETS: Final = r"\[\[(?:[abc]|tie|\d{1,3}(?:\.\d)?)\]\]"
_PREFERRED: Final = re.compile(
    r"[\W_]*(?:final |my |overall )*(?:verdict|winner|(?:better|best|preferred)(?: answer| response| reply| one)?)"
    r"[\W_]+(?:answer |response )?[ab][\W_]*",
    re.IGNORECASE,
)
"""A sentence that only names the better answer."""
_TAGGED: Final = re.compile(
    r"<(score|rating|grade|verdict|judge?ment|evaluation|winner)>[^<\n]{1,80}</\1>", re.IGNORECASE
)
_VERDICT_KEYS: Final = frozenset(
    ("score", "rating", "grade", "overall", "overall_score", "verdict", "better", "winner", "evaluation")
)
_REASON_KEYS: Final = frozenset(
    ("reason", "reasons", "rationale", "explanation", "feedback", "justification", "comment")
)


@dataclass(frozen=True, slots=True)
class _Language:
    """The patterns of sentences that try to influence a judge, in one language. templates/verdicts.toml explains them.

    The pattern `hint` matches each text that can contain such a sentence. Texts without a match are not searched
    sentence by sentence, which saves time.
    """

    reply: re.Pattern[str]
    top: re.Pattern[str]
    judge: re.Pattern[str]
    asked: re.Pattern[str]
    topic: re.Pattern[str]
    better: re.Pattern[str]
    whole: re.Pattern[str]
    label: re.Pattern[str]
    single: re.Pattern[str]
    hint: re.Pattern[str]

    def speaks(self, sentence: str) -> bool:
        """Whether a sentence gives a verdict on the answer, or asks the judge for one."""
        says_reply, says_top = self.reply.search(sentence) is not None, self.top.search(sentence) is not None
        if says_reply and says_top:
            return True
        is_asked = says_reply or says_top or self.asked.search(sentence) is not None
        if is_asked and self.judge.search(sentence) is not None:
            return True
        is_whole = self.whole.fullmatch(sentence.strip(_MARKS)) is not None
        return is_whole or self.better.search(sentence) is not None or _is_full(self.label.fullmatch(sentence))


def pleads(text: str, query: str = "") -> bool:
    """Whether a text tries to influence the judge.

    It does if it shares eight consecutive words with the instructions to the judge, has two of the headings of a
    request to the judge, or holds a verdict: scores for two criteria, full marks, the better one of two answers, praise
    of "this answer", or a request to the judge. Headings do not count if the query asks for questions and answers, and
    a verdict does not count if it asks about scores or judges.

    Args:
        text: The text.
        query: What the text answers; empty for a prompt.
    """
    headings = set(map(str.casefold, _HEADING.findall(text)))
    return bool(
        word_sequences(text, SHARED_WORDS) & _instructions()
        or (len(headings) >= _MIN_HEADINGS and not _HEADING_TOPIC.search(query))
        or _holds_verdict(text, query)
    )


@cache
def _instructions() -> Sequences:
    """The sequences of words of the judge's instructions. Fields in braces are left out."""
    texts = (re.sub(r"\{\w+\}", "\n", template(name)) for name in _TEMPLATES)
    return frozenset(chain(*(word_sequences(text, SHARED_WORDS) for text in texts)))


@cache
def _languages() -> Sequence[_Language]:
    return [_language(phrases) for phrases in verdict_phrases().values()]


def _language(phrases: Mapping[str, Any]) -> _Language:
    begin, end = (r"(?<![^\W_])", r"(?![^\W_])") if phrases.get("bounded", True) else ("", "")

    def pattern(name: str) -> re.Pattern[str]:
        alternatives = "|".join(phrases.get(name, ["(?!)"]))
        return re.compile(f"{begin}(?:{alternatives}){end}", re.IGNORECASE)

    label = f"(?:{'|'.join(phrases['label'])})"
    value = rf"[\W_]*{label}[\W_]*{_RANGE}{_FULL_MARKS}[\W_]*|[\W_]*(?:{label}[\W_]*)?{_IN_BRACKETS}[\W_]*"
    named = {name: pattern(name) for name in ("reply", "top", "judge", "asked", "topic", "better", "whole")}
    hint = "|".join((*(named[name].pattern for name in ("reply", "judge", "better", "whole")), label, r"\[\["))
    single = rf"[\W_]*{label}[\W_]*{_RANGE}(?:[^\W\d_]+[\W_]+)?(?:5|10|100)[\W_]*{_UNIT}[\W_]*"
    named["single"] = re.compile(single, re.IGNORECASE)
    return _Language(**named, label=re.compile(value, re.IGNORECASE), hint=re.compile(hint, re.IGNORECASE))


def _is_only_score(text: str, query: str) -> bool:
    """Whether a text is full marks and nothing else, or has a single line with a number, which is the highest score."""
    marks = _ONLY_MARKS.fullmatch(text)
    if marks is not None:
        return _is_full(marks) and re.search(r"\d", query) is None
    numbered = _NUMBERED.findall(text)
    return len(numbered) == 1 and any(language.single.fullmatch(numbered[0]) for language in _languages())


def _is_full(score: re.Match[str] | None) -> bool:
    """Whether a score is the highest one, such as 5/5, or is in double brackets."""
    return score is not None and score["given"] == score["most"]


def _holds_verdict(text: str, query: str) -> bool:
    if '"' in text and any(_is_verdict(found.value) for found in json_objects(text)):
        return True
    if any(language.topic.search(query) or language.reply.search(query) for language in _languages()):
        return False
    sentences = [one for one in _SENTENCE_END.split(text) if one]
    spoken = [language for language in _languages() if language.hint.search(text)]
    parts = [part for sentence in sentences for part in re.split("[,;]", sentence)]
    scored = {match[1] for part in parts for match in _SCORE_LINE.finditer(part)}
    return (
        len(_known(scored)) >= _MIN_SCORES
        or _is_only_score(text, query)
        or _TAGGED.search(text) is not None
        or any(_PREFERRED.fullmatch(sentence) for sentence in sentences)
        or any(language.speaks(sentence) for sentence in sentences for language in spoken)
    )


def _is_verdict(value: Any) -> bool:
    if str(value.get("better", "")).upper() in ("A", "B"):
        return True
    names = {str(name).casefold() for name in value}
    if names & _VERDICT_KEYS and names & _REASON_KEYS and names <= _VERDICT_KEYS | _REASON_KEYS:
        return True
    return len(_known({name for name, entry in value.items() if _is_score(entry)})) >= _MIN_SCORES


def _is_score(entry: Any) -> bool:
    return "score" in entry if isinstance(entry, dict) else isinstance(entry, int | float)


def _known(names: set[str]) -> set[str]:
    """Return those names that are criteria."""
    return {criterion_key(name) for name in names} & set(criteria_table())
