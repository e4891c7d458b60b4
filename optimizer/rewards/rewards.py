"""How good an answer is: rewards from 0 to 1, each of another kind, and what they come to together. Knows what a row
wants and what was answered; knows no search.

    rules       ends by itself, repeats nothing, refuses what it should and nothing else: no model asked
    reference   similarity to the row's reference answer
    likelihood  how likely the task model finds the reference, as the geometric mean of its tokens' probabilities
    judge       criteria chosen for this query, each scored by a model (judge.py)
    MODULE:NAME a function of yours: name(query, answer, reference, kind) -> a number from 0 to 1

A row without a reference has no `reference` and no `likelihood`; weights are of what there is.
"""

import asyncio
import importlib
import inspect
import math
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from index.embedders.base import Embedder
from optimizer.core.errors import ConfigError
from optimizer.core.text_rules import ends_by_itself, refuses, repeated_share
from optimizer.data.dataset import REFUSE, Row
from optimizer.models.task_model import Reply, Task, Variant

COMPARED_CHARACTERS: Final = 600
Prepare = Callable[[Row], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Case:
    """One answer of a variant to a row."""

    variant: Variant
    row: Row
    reply: Reply


@dataclass(frozen=True, slots=True)
class Part:
    """What one reward says: a value from 0 to 1, and what it is made of, for people. `broken`: constraints that the
    answer violates."""

    value: float
    details: Mapping[str, Any] = field(default_factory=dict)
    broken: tuple[str, ...] = ()


class Reward(Protocol):
    """One kind of reward."""

    async def score(self, case: Case) -> Part | None:
        """What it says of an answer; None where it has nothing to say. Raises ModelError, BudgetSpentError."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What all rewards say of one answer. score: their weighted mean; 0 if a constraint is broken."""

    reply: Reply
    score: float
    parts: Mapping[str, Part]

    @property
    def broken(self) -> tuple[str, ...]:
        """The constraints that the answer violates."""
        return tuple(name for part in self.parts.values() for name in part.broken)


class Rules:
    """Form alone: see optimizer.core.text_rules."""

    async def score(self, case: Case) -> Part:
        """The mean of: ended by itself, share of 4-grams not repeated, refused if and only if it should."""
        told = {
            "ends": float(ends_by_itself(case.reply.finish_reason)),
            "fresh": 1.0 - repeated_share(case.reply.text),
            "right": float(refuses(case.reply.text) == (case.row.kind == REFUSE)),
        }
        return Part(sum(told.values()) / len(told), told)


class Reference:
    """Cosine similarity of the first 600 characters of answer and reference; below 0 counts as 0."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def score(self, case: Case) -> Part | None:
        """None for a row without a reference."""
        if not case.row.reference:
            return None
        answer = case.reply.text.strip()[:COMPARED_CHARACTERS]
        if not answer:
            return Part(0.0)
        texts = [answer, case.row.reference[:COMPARED_CHARACTERS]]
        one, other = await asyncio.to_thread(self._embedder.embed, texts)
        return Part(max(0.0, float(one @ other)))


class Likelihood:
    """exp(mean log-probability per token) of the reference under what the variant shows: prefill only, no judge."""

    def __init__(self, task: Task) -> None:
        self._task = task

    async def score(self, case: Case) -> Part | None:
        """None for a row without a reference. Raises ConfigError on a chat model."""
        if not case.row.reference:
            return None
        mean = await self._task.log_likelihood(case.variant, case.row)
        return Part(math.exp(mean), {"log": mean})


class Function:
    """A user's own function, plain or async."""

    def __init__(self, name: str) -> None:
        """Import `MODULE:NAME`. Raises ConfigError."""
        module, _, attribute = name.partition(":")
        try:
            self._function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"[reward] {name}: cannot be imported: {error}") from None
        self._name = name

    async def score(self, case: Case) -> Part:
        """Raises ConfigError if the function fails, or gives what is no number from 0 to 1."""
        row = case.row
        try:
            said = self._function(query=row.query, answer=case.reply.text, reference=row.reference, kind=row.kind)
            value = await said if inspect.isawaitable(said) else said
        except Exception as error:  # a user's own code may fail in any way
            raise ConfigError(f"[reward] {self._name} failed: {_where(error)}") from error
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ConfigError(f"[reward] {self._name} must give a number from 0 to 1")
        return Part(float(value))


class Scorer:
    """Answers a row under a variant, and scores the answer. `weights` by reward, of those in `rewards`."""

    def __init__(
        self, task: Task, rewards: Mapping[str, Reward], weights: Mapping[str, float], prepare: Prepare
    ) -> None:
        """prepare: awaited with each row before it is answered."""
        self._task = task
        self._prepare = prepare
        self._rewards = rewards
        self._weights = weights

    async def judge(self, variant: Variant, row: Row, replicate: int = 0) -> Judged:
        """One answer, scored. Raises ModelError, BudgetSpentError, JournalError."""
        await self._prepare(row)
        reply = await self._task.answer(variant, row, replicate)
        case = Case(variant, row, reply)
        names = [name for name, weight in self._weights.items() if weight > 0]
        said = await asyncio.gather(*(self._rewards[name].score(case) for name in names))
        parts = {name: part for name, part in zip(names, said, strict=True) if part is not None}
        return Judged(reply, combine(parts, self._weights), parts)


def _where(error: Exception) -> str:
    """The error's kind and place; not its words, which may hold somebody's text."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {last.filename}, line {last.lineno}"


def combine(parts: Mapping[str, Part], weights: Mapping[str, float]) -> float:
    """The weighted mean of what there is; 0 if any part is broken: a constraint is not outweighed."""
    if not parts or any(part.broken for part in parts.values()):
        return 0.0
    total = sum(weights[name] for name in parts)
    return sum(weights[name] * part.value for name, part in parts.items()) / total


def scores(judged: Sequence[Judged]) -> list[float]:
    """The scores alone."""
    return [one.score for one in judged]
