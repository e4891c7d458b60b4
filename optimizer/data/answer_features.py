"""Measures an answer: its form in numbers (length, lists, questions, hedges and others), and the words that it has.

The patterns know words of English, German, French, Spanish, Italian and Portuguese.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from index.measures.answer_form import word_count

_LIST_LINE: Final = re.compile(r"^\s*(?:[-*•–]|\d{1,2}[.)])\s", re.MULTILINE)
_HEADING: Final = re.compile(r"^\s*(?:#{1,6}\s|\*\*[^*\n]+\*\*\s*:?\s*$)", re.MULTILINE)
_FIRST_PERSON: Final = re.compile(r"\b(?:I|I'm|I've|my|me|ich|je|yo|io|eu)\b")
_SECOND_PERSON: Final = re.compile(r"\b(?:you|your|du|dir|dein\w*|Sie|Ihnen|Ihr\w*|vous|votre|tu|usted|voi|você)\b")
_HEDGE: Final = re.compile(
    r"\b(?:perhaps|maybe|might|may|could|possibly|probably|generally|usually|often|seems?|appears?|likely|vielleicht"
    r"|möglicherweise|wahrscheinlich|peut-être|probablement|quizás?|tal vez|probablemente|forse|talvez)\b",
    re.IGNORECASE,
)
_GREETING: Final = re.compile(
    r"\W*(?:hi|hello|hey|dear|sure|certainly|of course|great|hallo|gerne|bonjour|hola|ciao|olá)\b", re.IGNORECASE
)
FORMS: Final = (
    *("words", "lines of lists", "headings", "paragraphs", "a closing question", "exclamation marks", "numbers"),
    *("the first person", "the second person", "hedges", "an opening greeting", "code"),
)
"""The names of the numbers that `form_of` returns, in the same order."""
_WORD: Final = re.compile(r"\w+")
_MIN_ANSWERS: Final = 5
_SHARES: Final = (0.02, 0.98)  # a word counts if the share of the answers that have it is in this range
_MAX_VOCABULARY: Final = 300


def form_of(answer: str) -> tuple[float, ...]:
    """Return the form of an answer: one number for each name in FORMS. Counts are logarithms."""
    words = max(1, word_count(answer))
    return (
        math.log(words),
        math.log1p(len(_LIST_LINE.findall(answer))),
        math.log1p(len(_HEADING.findall(answer))),
        math.log1p(answer.count("\n\n")),
        float(answer.rstrip(" \n\"'”)").endswith(("?", "？", "؟"))),
        math.log1p(answer.count("!") + answer.count("！")),
        sum(map(str.isdigit, answer)) / max(1, len(answer)),
        *(math.log1p(len(pattern.findall(answer))) for pattern in (_FIRST_PERSON, _SECOND_PERSON, _HEDGE)),
        float(_GREETING.match(answer) is not None),
        float("```" in answer),
    )


def words_of(answer: str) -> frozenset[str]:
    """Return the different words of an answer. The first word is also returned with `^` before it, as its opening."""
    words = [word.casefold() for word in _WORD.findall(answer)]
    return frozenset((*words, *(f"^{word}" for word in words[:1])))


def vocabulary(answers: Sequence[str]) -> tuple[str, ...]:
    """Return the words that occur in many answers, but not in nearly all of them. The most common word comes first.

    Args:
        answers: The answers. Equal answers count once.
    """
    different = set(answers)
    counts = Counter(word for answer in sorted(different) for word in words_of(answer))
    low, high = (share * len(different) for share in _SHARES)
    known = [word for word, count in counts.most_common() if max(_MIN_ANSWERS, low) <= count <= high]
    return tuple(known[:_MAX_VOCABULARY])
