"""The checks of the command `doctor`. They call each model, read the data, load the bundle and try each reward.

The checks leave no files behind, because they write their journal to a temporary directory.
"""

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from index.errors import DrpoError
from index.types import Message
from optimizer.core.config_tables import ModelTable, RunConfig
from optimizer.core.journal import Journal
from optimizer.data.dataset import Row
from optimizer.models.model_list import listed_models
from optimizer.models.request import Request
from optimizer.models.task_model import ROLE as TASK
from optimizer.models.task_model import read_chat
from optimizer.stages.run_context import RunContext, api_key, open_run_context, starting_candidate

_LIST_TIMEOUT: Final = 15.0


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        subject: What was checked.
        ok: True if the check passed, False if it failed, None if there was nothing to check.
        message: The result in words.
    """

    subject: str
    ok: bool | None
    message: str


async def check_run(config: RunConfig) -> AsyncIterator[Finding]:
    """Run the checks one after the other, and yield a finding for each.

    A failed check does not stop the later checks, with one exception. If the data cannot be read, or the models or the
    embedder cannot be opened, the next finding reports this error and is the last one. In this case the function does
    not check answers and rewards.
    """
    for role, table in config.models.items():
        yield await _check_model_list(role, table)
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder)) as journal:
        try:
            async with open_run_context(config, journal, lambda _line: None) as context:
                yield _describe_data(context)
                for role in config.models:
                    yield await _check_answer(context, role)
                async for finding in _check_rewards(context):
                    yield finding
        except DrpoError as error:
            yield Finding("set-up", False, str(error))


async def _check_model_list(role: str, table: ModelTable) -> Finding:
    subject = f"models.{role}"
    try:
        listing = listed_models(table.base_url, api_key(table), _LIST_TIMEOUT)
        names = await asyncio.wait_for(listing, _LIST_TIMEOUT + 1)
    except DrpoError as error:
        return Finding(subject, False, str(error))
    if names and table.model not in names:
        message = f"{table.base_url} does not list {table.model}: it lists {', '.join(names[:5])}"
        return Finding(subject, False, message)
    return Finding(subject, True, f"{table.model} at {table.base_url}")


def _describe_data(context: RunContext) -> Finding:
    data = context.data
    parts = {"train": data.train, "sealed": data.sealed, "validation": data.validation}
    return Finding("data", True, "; ".join(_describe_rows(name, rows) for name, rows in parts.items()))


def _describe_rows(name: str, rows: Sequence[Row]) -> str:
    kinds = Counter(row.kind for row in rows)
    with_reference = sum(row.reference is not None for row in rows)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return f"{name}: {len(rows)} queries ({counts}; {with_reference} with a reference)"


async def _check_answer(context: RunContext, role: str) -> Finding:
    """Ask the model of a role for one short answer."""
    subject = f"models.{role} answers"
    try:
        if role == TASK:
            candidate = await asyncio.to_thread(starting_candidate, context.config, context.embedder)
            reply = await context.task.answer(candidate, Row("Say hello.", history=(Message("user", "Hi."),)))
            return Finding(subject, True, f"{reply.completion_tokens} tokens, ends with {reply.finish_reason}")
        body = {"messages": [{"role": "user", "content": "Reply with the word yes."}], "max_tokens": 8}
        await context.calls.ask(Request(role, "chat/completions", body), read_chat)
    except DrpoError as error:
        return Finding(subject, False, str(error))
    return Finding(subject, True, "a chat completion")


async def _check_rewards(context: RunContext) -> AsyncIterator[Finding]:
    """Answer the first training row with the starting bundle. Yield a finding for each reward in [reward] weights.

    If the row cannot be answered or scored, yield only one finding, which reports the error.
    """
    row = context.data.train[0]
    try:
        candidate = await asyncio.to_thread(starting_candidate, context.config, context.embedder)
        scored = await context.sealed.score(candidate, row)
    except DrpoError as error:
        yield Finding("rewards", False, str(error))
        return
    for name in context.config.reward.weights:
        part = scored.parts.get(name)
        if part is None:
            yield Finding(f"reward {name}", None, "nothing to say of the first training row (no reference)")
        else:
            yield Finding(f"reward {name}", True, f"{part.value:.3f}")
