"""The checks of the command `doctor`. They call each model, read the data, load the bundle and try each reward.

The checks send requests of the same form as the run. Most of these requests are made from the longest row of the data.
The checks leave no files behind, because they write their journal to a temporary directory.
"""

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from math import sqrt
from pathlib import Path
from typing import Final

from index.counted import counted
from index.errors import DrpoError
from optimizer.cli.doctor_models import (
    Finding,
    check_example_writer,
    check_judge,
    check_model_list,
    check_task,
    check_trust,
    check_writer,
    describe_form,
    describe_usage,
    failed,
)
from optimizer.core.candidate import Candidate
from optimizer.core.config_tables import RunConfig
from optimizer.core.journal import Journal
from optimizer.data.dataset import Row
from optimizer.data.split import SEALED, SEEDS, TRAIN, VALIDATION
from optimizer.rewards.judge_protocol import ROLE as JUDGE
from optimizer.stages.prompt_stage import describe_proposer, open_proposers
from optimizer.stages.proposers.examples import ExampleProposer
from optimizer.stages.run_context import RunContext, first_candidate, open_run_context, starting_candidate
from optimizer.stages.writer_protocol import ROLE as WRITER

_FEW_SEALED: Final = 100
_DEVIATION: Final = 0.2
"""A usual standard deviation of the difference between the rewards of two bundles for the same row.

docs/optimizing.md contains what was measured.
"""
_HALF_INTERVAL: Final = 1.96
"""Half the width of a 95 % interval, in standard errors."""
_NO_NEW_EXAMPLES: Final = (
    "The starting bundle has all examples of the pool, so the search can add none of them. Name a pool of your own "
    'with [examples] pool, or set start = "empty" in [bundle].'
)


async def check_run(config: RunConfig, announce: Callable[[str], None]) -> AsyncIterator[Finding]:
    """Run the checks one after the other, and yield a finding for each.

    A failed check does not stop the later checks, with one exception. If the data cannot be read, or the models, the
    embedder or the starting bundle cannot be opened, the next finding reports this error and is the last one.

    Args:
        config: The settings of run.toml.
        announce: A function that is called with the subject of each check before the check.
    """
    for role, table in config.models.items():
        announce(f"models.{role}")
        yield await check_model_list(role, table)
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder)) as journal:
        try:
            async with open_run_context(config, journal, lambda _line: None) as context:
                async for finding in _check_context(context, announce):
                    yield finding
        except DrpoError as error:
            yield failed("set-up", error)


async def _check_context(context: RunContext, announce: Callable[[str], None]) -> AsyncIterator[Finding]:
    data, roles = context.data, context.config.models
    yield _describe_data(context)
    baseline = await asyncio.to_thread(starting_candidate, context.config, context.embedder)
    candidate = first_candidate(context.config.bundle, baseline)
    longest = max((*data.train, *data.validation, *data.sealed), key=lambda row: row.length)
    announce("the task model's answer to the longest row")
    finding, answers = await check_task(context, candidate, longest)
    yield finding
    if JUDGE in roles:
        announce("the judge")
        yield await check_judge(context, longest, answers)
        announce("whether the judge can be trusted")
        for finding in await check_trust(context, candidate):
            yield finding
    announce("the rewards")
    async for finding in _check_rewards(context, candidate):
        yield finding
    announce("the proposers of the search")
    yield await _describe_proposers(context, candidate)
    if WRITER in roles:
        announce("the writer model")
        yield await check_writer(context, candidate, (longest, *data.train[:2]))
    if context.config.examples.queries:
        announce("the writer model's answers")
        yield await check_example_writer(context, longest, answers[0])
    for role in roles:
        for found in (describe_form(context, role), describe_usage(context, role)):
            if found is not None:
                yield found


def _describe_data(context: RunContext) -> Finding:
    data = context.data
    parts = {name: data.parts[name] for name in (TRAIN, SEALED, VALIDATION, SEEDS) if data.parts[name]}
    rows = "; ".join(_describe_rows(name, rows) for name, rows in parts.items())
    return Finding("data", True, rows, _few_rows(len(data.sealed)))


def _few_rows(sealed: int) -> str:
    """Return advice if there are so few sealed rows that only a large improvement can be told from chance."""
    if not 0 < sealed < _FEW_SEALED:
        return ""
    smallest = _HALF_INTERVAL * _DEVIATION / sqrt(sealed)
    return (
        f"There are few sealed rows ({sealed}): an improvement of the mean reward by less than about {smallest:.2f} "
        "will probably look like chance. See docs/optimizing.md (How many rows)."
    )


async def _describe_proposers(context: RunContext, candidate: Candidate) -> Finding:
    """Open the proposers of the search, as a run does, and return the finding that names them.

    If the starting bundle already has every example of the pool, the search can add none. The finding then has advice.
    """
    try:
        proposers = await open_proposers(context)
    except DrpoError as error:
        return failed("search", error)
    names = ", ".join(describe_proposer(one, candidate) for one in proposers)
    pools = [one for one in proposers if isinstance(one, ExampleProposer)]
    is_empty = any(not one.new_count(candidate.bank) for one in pools)
    return Finding("search", True, f"proposers: {names}", _NO_NEW_EXAMPLES if is_empty else "")


def _describe_rows(name: str, rows: Sequence[Row]) -> str:
    kinds = Counter(row.kind for row in rows)
    with_reference = sum(row.reference is not None for row in rows)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return f"{name}: {counted(len(rows), 'query')} ({counts}; {with_reference} with a reference)"


async def _check_rewards(context: RunContext, candidate: Candidate) -> AsyncIterator[Finding]:
    """Answer the first training row with the starting bundle. Yield a finding for each reward in [reward].

    If the row cannot be answered or scored, yield only one finding, which reports the error.
    """
    row = context.data.train[0]
    try:
        scored = [await scorer.score(candidate, row) for scorer in (context.sealed, context.screen)]
    except DrpoError as error:
        yield failed("rewards", error)
        return
    parts = {name: part for one in scored for name, part in one.parts.items()}
    for name in sorted(context.config.reward.all_names):
        if name not in parts:
            yield Finding(
                f"reward {name}",
                None,
                "does not apply to the first training row (for example, because it has no reference)",
            )
        else:
            yield Finding(f"reward {name}", True, f"{parts[name].value:.3f}")
