"""Compares variants of an endpoint on one data set: sends every query to every variant, and measures the answers.

Every variant gives one answer to each row, and each answer is saved as soon as it arrives. The measures of a variant
are computed from its answers to the rows that all variants answered. Read this module first to understand the command
`eval`.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from index.counted import counted
from index.embedders.base import Embedder
from optimizer.core.errors import ModelError, UnusableRowsError
from optimizer.data.dataset import Row
from optimizer.evaluation.answers_file import AnswersFile, answer_key
from optimizer.evaluation.chat_endpoint import Answer, ChatEndpoint, Decoding
from optimizer.evaluation.measures import Measure, measure_answers, measures

OnAnswer = Callable[[], None]
_MAX_UNUSABLE: Final = 0.05
"""The largest share of the rows that may be left out. One row may always be left out."""
_MAX_NAMED_ROWS: Final = 10


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
        rows: Number of rows that all variants answered.
        variants: The measures of each variant, by the name of the variant, in the order of the plan's variants.
        left_out: The names of the rows that a variant could not answer. They are left out for all variants.
    """

    rows: int
    variants: Mapping[str, tuple[Measure, ...]]
    left_out: tuple[str, ...] = ()


async def evaluate(
    plan: EvaluationPlan, endpoint: ChatEndpoint, answers: AnswersFile, embedder: Embedder | None, on_answer: OnAnswer
) -> Evaluation:
    """Request the answers that the answers file does not hold, and measure all answers.

    Args:
        plan: The requests of the evaluation.
        endpoint: The endpoint to evaluate.
        answers: Holds the answers of earlier runs, and saves new answers.
        embedder: Measures the similarity of answers to the references; None leaves this measure out.
        on_answer: Called once per answer, whether it is new or from an earlier run.

    Raises:
        UnusableRowsError: The endpoint refuses more than 5 % of the rows, or cannot answer them.
        ModelError: The endpoint gave no usable answer, but a later call may succeed.
    """
    # The variants answer one after the other, so that only one variant at a time uses the endpoint's prefix cache.
    unusable: dict[Row, ModelError] = {}
    found = {
        variant: await answer_all(plan, variant, endpoint, answers, on_answer, unusable) for variant in plan.variants
    }
    kept = [index for index, row in enumerate(plan.rows) if row not in unusable]
    usable = {variant: [one for index in kept if (one := all_[index]) is not None] for variant, all_ in found.items()}
    evaluation = measure([plan.rows[index] for index in kept], usable, embedder)
    return replace(evaluation, left_out=tuple(row.name for row in unusable))


def measure(rows: Sequence[Row], answers: Mapping[str, Sequence[Answer]], embedder: Embedder | None) -> Evaluation:
    """Measure the answers of each variant. A variant has one answer per row, in the order of the rows."""
    variants = {name: measures(measure_answers(rows, found, embedder)) for name, found in answers.items()}
    return Evaluation(len(rows), variants)


async def answer_all(
    plan: EvaluationPlan,
    variant: str,
    endpoint: ChatEndpoint,
    answers: AnswersFile,
    on_answer: OnAnswer,
    unusable: dict[Row, ModelError],
) -> tuple[Answer | None, ...]:
    """Return the answers of one variant, one per row, from the answers file or the endpoint.

    Args:
        plan: The requests of the evaluation.
        variant: The variant.
        endpoint: The endpoint to evaluate.
        answers: Holds the answers of earlier runs, and saves new answers.
        on_answer: Called once per row.
        unusable: Rows that cannot be answered, with the reason. New rows are added. Their answer is None.

    Raises:
        UnusableRowsError: Too many rows cannot be answered.
        ModelError: The endpoint gave no usable answer, but a later call may succeed.
    """

    async def answer_row(row: Row) -> Answer | None:
        key = answer_key(plan.model, variant, plan.decoding, row)
        answer = answers.get(key)
        if answer is None and row not in unusable:
            try:
                answer = await endpoint.complete(row.messages, variant)
                answers.add(key, variant, row, answer)
            except ModelError as error:
                _leave_out(row, error, unusable, len(plan.rows))
        on_answer()
        return answer

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answer_row(row)) for row in plan.rows]
    except ExceptionGroup as failures:
        # The group cancelled the other tasks after the first failure, so only the first failure is useful to the user.
        raise failures.exceptions[0] from None
    return tuple(task.result() for task in tasks)


def _leave_out(row: Row, error: ModelError, unusable: dict[Row, ModelError], rows: int) -> None:
    if not error.is_final:
        raise error
    unusable[row] = error
    if len(unusable) > max(1, int(_MAX_UNUSABLE * rows)):
        names = "; ".join(one.name for one in list(unusable)[:_MAX_NAMED_ROWS])
        raise UnusableRowsError(
            f"{len(unusable)} of {counted(rows, 'row')} cannot be answered, such as {names}. The last reason: {error}. "
            "Correct what the reason names, or take these rows out"
        )
