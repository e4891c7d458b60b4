"""Makes a harvest from what a store holds: examples, rows and pairs without private data, screened and ranked.

A harvest is a frozen value. `optimizer.harvest.files` writes it to files that a person can read.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from index.measures.refusals import refuses
from index.types import Example, Message
from optimizer.data.dataset import GENERAL, REFUSE, Row
from optimizer.data.preferences import CONTINUED, EDITED, JUDGED, AnswerRatings, PreferencePair, Preferences
from optimizer.data.scrubbing.scrub import Scrubbed, scrub
from optimizer.data.taste import Taste, learn_taste
from optimizer.harvest.collect import Collected
from optimizer.harvest.rated_answers import RatedAnswer
from optimizer.harvest.safety import Question, QuestionReader
from optimizer.harvest.screening import LATER_TURN, Distinct, cautions, example_fault, safety_fault

T = TypeVar("T")
MAX_EXAMPLES, MAX_ROWS, MAX_PAIRS = 1_000, 2_000, 2_000
"""The maximum numbers of candidate examples, rows and pairs that a harvest holds."""
MAX_RATED_OF_A_SIDE: Final = 1_000
"""The maximum number of liked answers, and of disliked answers, that a harvest holds with their ratings."""
MAX_CONSIDERED: Final = 5_000
"""The maximum number of liked answers that are scrubbed and screened, the best first. Each takes about 10 ms."""
_BATCH: Final = 256
_ID_LENGTH: Final = 12
TAG: Final = "harvested"
_CLEAR: Final = (EDITED, CONTINUED, JUDGED)
ENOUGH: Final = "there are enough better answers"
RIGHT_REFUSAL: Final = "the answer rightly refuses a question that looks harmful"


@dataclass(frozen=True, slots=True)
class CandidateExample:
    """A liked answer that can become an example.

    Attributes:
        example: The question and the answer, without private data.
        likes: Number of users who liked the answer. 0 if it is the preferred answer of a pair that nobody rated.
        dislikes: Number of users who disliked it.
        cautions: The reasons why a person should look at the example before it is used; empty if there are none.
    """

    example: Example = field(repr=False)
    likes: int
    dislikes: int
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DislikedRow:
    """A question whose answer users disliked, as a training row.

    Attributes:
        row: The question with the turns before it.
        answer: The disliked answer.
        comments: What users wrote about it.
        likes: Number of users who liked the answer.
        dislikes: Number of users who disliked it.
    """

    row: Row = field(repr=False)
    answer: str = field(repr=False)
    comments: tuple[str, ...] = field(repr=False)
    likes: int
    dislikes: int


@dataclass(frozen=True, slots=True)
class Harvest:
    """What feedback gives for the next bundle. No text contains private data that the rules know.

    Attributes:
        examples: The candidate examples, the best first. Nobody has approved them yet.
        rows: The training rows, the most disliked first.
        pairs: The preference pairs, sorted from the clearest source to the least clear one.
        comments: What users wrote about answers that are in no pair.
        ratings: The liked and the disliked answers with their ratings, from which the taste is learned.
        replaced: How many parts of texts were replaced, by the kind of private data.
        left_out: How many liked answers gave no example, by reason.
        rows_left_out: How many disliked answers gave no row, and how many pairs were left out, by reason.
        taste: The taste that ratings and pairs show. None if they show none.
    """

    examples: tuple[CandidateExample, ...] = field(repr=False)
    rows: tuple[DislikedRow, ...] = field(repr=False)
    pairs: tuple[PreferencePair, ...] = field(repr=False)
    comments: tuple[str, ...] = field(repr=False)
    ratings: tuple[AnswerRatings, ...] = field(repr=False)
    replaced: Mapping[str, int]
    left_out: Mapping[str, int]
    rows_left_out: Mapping[str, int]
    taste: Taste | None

    @property
    def preferences(self) -> Preferences:
        """What people prefer: the pairs, the comments and the ratings."""
        return Preferences(self.pairs, self.comments, self.ratings)


@dataclass(slots=True)
class _Tally:
    """The counts of a harvest while it is made: replaced parts, and what was left out."""

    replaced: Counter[str]
    left_out: Counter[str]
    rows_left_out: Counter[str]


def make_harvest(
    collected: Collected, max_words: int, reader: QuestionReader, advance: Callable[[int], None] = lambda _: None
) -> Harvest:
    """Scrub, screen and rank what a store holds, and return the harvest.

    Args:
        collected: The rated answers and the pairs.
        max_words: The maximum number of words of an example's answer.
        reader: Embeds the questions.
        advance: Called with the number of answers, rows or pairs that were processed, to show the progress.
    """
    tally = _Tally(Counter(), Counter(), Counter())
    pairs = tuple(_pairs(collected.pairs[:MAX_PAIRS], reader, tally, advance))
    ratings = tuple(_ratings(collected, advance))
    taste = learn_taste(Preferences(pairs, ratings=ratings))
    ranked = sorted([*collected.liked, *_preferred_answers(collected)], key=lambda one: -_merit(one, taste))
    tally.left_out[ENOUGH] = max(0, len(ranked) - MAX_CONSIDERED)
    examples = tuple(_examples(ranked[:MAX_CONSIDERED], max_words, reader, tally, advance))
    rows = tuple(_rows(collected.disliked[:MAX_ROWS], reader, tally, advance))
    in_pairs = {pair.comment for pair in pairs}
    comments = tuple(dict.fromkeys(one for row in rows for one in row.comments if one not in in_pairs))
    left_out = {why: count for why, count in tally.left_out.items() if count}
    return Harvest(examples, rows, pairs, comments, ratings, tally.replaced, left_out, tally.rows_left_out, taste)


def _preferred_answers(collected: Collected) -> Iterator[RatedAnswer]:
    """Yield the preferred answers of pairs with a clear source (_CLEAR), unless users rated the answer."""
    known = {(one.turns, one.answer) for one in (*collected.liked, *collected.disliked)}
    for pair in collected.pairs:
        turns = (*pair.history, Message("user", pair.query))
        if pair.source in _CLEAR and (turns, pair.chosen) not in known:
            known.add((turns, pair.chosen))
            yield RatedAnswer(turns, pair.chosen, 0, 0, (), 0.0)


def work_of(collected: Collected) -> int:
    """Return the largest number of answers, rows and pairs that `make_harvest` can process, for the progress."""
    liked = len(collected.liked) + len(list(_preferred_answers(collected)))
    rows, pairs = min(len(collected.disliked), MAX_ROWS), min(len(collected.pairs), MAX_PAIRS)
    ratings = sum(map(len, _clearly_rated(collected)))
    return min(liked, MAX_CONSIDERED) + rows + pairs + ratings


def _merit(answer: RatedAnswer, taste: Taste | None) -> float:
    """Return the value by which answers are ranked: the share of likes, plus the share that the taste predicts."""
    return answer.share + (0.0 if taste is None else taste.chance(answer.answer))


def _clearly_rated(collected: Collected) -> tuple[Sequence[RatedAnswer], Sequence[RatedAnswer]]:
    """Return the most liked and the most disliked answers. An answer with as many likes as dislikes is left out."""
    disliked = [one for one in collected.disliked if one.net < 0]
    return collected.liked[:MAX_RATED_OF_A_SIDE], disliked[:MAX_RATED_OF_A_SIDE]


def _ratings(collected: Collected, advance: Callable[[int], None]) -> Iterator[AnswerRatings]:
    for answers in _clearly_rated(collected):
        for one in answers:
            query, answer = scrub([one.query, one.answer]).texts
            yield AnswerRatings(query, answer, one.likes, one.dislikes)
            advance(1)


def _examples(
    liked: Sequence[RatedAnswer],
    max_words: int,
    reader: QuestionReader,
    tally: _Tally,
    advance: Callable[[int], None],
) -> Iterator[CandidateExample]:
    distinct = Distinct()
    found = 0
    for batch in _batches(liked):
        openings = [one for one in batch if all(turn.role == "system" for turn in one.turns[:-1])]
        tally.left_out[LATER_TURN] += len(batch) - len(openings)
        scrubbed = [scrub([one.query, one.answer]) for one in openings]
        questions = reader.read([texts.texts[0] for texts in scrubbed])
        for answer, texts, question in zip(openings, scrubbed, questions, strict=True):
            candidate = _candidate(answer, texts, question)
            query = candidate.example.query
            why = example_fault(candidate.example, question, max_words) or distinct.fault(query, question)
            if why:
                tally.left_out[why] += 1
                continue
            distinct.add(query, question)
            tally.replaced.update(texts.found)
            found += 1
            yield candidate
            if found == MAX_EXAMPLES:
                return
        advance(len(batch))


def _candidate(answer: RatedAnswer, texts: Scrubbed, question: Question) -> CandidateExample:
    query, response = (text.strip() for text in texts.texts)
    name = hashlib.sha256(query.encode("utf-8", "replace")).hexdigest()[:_ID_LENGTH]
    example = Example(name, query, response, tags=(TAG,))
    return CandidateExample(
        example, answer.likes, answer.dislikes, cautions(example, question, sum(texts.found.values()))
    )


def _rows(
    disliked: Sequence[RatedAnswer], reader: QuestionReader, tally: _Tally, advance: Callable[[int], None]
) -> Iterator[DislikedRow]:
    for batch in _batches(disliked):
        scrubbed = [scrub([*(turn.text for turn in one.turns), one.answer, *one.comments]) for one in batch]
        questions = reader.read([texts.texts[len(one.turns) - 1] for one, texts in zip(batch, scrubbed, strict=True)])
        for answer, texts, question in zip(batch, scrubbed, questions, strict=True):
            if question.is_harmful and refuses(answer.answer):
                tally.rows_left_out[RIGHT_REFUSAL] += 1
                continue
            tally.replaced.update(texts.found)
            yield _row(answer, texts, question)
        advance(len(batch))


def _row(answer: RatedAnswer, texts: Scrubbed, question: Question) -> DislikedRow:
    count = len(answer.turns)
    turns = _with_texts(answer.turns, texts.texts)
    kind = REFUSE if question.is_harmful else GENERAL
    row = Row(turns[-1].text, kind, history=turns[:-1])
    return DislikedRow(row, texts.texts[count], texts.texts[count + 1 :], answer.likes, answer.dislikes)


def _pairs(
    pairs: Sequence[PreferencePair], reader: QuestionReader, tally: _Tally, advance: Callable[[int], None]
) -> Iterator[PreferencePair]:
    for batch in _batches(pairs):
        scrubbed = [
            scrub([one.query, one.chosen, one.rejected, one.comment, *(turn.text for turn in one.history)])
            for one in batch
        ]
        questions = reader.read([texts.texts[0] for texts in scrubbed])
        for pair, texts, question in zip(batch, scrubbed, questions, strict=True):
            query, chosen, rejected, comment, *history = texts.texts
            if why := safety_fault(chosen, question):
                tally.rows_left_out[why] += 1
                continue
            tally.replaced.update(texts.found)
            turns = _with_texts(pair.history, history)
            yield replace(pair, query=query, chosen=chosen, rejected=rejected, comment=comment, history=turns)
        advance(len(batch))


def _with_texts(turns: Sequence[Message], texts: Sequence[str]) -> tuple[Message, ...]:
    return tuple(Message(turn.role, text) for turn, text in zip(turns, texts, strict=False))


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]
