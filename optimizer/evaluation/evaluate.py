"""Variants side by side on one data set: asks every variant every query and measures the answers. Read this first.

One way: rows -> answers (each filed at once) -> scores -> measures -> table.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from index.embedders.base import Embedder
from optimizer.data.dataset import Row
from optimizer.evaluation.answers_file import AnswersFile, answer_key
from optimizer.evaluation.chat_endpoint import Answer, ChatEndpoint, Decoding
from optimizer.evaluation.measures import Measure, measures, score

Progress = Callable[[], None]


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """What is asked: every row of every variant. `model` and `decoding` name the answers in the answers file."""

    model: str
    decoding: Decoding
    variants: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The measures of every variant, in the order that the variants were named."""

    rows: int
    variants: Mapping[str, tuple[Measure, ...]]


async def evaluate(
    plan: EvaluationPlan, model: ChatEndpoint, answers: AnswersFile, embedder: Embedder | None, progress: Progress
) -> Evaluation:
    """Asks what is not on file yet, then measures. `progress` is called once per answer. ModelError."""
    found = {variant: await answer_all(plan, variant, model, answers, progress) for variant in plan.variants}
    return measure(plan.rows, found, embedder)


def measure(rows: Sequence[Row], found: Mapping[str, Sequence[Answer]], embedder: Embedder | None) -> Evaluation:
    """The measures of answers that are there already, one per row for each variant."""
    return Evaluation(len(rows), {name: measures(score(rows, given, embedder)) for name, given in found.items()})


async def answer_all(
    plan: EvaluationPlan, variant: str, model: ChatEndpoint, answers: AnswersFile, progress: Progress
) -> tuple[Answer, ...]:
    """A variant's answers, one per row. One variant after the other, so that each has the endpoint's prefix cache to
    itself. ModelError."""

    async def answer_one(row: Row) -> Answer:
        key = answer_key(plan.model, variant, plan.decoding, row)
        answer = answers.get(key)
        if answer is None:
            answer = await model.complete(row.messages, variant)
            answers.add(key, variant, row, answer)
        progress()
        return answer

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answer_one(row)) for row in plan.rows]
    except ExceptionGroup as failures:
        # The others were cancelled because of the first one: that is the one to tell.
        raise failures.exceptions[0] from None
    return tuple(task.result() for task in tasks)
