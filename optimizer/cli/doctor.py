"""Is everything there that a run needs? Asks each model one small thing, reads the data, loads the bundle. Knows what
to try and how to say what is wrong; changes nothing.
"""

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from index.errors import DrpoError
from index.types import Message
from optimizer.core.config import ModelTable, RunConfig
from optimizer.core.journal import Journal
from optimizer.data.dataset import Row
from optimizer.models.cached_calls import Request
from optimizer.models.http_client import listed_models
from optimizer.models.task_model import ROLE as TASK
from optimizer.models.task_model import read_chat
from optimizer.stages.run import RunContext, api_key, open_run_context, starting_candidate

_WITHIN = 15.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried. ok: None for what is only worth knowing."""

    what: str
    ok: bool | None
    told: str


async def examine(config: RunConfig) -> AsyncIterator[Finding]:
    """What was found, one thing after the other; later things are tried although earlier ones failed."""
    for role, table in config.models.items():
        yield await _listed(role, table)
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder)) as journal:
        try:
            async with open_run_context(config, journal, _nobody_listens) as context:
                yield _data(context)
                for role in config.models:
                    yield await _answers(context, role)
                async for finding in _scores(context):
                    yield finding
        except DrpoError as error:
            yield Finding("set-up", False, str(error))


async def _listed(role: str, table: ModelTable) -> Finding:
    what = f"models.{role}"
    try:
        names = await asyncio.wait_for(listed_models(table.base_url, api_key(table), _WITHIN), _WITHIN + 1)
    except DrpoError as error:
        return Finding(what, False, str(error))
    if names and table.model not in names:
        return Finding(what, False, f"{table.base_url} does not list {table.model}: it lists {', '.join(names[:5])}")
    return Finding(what, True, f"{table.model} at {table.base_url}")


def _nobody_listens(_told: str) -> None:
    """Little is under way here."""


def _data(context: RunContext) -> Finding:
    told = [_counted(name, rows) for name, rows in (("train", context.data.train), ("sealed", context.data.sealed))]
    return Finding("data", True, "; ".join([*told, _counted("validation", context.data.validation)]))


def _counted(name: str, rows: Sequence[Row]) -> str:
    kinds = Counter(row.kind for row in rows)
    referenced = sum(row.reference is not None for row in rows)
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return f"{name}: {len(rows)} queries ({listed}; {referenced} with a reference)"


async def _answers(context: RunContext, role: str) -> Finding:
    what = f"models.{role} answers"
    try:
        if role == TASK:
            candidate = await asyncio.to_thread(starting_candidate, context.config, context.embedder)
            reply = await context.task.answer(candidate, Row("Say hello.", history=(Message("user", "Hi."),)))
            return Finding(what, True, f"{reply.completion_tokens} tokens, ends with {reply.finish_reason}")
        body = {"messages": [{"role": "user", "content": "Reply with the word yes."}], "max_tokens": 8}
        await context.calls.ask(Request(role, "chat/completions", body), read_chat)
    except DrpoError as error:
        return Finding(what, False, str(error))
    return Finding(what, True, "a chat completion")


async def _scores(context: RunContext) -> AsyncIterator[Finding]:
    """The first training row under the starting bundle, by every reward."""
    row = context.data.train[0]
    try:
        candidate = await asyncio.to_thread(starting_candidate, context.config, context.embedder)
        judged = await context.sealed.judge(candidate, row)
    except DrpoError as error:
        yield Finding("rewards", False, str(error))
        return
    for name in context.config.reward.weights:
        part = judged.parts.get(name)
        told = "nothing to say of the first training row (no reference)" if part is None else f"{part.value:.3f}"
        yield Finding(f"reward {name}", None if part is None else True, told)
