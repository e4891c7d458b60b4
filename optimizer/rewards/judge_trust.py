"""Checks a judge before its scores are used: can it tell an answer to a question from an answer to another question?

The judge sees a query twice: with the answer to this query, and with the answer to another query. The queries are those
of training rows. Two rows form a pair. Each of their answers is the right one for its own row, and the wrong one for
the other row. A judge that scores the text of an answer and not its fit to the query, for example by length or style,
is therefore right in at most half of the cases. A judge that gives both answers the same score is never right.

Equal cases do not say which answer the judge prefers, so they are left out, as in a sign test. A judge that decides by
chance is right in half of the other cases. A judge can also compare the two answers directly, once in each order. A
case is then right if the right answer wins both times, and equal if each answer wins once. By chance, a quarter of all
cases are right, a quarter are wrong, and half are equal. So the judge is again right in half of the cases that are not
equal.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from index.counted import counted
from index.measures.confidence import Interval, wilson
from optimizer.core.concurrency import gather_or_cancel
from optimizer.core.errors import unless_final
from optimizer.rewards.judge_model import Judge

SCORES, COMPARISONS = "scores", "comparisons"
CHANCE: Final = 0.5
UNTRUSTED: Final = (
    "The judge may be right by chance: the check does not show that it knows which of two answers fits a question. Do "
    "not trust what it prefers."
)
MOSTLY_EQUAL: Final = (
    "Most cases are equal: the judge often scores the right answer and an answer to another question equally. It will "
    "therefore find few differences between prompts."
)
UNCHECKED: Final = "Nothing is known about what the judge prefers."
MORE_ROWS: Final = (
    "Add training rows whose right answer is not a refusal, if possible with references. Two rows make two cases."
)
ADVICE: Final = (
    'Name a more capable model in [models.judge], or use the rewards "rules" and "reference" in place of the judge '
    '(docs/rewards.md, section "Whether the judge can be trusted").'
)


@dataclass(frozen=True, slots=True)
class TrustCase:
    """One question to the judge.

    Attributes:
        query: The query, in the form in which it is sent to the judge.
        right: The answer to the query.
        wrong: The answer to another query.
    """

    query: str
    right: str
    wrong: str


@dataclass(frozen=True, slots=True)
class Trust:
    """How often the judge preferred the right answer.

    Attributes:
        way: `scores` if the judge scored each answer by itself, `comparisons` if it compared the two in both orders.
        right: Number of cases in which the right answer has the higher score, or is preferred in both orders.
        equal: Number of cases in which both answers have the same score, or each is preferred in one order.
        cases: Number of cases whose verdicts could be read.
        unreadable: Number of the other cases.
    """

    way: str
    right: int
    equal: int
    cases: int
    unreadable: int

    @property
    def is_checked(self) -> bool:
        """Whether the judge was asked at all."""
        return self.cases + self.unreadable > 0

    @property
    def share(self) -> Interval:
        """The share of cases in which the judge preferred the right answer, among the cases that are not equal."""
        return wilson(self.right, self.cases - self.equal)

    @property
    def is_trusted(self) -> bool:
        """Whether the judge prefers the right answer more often than by chance: the interval is above one half."""
        return self.share.low > CHANCE

    @property
    def caution(self) -> str:
        """What the reader of the scores must know; an empty text if nothing calls for caution."""
        if not self.is_checked:
            return UNCHECKED
        return " ".join(
            ([] if self.is_trusted else [UNTRUSTED]) + ([MOSTLY_EQUAL] if 2 * self.equal > self.cases else [])
        )

    @property
    def advice(self) -> str:
        """What to do if something calls for caution."""
        return ADVICE if self.is_checked else MORE_ROWS

    @property
    def text(self) -> str:
        """The numbers as a sentence."""
        if not self.is_checked:
            return "could not be checked: too few training rows have answers that differ"
        verb = "scores the right answer higher" if self.way == SCORES else "prefers the right answer in both orders"
        interval = f" ({self._interval_text})" if self.cases > self.equal else ""
        equal = f", equal in {self.equal}" if self.equal else ""
        unreadable = f", no readable verdict in {self.unreadable} more" if self.unreadable else ""
        return f"{verb} in {self.right} of {counted(self.cases, 'case')}{equal}{interval}{unreadable}"

    @property
    def _interval_text(self) -> str:
        without = "without the equal cases: " if self.equal else ""
        return f"{without}share {self.share.estimate:.2f} [{self.share.low:.2f}, {self.share.high:.2f}]"


def trust_cases(answered: Sequence[tuple[str, str]], count: int) -> tuple[TrustCase, ...]:
    """Make at most `count` cases from queries and their answers.

    Each row is paired with the later row whose query and answer share the fewest words with its own. Rows with the same
    answer are never paired.

    Args:
        answered: The query and the answer of each row.
        count: The maximum number of cases. Each pair of rows gives two cases.
    """
    left, cases = list(answered), list[TrustCase]()
    while len(left) > 1 and len(cases) < count:
        query, answer = left.pop(0)
        others = [one for one in left if _words(one[1]) != _words(answer)]
        if not others:
            continue
        partner = min(others, key=lambda one: len(_words(f"{query} {answer}") & _words(f"{one[0]} {one[1]}")))
        left.remove(partner)
        cases += [TrustCase(query, answer, partner[1]), TrustCase(partner[0], partner[1], answer)]
    return tuple(cases[:count])


async def score_cases(judge: Judge, cases: Sequence[TrustCase]) -> Trust:
    """Let the judge score both answers of each case, by the criteria that it chooses for the query.

    Raises:
        ModelError: The judge gave no usable reply. A later attempt may succeed.
        BudgetSpentError: The budget does not allow a call.
    """

    async def lead(case: TrustCase) -> float:
        criteria = await judge.criteria(case.query)
        right, wrong = [await judge.rate_by(case.query, text, criteria) for text in (case.right, case.wrong)]
        return right.mean - wrong.mean

    return _trust(SCORES, await _each(cases, lead))


async def compare_cases(judge: Judge, cases: Sequence[TrustCase]) -> Trust:
    """Let the judge compare both answers of each case in both orders. It raises the same errors as `score_cases`."""

    async def lead(case: TrustCase) -> float:
        return await judge.better(case.query, case.right, case.wrong) - CHANCE

    return _trust(COMPARISONS, await _each(cases, lead))


async def _each(cases: Sequence[TrustCase], lead: Callable[[TrustCase], Awaitable[float]]) -> list[float | None]:
    return await gather_or_cancel(unless_final(lead(case)) for case in cases)


def _trust(way: str, leads: Sequence[float | None]) -> Trust:
    read = [lead for lead in leads if lead is not None]
    right, equal = sum(lead > 0 for lead in read), sum(lead == 0 for lead in read)
    return Trust(way, right, equal, len(read), len(leads) - len(read))


def _words(text: str) -> frozenset[str]:
    return frozenset(text.casefold().split())
