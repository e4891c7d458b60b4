"""A language model as judge. It chooses criteria for a query, scores an answer by each criterion, and compares answers.

This module does not depend on the task model or the search. It follows DRPO (arXiv 2411.08733, section 3.2) with three
differences. First, a criterion that the judge adds for a query is defined once and stays the same for the whole run,
because the journal contains the reply that defines the criterion. Second, if the server returns log-probabilities, a
score is the mean of the possible scores, weighted by their probabilities. Third, a reply that cannot be parsed is
requested again. It never counts as a score.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optimizer.core.errors import UnparsableReplyError
from optimizer.models.cached_calls import CachedCalls
from optimizer.rewards.judge_protocol import (
    Criterion,
    choice_request,
    new_criterion,
    preference_request,
    rating_request,
    read_choice,
    read_preference,
    read_rating,
    template_criteria,
)


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

    All methods raise ModelError if the model gives no usable answer, and BudgetSpentError if the budget does not allow
    the call.
    """

    def __init__(self, calls: CachedCalls) -> None:
        self._calls = calls

    async def criteria(self, query: str) -> tuple[Criterion, ...]:
        """Return the two to five criteria that the judge chooses for a query. They stay the same for the whole run."""
        choice = await self._calls.ask(choice_request(query), read_choice)
        known = template_criteria() | {new["name"]: new_criterion(new) for new in choice["new"]}
        return tuple(known[name] for name in choice["criteria"])

    async def rate(self, query: str, answer: str) -> JudgeRating:
        """Score an answer by the criteria that the judge chose for the query."""
        return await self.rate_by(query, answer, await self.criteria(query))

    async def rate_by(self, query: str, answer: str, criteria: Sequence[Criterion]) -> JudgeRating:
        """Score an answer by the given criteria."""
        rating = await self._calls.ask(rating_request(query, answer, criteria), read_rating)
        missing = [criterion.name for criterion in criteria if criterion.name not in rating["scores"]]
        if missing:
            raise UnparsableReplyError(f"judge: no score for {', '.join(missing)}")
        return JudgeRating(
            {criterion.name: rating["scores"][criterion.name] for criterion in criteria}, rating["rationales"]
        )

    async def better(self, query: str, first: str, second: str) -> float:
        """Compare two answers in both orders.

        Returns:
            1 if the judge prefers the first answer in both orders, 0 if it prefers the second answer in both orders,
            else 0.5.
        """
        orders = await asyncio.gather(self.prefers(query, first, second), self.prefers(query, second, first))
        return (float(orders[0]) + 1.0 - float(orders[1])) / 2

    async def prefers(self, query: str, first: str, second: str) -> bool:
        """Return whether the judge prefers the first answer to the second. The request shows them in this order."""
        preference = await self._calls.ask(preference_request(query, first, second), read_preference)
        return bool(preference["better"] == "A")
