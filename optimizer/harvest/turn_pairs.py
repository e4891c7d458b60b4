"""Finds preference pairs in the requests of one unit: regenerated answers, corrected answers, and reworded questions.

A client sends the earlier turns of a conversation with each request. A later request therefore shows with which of
several answers the user continued, and whether the user corrected the answer.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Final

from index.types import Message
from optimizer.data.preferences import CONTINUED, EDITED, JUDGED, RATED, REGENERATED, REWORDED, PreferencePair
from optimizer.data.split import normalized
from optimizer.harvest.exchange import Exchange
from optimizer.harvest.rated_answers import fits

MAX_EXCHANGES: Final = 200
"""The maximum number of requests of a unit that are compared with each other."""
_OVERLAP: Final = 20
_MIN_EDIT_OVERLAP: Final = 0.3
"""The smallest `_overlap` of a corrected answer with the original answer. With a smaller overlap, it is another
text."""
_MIN_QUESTION_OVERLAP: Final = 0.5
_MAX_PAUSE: Final = 3600.0  # seconds between two answers to one question
_WORD: Final = re.compile(r"\w+")
Turns = tuple[Message, ...]


def blocks_by_unit(exchanges: Iterator[Exchange]) -> Iterator[Sequence[Exchange]]:
    """Yield the exchanges of one unit after the other, in blocks of at most 200 that overlap by 20."""
    for _, own in groupby(exchanges, key=lambda one: one.unit):
        block: list[Exchange] = []
        for exchange in own:
            block.append(exchange)
            if len(block) == MAX_EXCHANGES:
                yield tuple(block)
                block = block[-_OVERLAP:]
        yield tuple(block)


def pairs_of_block(exchanges: Sequence[Exchange]) -> Iterator[PreferencePair]:
    """Yield the preference pairs that the requests of one unit show, and those of the shadow judge."""
    continued = _continuations(exchanges)
    by_turns: dict[Turns, list[Exchange]] = {}
    for one in exchanges:
        by_turns.setdefault(one.turns, []).append(one)
        yield from _judged_pair(one)
    for turns, answers in by_turns.items():
        yield from _pairs_of_answers(turns, answers, continued.get(turns))
    for first, second in pairwise(exchanges):
        yield from _reworded_pair(first, second)


def _continuations(exchanges: Sequence[Exchange]) -> Mapping[Turns, str]:
    """Return, for each conversation that went on, the text of the answer that the later requests contain."""
    found: dict[Turns, str] = {}
    for one in exchanges:
        number = next((n for n in reversed(range(len(one.turns))) if one.turns[n].role == "assistant"), 0)
        if number:
            found[one.turns[:number]] = one.turns[number].text.strip()
    return found


def _pairs_of_answers(turns: Turns, answers: Sequence[Exchange], kept: str | None) -> Iterator[PreferencePair]:
    """Yield the pairs among the answers of one unit to one conversation.

    Args:
        turns: The conversation.
        answers: The exchanges with this conversation, in the order of time.
        kept: The answer with which the conversation went on. None if it did not go on.
    """
    different = list({normalized(one.answer): one for one in answers}.values())
    best, source = _preferred(different, kept)
    if best is not None:
        for one in different:
            if normalized(one.answer) != normalized(best):
                yield from _pair(turns, best, one, source)


def _preferred(different: Sequence[Exchange], kept: str | None) -> tuple[str | None, str]:
    """Return the answer that the user preferred, and what shows it. None if nothing shows a preference."""
    if len(different) > 1 and not all(one.knows_person for one in different):
        return None, RATED  # different people may have got the answers
    if kept is not None:
        if any(normalized(one.answer) == normalized(kept) for one in different):
            return kept, CONTINUED
        is_edit = _overlap(different[-1].answer, kept) >= _MIN_EDIT_OVERLAP
        return (kept, EDITED) if is_edit else (None, EDITED)
    liked = [one for one in different if one.rating and one.rating.liked]
    if liked and len(different) > 1:
        return liked[-1].answer, RATED
    is_preferred = len(different) > 1 and _is_last_choice(different[-2], different[-1])
    return (different[-1].answer if is_preferred else None), REGENERATED


def _is_last_choice(earlier: Exchange, last: Exchange) -> bool:
    """Whether the last answer soon followed another one, and is not disliked."""
    is_disliked = last.rating is not None and last.rating.disliked
    return not is_disliked and last.time - earlier.time <= _MAX_PAUSE


def _judged_pair(one: Exchange) -> Iterator[PreferencePair]:
    if one.verdict is None or one.verdict.other is None or one.verdict.score not in (0.0, 1.0):
        return
    other = one.verdict.other.strip()
    chosen, rejected = (one.answer, other) if one.verdict.score == 1.0 else (other, one.answer)
    if chosen and rejected and normalized(chosen) != normalized(rejected) and fits(one.turns, chosen, rejected):
        yield PreferencePair(one.query, chosen, rejected, JUDGED, one.history)


def _reworded_pair(first: Exchange, second: Exchange) -> Iterator[PreferencePair]:
    """Yield a pair if a user asked the same question again in other words, at the same place of the conversation."""
    is_same_place = first.history == second.history and second.time - first.time <= _MAX_PAUSE
    is_other = normalized(first.query) != normalized(second.query)
    is_liked = first.rating is not None and first.rating.liked
    if is_same_place and is_other and not is_liked and _overlap(first.query, second.query) >= _MIN_QUESTION_OVERLAP:
        yield from _pair(second.turns, second.answer, first, REWORDED)


def _pair(turns: Turns, chosen: str, rejected: Exchange, source: str) -> Iterator[PreferencePair]:
    comment = rejected.comments[-1] if rejected.comments else ""
    if chosen and normalized(chosen) != normalized(rejected.answer) and fits(turns, chosen, rejected.answer):
        yield PreferencePair(turns[-1].text, chosen, rejected.answer, source, turns[:-1], comment)


def _overlap(first: str, second: str) -> float:
    """Return the share of common words among all different words of two texts (the Jaccard index)."""
    words = [frozenset(_WORD.findall(text.casefold())) for text in (first, second)]
    return len(words[0] & words[1]) / max(1, len(words[0] | words[1]))
