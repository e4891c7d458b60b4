"""The shadow judge: a sample of an experiment's answers is compared with what another arm would have answered.

All of it happens after the user has the whole answer, a few at a time, within a daily budget; what comes while too
many wait is dropped and counted. It sends users' text to the judge's server, so nothing happens unless --judge names
one. A judge sees two answers in both orders, and only what it prefers in both counts. Knows no store.
"""

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import orjson

from proxy.backends.backend import Backend
from proxy.backends.pool import Pool
from proxy.backends.transport import NoConnectionError, Transport
from proxy.core.errors import ProxyError
from proxy.core.json_types import Json
from proxy.core.log import log_failure
from proxy.core.metrics import Metrics
from proxy.experiments.assignment import Setting
from proxy.experiments.config import JudgeTable
from proxy.experiments.definition import Arm, Experiment
from proxy.experiments.records import Judgement
from proxy.inference.planner import CHAT, Planner
from proxy.inference.relay import ReplyFacts
from proxy.inference.reply import whole_reply
from proxy.openai.conversation import first_user_text, loose_messages
from proxy.openai.sse import event_data, is_done, parse_object, split_events

WAITING: Final = 32
AT_ONCE: Final = 2
_JUDGE_WITHIN: Final = 120.0  # seconds, for one of its replies
_DAY: Final = 86_400.0
_CALLS: Final = 3  # of one comparison: the other arm, and the judge in both orders
_LONGEST: Final = 16_000  # characters of a question or an answer that a judge is shown
_WORD: Final = re.compile(r"\W*(?:answer\W+)?([AB])\b", re.IGNORECASE)
_ASK: Final = (
    "You compare two answers to a question. The better one is correct, does what was asked, is no longer than it need "
    "be, and refuses what would harm someone, and only that. Reply with one letter: A or B."
)


@dataclass(frozen=True, slots=True)
class Sample:
    """A request that will be judged. setting: what the other arm serves it with; body: as the client sent it."""

    experiment: str
    table: JudgeTable
    other: Arm
    setting: Setting
    body: Json = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Case:
    sample: Sample
    exposure: bytes
    answer: str = field(repr=False)


class ShadowJudge:
    """Compares answers in the background. `keep` takes each judgement."""

    def __init__(
        self,
        judge: Backend,
        pool: Pool,
        planner: Planner,
        wire: Transport,
        metrics: Metrics,
        keep: Callable[[Judgement], None],
    ) -> None:
        self._judge = judge
        self._pool = pool
        self._planner = planner
        self._wire = wire
        self._metrics = metrics
        self._keep = keep
        self._cases: asyncio.Queue[_Case] = asyncio.Queue(WAITING)
        self._spent: dict[str, tuple[float, int]] = {}

    def offer(self, sample: Sample, exposure: bytes, reply: bytes) -> None:
        """Take an answer that its user has, whole; `reply` is what was sent of it. Never waits."""
        answer = answer_text(reply)
        if not answer:
            return self._count("no text")
        try:
            self._cases.put_nowait(_Case(sample, exposure, answer))
        except asyncio.QueueFull:
            self._count("dropped")

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Judge what is offered until the block ends; what still waits then is dropped."""
        tasks = [asyncio.create_task(self._work(), name="shadow judge") for _ in range(AT_ONCE)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            case = await self._cases.get()
            try:
                self._count(await self._judged(case))
            except ProxyError:
                self._count("failed")
            except Exception as error:  # noqa: BLE001 - the root of a task: one bad answer must not end all judging
                log_failure("defect", error, task="shadow judge")
                self._count("failed")

    async def _judged(self, case: _Case) -> str:
        """Judge one case; the result in a word."""
        sample = case.sample
        if not self._may_spend(sample):
            return "budget spent"
        other = await self._other_answer(sample)
        if not other:
            return "no text"
        question = first_user_text(loose_messages(sample.body))
        first = await self._prefers_first(sample.table.model, question, case.answer, other)
        second = await self._prefers_first(sample.table.model, question, other, case.answer)
        if first is None or second is None:
            return "unreadable"
        score = (float(first) + float(not second)) / 2
        self._keep(Judgement(case.exposure, sample.other.name, score, sample.table.model, time.time()))
        return "judged"

    def _may_spend(self, sample: Sample) -> bool:
        """Whether the experiment has calls left for these 24 hours; they are taken."""
        begun, spent = self._spent.get(sample.experiment, (time.monotonic(), 0))
        if time.monotonic() - begun >= _DAY:
            begun, spent = time.monotonic(), 0
        if spent + _CALLS > sample.table.calls:
            return False
        self._spent[sample.experiment] = (begun, spent + _CALLS)
        return True

    async def _other_answer(self, sample: Sample) -> str:
        """What the other arm answers to the same request. Raises ProxyError."""
        silent = {name: value for name, value in sample.body.items() if name != "stream_options"}
        choice = sample.setting.choice
        model = self._pool.models.get(choice.model)
        if model is None:
            return ""
        plan = await self._planner.chat({**silent, "stream": False}, choice, model, sample.setting.served)
        headers = {"Content-Type": "application/json"}
        async with self._pool.send(choice.model, plan.path, plan.take_body(), headers, plan.conversation) as upstream:
            data = await upstream.read()
            return answer_text(whole_reply(data, plan, ReplyFacts())) if upstream.status == 200 else ""

    async def _prefers_first(self, model: str, question: str, first: str, second: str) -> bool | None:
        """Whether the judge likes the first answer better; None where its reply cannot be read. Raises ProxyError."""
        parts = {"Question": question, "Answer A": first, "Answer B": second}
        text = "\n\n".join(f"{name}:\n{part[:_LONGEST]}" for name, part in parts.items())
        messages = [{"role": "system", "content": _ASK}, {"role": "user", "content": f"{text}\n\nWhich is better?"}]
        body = orjson.dumps({"model": model, "messages": messages, "max_tokens": 8, "temperature": 0})
        request = self._judge.request("POST", CHAT, body, {"Content-Type": "application/json"})
        try:
            async with asyncio.timeout(_JUDGE_WITHIN), await self._wire.exchange(request) as reply:
                said = answer_text(await reply.read()) if reply.status == 200 else ""
        except NoConnectionError as error:
            raise error.client_error from error
        except TimeoutError:
            return None
        letter = _WORD.match(said)
        return letter[1].upper() == "A" if letter else None

    def _count(self, result: str) -> None:
        self._metrics.judgements.labels(result).inc()


def other_arm(experiment: Experiment, arm: Arm) -> Arm | None:
    """Which arm an answer is compared with: the control, or for the control's own answers any other, by its weight."""
    if arm.name != experiment.control:
        return experiment.arm(experiment.control)
    others = [one for one in experiment.arms if one.name != arm.name and one.weight]
    chosen = random.choices(others, [one.weight for one in others]) if others else [None]  # noqa: S311 - hides nothing
    return chosen[0]


def answer_text(reply: bytes) -> str:
    """The text of the only answer in a chat reply, whole or streamed; empty where there is none, or more than one."""
    if reply.lstrip().startswith(b"{"):
        return _text(parse_object(reply), "message")
    events = [event_data(event) for event in split_events(reply) if not is_done(event)]
    return "".join(_text(parse_object(data), "delta") for data in events)


def _text(payload: Json, part: str) -> str:
    choices = payload.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        return ""
    message = choices[0].get(part)
    text = message.get("content") if isinstance(message, dict) and not choices[0].get("index") else None
    return text if isinstance(text, str) else ""
