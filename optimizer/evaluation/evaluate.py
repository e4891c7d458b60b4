"""Compares variants of an endpoint on one data set: sends every query to every variant, and measures the answers.

Every variant gives one answer to each row, and each answer is saved as soon as it arrives. The measures of a variant
are computed from all its answers. Read this module first to understand the command `eval`.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from index.embedders.base import Embedder
from optimizer.data.dataset import Row
from optimizer.evaluation.answers_file import AnswersFile, answer_key
from optimizer.evaluation.chat_endpoint import Answer, ChatEndpoint, Decoding
from optimizer.evaluation.measures import Measure, measure_answers, measures

OnAnswer = Callable[[], None]


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """The requests of an evaluation: one request for each pair of a row and a variant.

    Attributes:
        model: Name of the model; part of the key of an answer in the answers file.
        decoding: Decoding parameters; also part of the key of an answer.
        variants: Values of the header x-drpo-variant.
        rows: The rows of the data set.
    """

    model: str
    decoding: Decoding
    variants: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        rows: Number of rows.
        variants: The measures of each variant, by the name of the variant, in the order of the plan's variants.
    """

    rows: int
    variants: Mapping[str, tuple[Measure, ...]]


async def evaluate(
    plan: EvaluationPlan, endpoint: ChatEndpoint, answers: AnswersFile, embedder: Embedder | None, on_answer: OnAnswer
) -> Evaluation:
    """Request the answers that the answers file does not hold, and measure all answers.

    Args:
        plan: The requests of the evaluation.
        endpoint: The endpoint to evaluate.
        answers: Holds the answers of earlier runs, and saves new ones.
        embedder: Measures the similarity of answers to the references; None leaves this measure out.
        on_answer: Called once per answer, whether it is new or from an earlier run.

    Raises:
        ModelError: The endpoint gives no usable answer.
    """
    # The variants answer one after the other, so that only one variant at a time uses the endpoint's prefix cache.
    found = {variant: await answer_all(plan, variant, endpoint, answers, on_answer) for variant in plan.variants}
    return measure(plan.rows, found, embedder)


def measure(rows: Sequence[Row], answers: Mapping[str, Sequence[Answer]], embedder: Embedder | None) -> Evaluation:
    """Measure the answers of each variant. A variant has one answer per row, in the order of the rows."""
    variants = {name: measures(measure_answers(rows, found, embedder)) for name, found in answers.items()}
    return Evaluation(len(rows), variants)


async def answer_all(
    plan: EvaluationPlan, variant: str, endpoint: ChatEndpoint, answers: AnswersFile, on_answer: OnAnswer
) -> tuple[Answer, ...]:
    """Return the answers of one variant, one per row, from the answers file or the endpoint. Raises ModelError."""

    async def answer_row(row: Row) -> Answer:
        key = answer_key(plan.model, variant, plan.decoding, row)
        answer = answers.get(key)
        if answer is None:
            answer = await endpoint.complete(row.messages, variant)
            answers.add(key, variant, row, answer)
        on_answer()
        return answer

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answer_row(row)) for row in plan.rows]
    except ExceptionGroup as failures:
        # The group cancelled the other tasks after the first failure, so only the first failure is useful to the user.
        raise failures.exceptions[0] from None
    return tuple(task.result() for task in tasks)
