"""A language model as judge. It chooses criteria for a query, scores an answer by each criterion, and compares answers.

This module does not depend on the task model or the search. It follows DRPO (arXiv 2411.08733, section 3.2). The table
[reward.judge] or [examples.judge] says how the judge works. The judge can define new criteria for a query. The reply
that defines them is kept in the journal and used again, so they stay the same for the whole run. A reply that cannot be
parsed never counts as a score.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from optimizer.core.concurrency import gather_or_cancel
from optimizer.core.errors import RefusedRequestError, UnparsableReplyError
from optimizer.core.model_tables import INTEGER, JudgeTable
from optimizer.core.request_form import LETTER, TEXT
from optimizer.models.cached_calls import CachedCalls
from optimizer.models.request import ReplyReader
from optimizer.rewards.criteria import Criterion, default_criteria, new_criterion, template_criteria
from optimizer.rewards.judge_protocol import (
    ROLE,
    choice_reader,
    choice_request,
    digit_request,
    preference_request,
    rating_reader,
    rating_request,
    read_digit,
    read_preference,
    read_preference_letter,
)

T = TypeVar("T")
_TEST_QUERY: Final = "What is the capital of France?"
_TEST_ANSWER: Final = "The capital of France is Paris."


@dataclass(frozen=True, slots=True)
class JudgeRating:
    """The judge's scores of one answer.

    Attributes:
        scores: The score for each criterion, from 1 to 5, by the name of the criterion.
        rationales: The judge's reason for each score, by the name of the criterion.
    """

    scores: Mapping[str, float]
    rationales: Mapping[str, str]

    @property
    def mean(self) -> float:
        """The mean of the scores of all criteria. In DRPO this mean is the reward."""
        return sum(self.scores.values()) / len(self.scores)


class Judge:
    """Calls the judge's model.

    The judge replies in JSON. If its first replies cannot be read, other formats are tried: one letter or digit with
    log-probabilities, then plain text. The first format that can be read is used for the whole run.

    All methods raise ModelError if the model gives no usable answer, and BudgetSpentError if the budget does not allow
    the call.
    """

    def __init__(self, calls: CachedCalls, table: JudgeTable) -> None:
        self._calls = calls
        self._table = table
        self._deciding = asyncio.Lock()
        self._was_read = False

    @property
    def is_readable(self) -> bool:
        """Whether a format is known in which verdicts can be read. Even then, single verdicts can be unreadable."""
        return self._has_decided()

    @property
    def asks_for_letters(self) -> bool:
        """Whether the run has a judge that, as far as is known now, scores each criterion in a call of its own."""
        return ROLE in self._calls.roles and self._format == LETTER

    async def criteria(self, query: str) -> tuple[Criterion, ...]:
        """Return the criteria that the judge chooses for a query. They stay the same for the whole run.

        If the judge's choice cannot be read, the result is a fixed choice of criteria.
        """
        for plain in (True,) if self._format in (LETTER, TEXT) else (False, True):
            try:
                request = choice_request(query, self._table, plain=plain)
                choice = await self._calls.ask(request, choice_reader(self._table))
            except UnparsableReplyError:
                continue
            known = {new["name"]: new_criterion(new) for new in choice["new"]} | template_criteria()
            return tuple(replace(known[name], reason=choice["reasons"][name]) for name in choice["criteria"])
        return default_criteria(self._table.criteria)

    async def rate(self, query: str, answer: str) -> JudgeRating:
        """Score an answer by the criteria that the judge chose for the query."""
        return await self.rate_by(query, answer, await self.criteria(query))

    async def rate_by(self, query: str, answer: str, criteria: Sequence[Criterion]) -> JudgeRating:
        """Score an answer by the given criteria."""

        async def rate(reply_format: str) -> JudgeRating:
            if reply_format == LETTER:
                return await self._rate_by_digits(query, answer, criteria)
            request = rating_request(query, answer, criteria, self._table, plain=reply_format == TEXT)
            rating = await self._calls.ask(request, self._rating_reader(criteria))
            return JudgeRating(rating["scores"], rating["rationales"])

        return await self._in_readable_format(rate)

    async def better(self, query: str, first: str, second: str) -> float:
        """Compare two answers in both orders.

        Returns:
            1 if the judge prefers the first answer in both orders, 0 if it prefers the second answer in both orders,
            else 0.5.
        """
        orders = await gather_or_cancel([self.prefers(query, first, second), self.prefers(query, second, first)])
        return (float(orders[0]) + 1.0 - float(orders[1])) / 2

    async def prefers(self, query: str, first: str, second: str, *, wording: int = 0, replicate: int = 0) -> bool:
        """Return whether the judge prefers the first answer to the second. The request shows them in this order.

        Args:
            query: The query.
            first: The first answer.
            second: The second answer.
            wording: The wording of the question; 0 for the usual one.
            replicate: The number of the repetition. With a new number, the judge is asked again, and the stored reply
                is not used.
        """

        async def prefer(reply_format: str) -> bool:
            reader = read_preference_letter if reply_format == LETTER else read_preference
            request = preference_request(query, first, second, reply_format, wording)
            preference = await self._calls.ask(replace(request, replicate=replicate), reader)
            return bool(preference["better"] == "A")

        return await self._in_readable_format(prefer)

    @property
    def _format(self) -> str:
        return self._calls.form(ROLE).reply_format

    def _rating_reader(self, criteria: Sequence[Criterion]) -> ReplyReader:
        return rating_reader([criterion.name for criterion in criteria], self._table)

    async def _rate_by_digits(self, query: str, answer: str, criteria: Sequence[Criterion]) -> JudgeRating:
        requests = [digit_request(query, answer, criterion, self._table) for criterion in criteria]
        replies = await gather_or_cancel(self._calls.ask(request, read_digit) for request in requests)
        names = [criterion.name for criterion in criteria]
        score = "digit" if self._table.scores == INTEGER else "score"
        scores = {name: float(reply[score]) for name, reply in zip(names, replies, strict=True)}
        return JudgeRating(scores, dict.fromkeys(names, ""))

    async def _in_readable_format(self, judge: Callable[[str], Awaitable[T]]) -> T:
        """Call the function `judge` with a format in which the judge's replies can be read. Find this format first.

        While the format is not known, only one caller asks the judge at a time.
        """
        if self._has_decided():
            return await judge(self._format)
        async with self._deciding:
            if not self._has_decided():
                return await self._first_readable(judge)
        return await judge(self._format)

    def _has_decided(self) -> bool:
        is_set = bool(self._calls.configured_form(ROLE).reply_format)
        return self._was_read or is_set or self._format in (LETTER, TEXT)

    async def _first_readable(self, judge: Callable[[str], Awaitable[T]]) -> T:
        """Ask in one format after the other until a reply can be read. If none can be read, raise the first error.

        If the first reply cannot be read, the judge gets a test question in the same format. If that reply can be read,
        the format stays, and the error of the first reply is raised.
        """
        try:
            result = await judge(self._format)
        except UnparsableReplyError as error:
            if not await self._can_read_test_question():
                return await self._in_another_format(judge, error)
            self._was_read = True
            raise
        self._was_read = True
        return result

    async def _can_read_test_question(self) -> bool:
        request = rating_request(_TEST_QUERY, _TEST_ANSWER, default_criteria(), self._table)
        try:
            await self._calls.ask(request, self._rating_reader(default_criteria()))
        except UnparsableReplyError:
            return False
        return True

    async def _in_another_format(self, judge: Callable[[str], Awaitable[T]], problem: UnparsableReplyError) -> T:
        """Ask in the other formats. Keep the first one that can be read. If none can be read, raise `problem`."""
        has_log_probabilities = self._calls.form(ROLE).max_top_logprobs > 0
        for reply_format in (LETTER, TEXT) if has_log_probabilities else (TEXT,):
            try:
                result = await judge(reply_format)
            except (UnparsableReplyError, RefusedRequestError):
                continue
            form = replace(self._calls.form(ROLE), reply_format=reply_format)
            await self._calls.change_form(ROLE, str(problem), form)
            return result
        raise problem
