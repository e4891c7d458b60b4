"""Asks all questions in all arms, in rounds, so that an interrupted run has complete comparisons.

In a round, one arm after the other gets the same questions. An arm therefore finds its own prompt in the prefix cache
of the server, as it does when it serves users. The order of the arms changes from round to round.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

from proxy.fit.arms import Arm
from proxy.fit.client import Answer, Failure, Outcome
from proxy.fit.questions import Question

_FIRST_ROUND: Final = 4  # questions; the remaining time is estimated from them
_MIN_ROUND: Final = 8  # questions of each further round
_MIN_WAVES: Final = 2  # questions of such a round for each request that may run at the same time

Ask = Callable[[Arm, Question], Awaitable[Outcome]]  # asks one question in one arm


@dataclass(slots=True)
class Outcomes:
    """The outcomes so far. A run adds outcomes. After an interruption, the outcomes so far remain.

    Attributes:
        questions: All questions of the run, in their order.
        arms: All arms of the run.
        by_arm: For each arm, by its name: the outcome of each question, by the id of the question.
        stopped: Why the run stopped by itself before the end; empty if it did not.
        is_complete: Whether the run came to its end. At the end, each failure that may be temporary was tried again.
    """

    questions: tuple[Question, ...]
    arms: tuple[Arm, ...]
    by_arm: dict[str, dict[str, Outcome]] = field(init=False)
    stopped: str = ""
    is_complete: bool = False

    def __post_init__(self) -> None:
        self.by_arm = {arm.name: {} for arm in self.arms}

    @property
    def attempted(self) -> tuple[Question, ...]:
        """The questions that every arm has answered or failed to answer."""
        return tuple(one for one in self.questions if all(one.id in self.by_arm[arm.name] for arm in self.arms))

    @property
    def answered(self) -> tuple[Question, ...]:
        """The questions that every arm has answered. Only these are compared."""
        return tuple(one for one in self.attempted if all(self.answer(arm, one) for arm in self.arms))

    def answer(self, arm: Arm, question: Question) -> Answer | None:
        """Return the answer of an arm to a question; None if there is none."""
        outcome = self.by_arm[arm.name].get(question.id)
        return outcome if isinstance(outcome, Answer) else None

    def failures(self) -> Iterator[tuple[Arm, Question, Failure]]:
        """Yield the failures, in the order of the arms and of the questions."""
        for arm in self.arms:
            for question in self.questions:
                outcome = self.by_arm[arm.name].get(question.id)
                if isinstance(outcome, Failure):
                    yield arm, question, outcome

    @property
    def count(self) -> int:
        """The number of outcomes so far."""
        return sum(map(len, self.by_arm.values()))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        done: The number of requests that have ended.
        total: The number of all requests.
        seconds: Seconds since the first request.
        is_estimate: Whether the first round has just ended, so that the remaining time can be estimated.
    """

    done: int
    total: int
    seconds: float
    is_estimate: bool = False

    @property
    def remaining(self) -> float:
        """The estimated number of seconds until the end."""
        return self.seconds / max(1, self.done) * (self.total - self.done)


async def ask_all(outcomes: Outcomes, ask: Ask, concurrency: int, report: Callable[[Progress], None]) -> None:
    """Ask all questions in all arms. If no arm answers any question of a round, stop and set `outcomes.stopped`.

    At the end, requests whose failure may be temporary are sent again once.

    Args:
        outcomes: The outcomes, to which the function adds.
        ask: Asks one question in one arm.
        concurrency: The maximum number of requests at the same time.
        report: Called after each request, and once more after the first round.
    """
    slots, started = asyncio.Semaphore(concurrency), perf_counter()
    total = len(outcomes.questions) * len(outcomes.arms)

    async def ask_one(arm: Arm, question: Question) -> None:
        async with slots:
            outcomes.by_arm[arm.name][question.id] = await ask(arm, question)
            report(Progress(outcomes.count, total, perf_counter() - started))

    for number, questions in enumerate(_rounds(outcomes.questions, concurrency)):
        for arm in _rotated(outcomes.arms, number):
            await _all_of([ask_one(arm, question) for question in questions])
        if not any(outcomes.answer(arm, question) for arm in outcomes.arms for question in questions):
            outcomes.stopped = _common_reason(outcomes, questions)
            return
        if number == 0:
            report(Progress(outcomes.count, total, perf_counter() - started, is_estimate=True))
    again = [(arm, question) for arm, question, failure in outcomes.failures() if failure.is_temporary]
    await _all_of([ask_one(arm, question) for arm, question in again])
    outcomes.is_complete = True


async def _all_of(requests: Sequence[Coroutine[None, None, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for request in requests:
            group.create_task(request)


def _rounds(questions: Sequence[Question], concurrency: int) -> Iterator[Sequence[Question]]:
    """Yield the questions of each round. In short rounds, an interrupted run loses few answers."""
    yield questions[:_FIRST_ROUND]
    size = max(_MIN_ROUND, _MIN_WAVES * concurrency)
    for start in range(_FIRST_ROUND, len(questions), size):
        yield questions[start : start + size]


def _rotated(arms: Sequence[Arm], number: int) -> Sequence[Arm]:
    start = number % len(arms)
    return [*arms[start:], *arms[:start]]


def _common_reason(outcomes: Outcomes, questions: Sequence[Question]) -> str:
    """Return the most frequent reason of the failures of a round."""
    ids = {question.id for question in questions}
    counts: dict[str, int] = {}
    for _, question, failure in outcomes.failures():
        if question.id in ids:
            reason = failure_text(failure)
            counts[reason] = counts.get(reason, 0) + 1
    return max(counts, key=lambda reason: counts[reason])


def failure_text(failure: Failure) -> str:
    """Return the status and the reason of a failure, as a text for users."""
    return failure.reason if failure.status is None else f"{failure.status}: {failure.reason}"


def failures_by_reason(outcomes: Outcomes) -> Mapping[tuple[str, str], list[str]]:
    """Return the ids of the failed questions, by the name of the arm and the reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for arm, question, failure in outcomes.failures():
        groups.setdefault((arm.name, failure_text(failure)), []).append(question.id)
    return groups
