"""Measures what one call of each kind costs, with a few calls of the kinds that a run will make."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from optimizer.core.candidate import Candidate
from optimizer.core.errors import unless_final
from optimizer.core.journal import Event
from optimizer.data.split import TRAIN
from optimizer.estimation.observation import Observation
from optimizer.estimation.simulated_space import EXAMPLES, Call
from optimizer.estimation.simulation import SEARCH
from optimizer.models.task_model import ROLE as TASK
from optimizer.rewards.judge_protocol import ROLE as JUDGE
from optimizer.rewards.judge_replies import MAX_SCORE
from optimizer.search.space import Outcome, Step
from optimizer.stages.bank_choice import JudgedAnswer
from optimizer.stages.example_stage import example_rows
from optimizer.stages.run_context import RunContext, first_candidate, starting_candidate
from optimizer.stages.writer_protocol import ROLE as WRITER
from optimizer.stages.writer_protocol import read_answers, read_prompts, rewrite_answer_request, rewrite_request

T = TypeVar("T")

_MEASURED_ROWS: Final = 3
_REWRITE_FACTOR: Final = 2
"""If no rewrite could be measured, it is assumed to cost this many times as much as a call of the judge."""


@dataclass(frozen=True, slots=True)
class CallCost:
    """The mean cost of one call.

    Attributes:
        prompt: The number of prompt tokens.
        completion: The number of completion tokens, in all choices together.
        seconds: Time from the request to its reply, in seconds.
    """

    prompt: float
    completion: float
    seconds: float

    def times(self, factor: float) -> "CallCost":
        """Return the cost of a call that costs `factor` times as much."""
        return CallCost(factor * self.prompt, factor * self.completion, factor * self.seconds)


Costs = Mapping[Call, CallCost]


async def measure_call_costs(context: RunContext) -> tuple[Costs, Observation]:
    """Make calls of each kind that the run will make. Return their mean costs, and what they show about the scores.

    The calls answer and score a few training rows, then rewrite the starting prompt, then judge and rewrite one answer
    for an example. Rows that cannot be used are left out, as in a run. The calls of the other stages are assumed to
    cost as much as those of the search.

    Raises:
        ModelError: A model gave no usable answer, but a later call may succeed.
        BudgetSpentError: The budget is spent.
        JournalError: The journal cannot be written.
    """
    baseline = await asyncio.to_thread(starting_candidate, context.config, context.embedder)
    candidate = first_candidate(context.config.bundle, baseline)
    costs: dict[Call, CallCost] = {}
    outcomes = await _measured(context, SEARCH, costs, _score_rows(context, candidate))
    judge = costs.get(Call(SEARCH, JUDGE), costs[Call(SEARCH, TASK)])
    costs |= {Call(SEARCH, WRITER): judge.times(_REWRITE_FACTOR), Call(SEARCH, JUDGE): judge}
    if WRITER in context.calls.roles and outcomes:
        path = (Step(candidate, tuple(outcomes)),)
        rewrites = context.calls.ask(rewrite_request(path, context.config.search), read_prompts)
        await _measured(context, SEARCH, costs, unless_final(rewrites))
    costs |= {Call(EXAMPLES, role): costs[Call(SEARCH, role)] for role in (TASK, JUDGE, WRITER)}
    is_full = None
    if context.config.examples.queries:
        is_full = await _measured(context, EXAMPLES, costs, _improve_answer(context))
    return costs, Observation(tuple(one.score for one in outcomes if one.readable), is_full)


async def _measured(context: RunContext, stage: str, costs: dict[Call, CallCost], work: Awaitable[T]) -> T:
    """Await work, and add the mean costs of its calls to `costs`, for each role that it called."""
    already = len(context.journal.events)
    result = await work
    replies = [event for event in context.journal.events[already:] if event.get("call") == "reply"]
    for role in dict.fromkeys(event["role"] for event in replies):
        costs[Call(stage, role)] = _mean_cost([event for event in replies if event["role"] == role])
    return result


async def _score_rows(context: RunContext, candidate: Candidate) -> list[Outcome]:
    rows, outcomes = context.scored_rows("estimate", TRAIN), list[Outcome]()
    for number, row in enumerate(rows.rows):
        scored = await rows.score(candidate.key, candidate, row)
        if scored is not None:
            outcomes.append(Outcome(number, scored.score, (row, scored), scored.is_readable))
        if len(outcomes) == _MEASURED_ROWS:
            break
    return outcomes


async def _improve_answer(context: RunContext) -> bool | None:
    """Judge one answer for an example, and rewrite it. A reply that cannot be used is measured like any other.

    Returns:
        Whether the answer has full scores, so that a run would not rewrite it. None if the judge's reply cannot be
        used. Also None if the row has no reference, because a placeholder is then judged in place of an answer.
    """
    table = context.config.examples
    row = example_rows(context.data, table)[1][0]
    text = row.reference or "An answer."
    rating = await unless_final(context.example_judge.rate(row.query, text))
    if rating is None:
        return None
    request = rewrite_answer_request(JudgedAnswer(row, text, rating), table)
    await unless_final(context.calls.ask(request, read_answers))
    return min(rating.scores.values()) >= MAX_SCORE if row.reference else None


def _mean_cost(replies: Sequence[Event]) -> CallCost:
    prompt, completion = (sum(event["tokens"][one] for event in replies) / len(replies) for one in (0, 1))
    return CallCost(prompt, completion, sum(event["seconds"] for event in replies) / len(replies))
