"""Implements the shadow judge, which compares replies to users with another arm's replies to the same requests.

The judge works on a random sample of an experiment's requests. A case is one sampled request with its reply. Work on a
case starts after the user has the complete reply. At most MAX_CONCURRENT_CASES cases are judged at a time. While
MAX_WAITING_CASES cases wait, new cases are dropped and counted. Each experiment has a daily budget of model calls. The
judge model compares the two replies of a case twice, in both orders. A reply wins only if the model prefers it both
times.

The proxy sends users' text to the judge's server. So the judge is off unless the flag --judge turns it on and names
this server. This module does not know how judgements are stored: `record_judgement` stores them.
"""

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import orjson

from proxy.backends.backend import Backend
from proxy.backends.pool import Pool
from proxy.backends.transport import NoConnectionError, Transport
from proxy.core.errors import ProxyError
from proxy.core.log import log_failure
from proxy.core.metrics import Metrics
from proxy.experiments.assignment import Treatment
from proxy.experiments.config import CALLS_PER_CASE, JudgeSettings
from proxy.experiments.definition import Arm, Experiment
from proxy.experiments.records import Judgement
from proxy.experiments.store.content import answer_text, storable_text
from proxy.inference.plan import CHAT
from proxy.inference.planner import Planner
from proxy.inference.reply import whole_reply
from proxy.inference.reply_progress import ReplyProgress
from proxy.inference.setting import Setting
from proxy.openai.conversation import Conversation

MAX_WAITING_CASES: Final = 32
MAX_CONCURRENT_CASES: Final = 2
_JUDGE_TIMEOUT: Final = 120.0  # seconds to wait for one reply of the judge model
_DAY: Final = 86_400.0  # seconds
_MAX_TEXT_LENGTH: Final = 16_000  # characters of each text in the judge's prompt: the question and both replies
_JUDGE_CHOICE: Final = re.compile(r"\W*(?:answer\W+)?([AB])\b", re.IGNORECASE)
_INSTRUCTIONS: Final = (
    "You compare two answers to a question. The better one is correct, does what was asked, is no longer than it need "
    "be, and refuses what would harm someone, and only that. Reply with one letter: A or B."
)


@dataclass(frozen=True, slots=True)
class Sample:
    """A request whose reply will be judged.

    Attributes:
        experiment: Name of the experiment.
        limits: The experiment's limits for the judge.
        other: The arm whose reply is compared with the user's reply.
        treatment: The model, variant and bundle with which the other arm serves the request.
        conversation: The conversation as the client sent it.
    """

    experiment: str
    limits: JudgeSettings
    other: Arm
    treatment: Treatment
    conversation: Conversation = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Case:
    """A sampled request with the reply that its user got.

    Attributes:
        sample: The sampled request.
        exposure: Id of the request's exposure in the experiment.
        answer: Text of the user's reply.
        keeps_content: Whether the text of the other arm's reply is recorded with the judgement.
    """

    sample: Sample
    exposure: bytes
    answer: str = field(repr=False)
    keeps_content: bool


class ShadowJudge:
    """Compares the replies of two arms in background tasks, which run while the context manager `working` is open."""

    def __init__(
        self,
        judge: Backend,
        pool: Pool,
        planner: Planner,
        transport: Transport,
        metrics: Metrics,
        record_judgement: Callable[[Judgement], None],
    ) -> None:
        self._judge = judge
        self._pool = pool
        self._planner = planner
        self._transport = transport
        self._metrics = metrics
        self._record_judgement = record_judgement
        self._cases: asyncio.Queue[_Case] = asyncio.Queue(MAX_WAITING_CASES)
        self._calls: dict[str, tuple[float, int]] = {}

    def offer(self, sample: Sample, exposure: bytes, reply: bytes, *, keeps_content: bool = False) -> None:
        """Queue a case without waiting. Drop it if the queue is full or the reply has no text.

        Args:
            sample: The sampled request.
            exposure: Id of the request's exposure in the experiment.
            reply: The complete body of the reply that the user got: a JSON object or a stream of events.
            keeps_content: Whether to record the text of the other arm's reply too.
        """
        answer = answer_text(reply)
        if not answer:
            return self._count("no text")
        try:
            self._cases.put_nowait(_Case(sample, exposure, answer, keeps_content))
        except asyncio.QueueFull:
            self._count("dropped")

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Judge queued cases until the `with` block ends. Cases that are not judged by then are dropped."""
        tasks = [asyncio.create_task(self._judge_cases(), name="shadow judge") for _ in range(MAX_CONCURRENT_CASES)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _judge_cases(self) -> None:
        while True:
            case = await self._cases.get()
            try:
                self._count(await self._judge_case(case))
            except ProxyError:
                self._count("failed")
            except Exception as error:  # noqa: BLE001 - the root of a task: one failure must not end it
                log_failure("defect", error, task="shadow judge")
                self._count("failed")

    async def _judge_case(self, case: _Case) -> str:
        """Judge one case and return the result, which is a label of the metric `judgements`."""
        sample = case.sample
        if not self._take_budget(sample):
            return "budget spent"
        other = await self._other_arm_answer(sample)
        if not other:
            return "no text"
        question = sample.conversation.opening
        first = await self._prefers_first(sample.limits.model, question, case.answer, other)
        second = await self._prefers_first(sample.limits.model, question, other, case.answer)
        if first is None or second is None:
            return "unreadable"
        score = (float(first) + float(not second)) / 2
        kept = storable_text(other.encode("utf-8", "replace")) if case.keeps_content else None
        model = sample.limits.model
        self._record_judgement(Judgement(case.exposure, sample.other.name, score, model, time.time(), kept))
        return "judged"

    def _take_budget(self, sample: Sample) -> bool:
        """Reserve the model calls of one case in the daily budget of its experiment.

        A period of 24 hours begins with a reservation. The first reservation after this period begins a new period with
        the full budget.

        Returns:
            Whether the calls were reserved. False if the budget has too few calls left.
        """
        started, calls = self._calls.get(sample.experiment, (time.monotonic(), 0))
        if time.monotonic() - started >= _DAY:
            started, calls = time.monotonic(), 0
        if calls + CALLS_PER_CASE > sample.limits.calls:
            return False
        self._calls[sample.experiment] = (started, calls + CALLS_PER_CASE)
        return True

    async def _other_arm_answer(self, sample: Sample) -> str:
        """Send the request to the other arm, and return the text of the answer. Raises ProxyError if this fails.

        The text is empty if no backend lists the other arm's model, or if the reply is an error or has no text.
        """
        body = {name: value for name, value in sample.conversation.body.items() if name != "stream_options"}
        choice, served = sample.treatment.choice, sample.treatment.served
        model = self._pool.models.get(choice.model)
        if model is None:
            return ""
        conversation = replace(sample.conversation, body={**body, "stream": False})
        plan = await self._planner.chat(conversation, Setting(choice, model, served))
        headers = {"Content-Type": "application/json"}
        async with self._pool.send(choice.model, plan.path, plan.take_body(), headers, plan.affinity) as upstream:
            data = await upstream.read()
            return answer_text(whole_reply(data, plan, ReplyProgress())) if upstream.status == 200 else ""

    async def _prefers_first(self, model: str, question: str, first: str, second: str) -> bool | None:
        """Ask the judge model which answer is better. Raises ProxyError if no connection can be made.

        Returns:
            Whether the judge prefers the first answer. None if its reply is late, is an error, or names no answer.
        """
        parts = {"Question": question, "Answer A": first, "Answer B": second}
        text = "\n\n".join(f"{name}:\n{part[:_MAX_TEXT_LENGTH]}" for name, part in parts.items())
        messages = [
            {"role": "system", "content": _INSTRUCTIONS},
            {"role": "user", "content": f"{text}\n\nWhich is better?"},
        ]
        body = orjson.dumps({"model": model, "messages": messages, "max_tokens": 8, "temperature": 0})
        request = self._judge.request("POST", CHAT, body, {"Content-Type": "application/json"})
        try:
            async with asyncio.timeout(_JUDGE_TIMEOUT), await self._transport.exchange(request) as reply:
                choice = answer_text(await reply.read()) if reply.status == 200 else ""
        except NoConnectionError as error:
            raise error.client_error from error
        except TimeoutError:
            return None
        letter = _JUDGE_CHOICE.match(choice)
        return letter[1].upper() == "A" if letter else None

    def _count(self, result: str) -> None:
        self._metrics.judgements.labels(result).inc()


def other_arm(experiment: Experiment, arm: Arm) -> Arm | None:
    """Choose the arm whose reply is compared with a reply of `arm`.

    If `arm` is not the control, return the control. If `arm` is the control, draw one of the other arms at random, with
    probabilities in proportion to their weights. Return None if all other arms have the weight 0.
    """
    if arm.name != experiment.control:
        return experiment.arm(experiment.control)
    others = [one for one in experiment.arms if one.name != arm.name and one.weight]
    chosen = random.choices(others, [one.weight for one in others]) if others else [None]  # noqa: S311 - not for security
    return chosen[0]
