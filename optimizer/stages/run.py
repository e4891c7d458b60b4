"""Runs the stages of an optimization run in order, and writes the new bundle. Read this module first.

The directory of a run holds run.toml and events.jsonl (the journal). A finished run has also written bundle/ and
report.html. The user can continue a stopped run with `drpo-optimizer resume DIR`. The program then repeats all steps
from the beginning. It reads the replies that it already paid for out of the journal. It calls a model only for replies
that the journal does not contain.
"""

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from index.bundle.bundle import write_bundle
from index.counted import counted
from optimizer.core.candidate import Candidate
from optimizer.core.config_tables import FOUND, RunConfig
from optimizer.core.errors import BudgetSpentError, ConfigError, UnusableRowsError
from optimizer.core.journal import START, STOPPED, Journal
from optimizer.stages.candidate_gate import bundle_input
from optimizer.stages.checks.judge_trial import run_judge_trial
from optimizer.stages.example_stage import run_example_stage
from optimizer.stages.prompt_stage import run_prompt_stage
from optimizer.stages.run_context import (
    BestCandidate,
    Notify,
    RunContext,
    first_candidate,
    open_run_context,
    starting_bundle,
    starting_candidate,
    with_bundle_model,
)
from optimizer.stages.run_inputs import check_inputs
from optimizer.stages.sealed_evaluation import run_sealed_evaluation, sealed_calls
from optimizer.stages.sealed_result import SealedResult, result_values
from optimizer.stages.tuning_stage import run_tuning_stage, tuned_candidates

BUNDLE: Final = "bundle"
RUN_FILE: Final = "run.toml"


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a run.

    Attributes:
        bundle: The directory of the bundle that was written.
        sealed: The result of the sealed evaluation; None if the run has no sealed rows.
        is_found: Whether the bundle is the one that the search found, and not the baseline.
        kept_start: Whether the search kept the baseline, so that there was nothing else to write.
        spent_out: Whether the budget ended the search early.
    """

    bundle: Path
    sealed: SealedResult | None
    is_found: bool
    kept_start: bool
    spent_out: bool


async def run(config: RunConfig, directory: Path, journal: Journal, notify: Notify) -> Result:
    """Start a run, or continue it if the journal already contains events.

    Args:
        config: The settings of run.toml.
        directory: The directory of the run. The bundle is written into it.
        journal: The open journal of the run.
        notify: Shows a message to the user. There are two messages: with which bundle the search starts, and that the
            run waits for paid calls before it ends.

    Raises:
        OptimizeError: The data, the settings or the journal cannot be used, a model gives no usable answer, too many
            rows cannot be used, or the budget is too small for the sealed evaluation.
        BundleError: The starting bundle cannot be loaded, or the new one cannot be written.
        EmbedderError: The embedder cannot be used.
    """
    try:
        return await _run_stages(config, directory, journal, notify)
    except UnusableRowsError as error:
        # This note is written last: a resumed run forgets the failed calls before the note, and makes them again.
        await journal.add({"note": STOPPED, "why": str(error)})
        raise


async def _run_stages(config: RunConfig, directory: Path, journal: Journal, notify: Notify) -> Result:
    async with open_run_context(await with_bundle_model(config), journal, notify) as context:
        baseline = await asyncio.to_thread(starting_candidate, config, context.embedder)
        first = first_candidate(config.bundle, baseline)
        await asyncio.to_thread(_check_before_the_search, context, baseline, first)
        await check_inputs(config, baseline, journal)
        await _note_start(context, notify)
        await journal.note("run", bundle=config.bundle.name, recipe=config.search.recipe, seed=config.search.seed)
        best, spent_out = await _optimize(context, first)
        sealed = await run_sealed_evaluation(context, best, baseline) if context.data.sealed else None
        improved = sealed.improved if sealed else None
        kept_start = best.key == baseline.key
        is_found = not kept_start and (config.bundle.write == FOUND or bool(improved))
        chosen = best if is_found else baseline
        bundle = await asyncio.to_thread(_write_bundle, context, chosen, sealed, directory)
        # Without sealed rows, it is not known whether the bundle is better than the baseline.
        found = {"improved": improved, "found": is_found, "kept_start": kept_start}
        await journal.note("bundle", directory=bundle.name, **found, candidate=chosen.key, prompt=chosen.prompt)
        return Result(bundle, sealed, is_found, kept_start, spent_out)


async def _note_start(context: RunContext, notify: Notify) -> None:
    """Journal the name of the starting bundle. If drpo chose this bundle, also tell the user the reason."""
    start = starting_bundle(context.config)
    if start.reason:
        notify(f"The search starts with the bundle {start.name}, because {start.reason}.")
    await context.journal.note(START, bundle=start.name)


async def _optimize(context: RunContext, first: Candidate) -> tuple[Candidate, bool]:
    """Run the stages of the search, beginning with a first candidate.

    Returns:
        The best candidate found, and whether the budget ended the search early.
    """
    best = BestCandidate(first)
    context.budget.kept_calls = _sealed_calls(context)
    try:
        await run_judge_trial(context, first)
        context.budget.kept_calls = _sealed_calls(context)  # the trial can change how often the judge is asked
        await run_example_stage(context, best)
        await run_prompt_stage(context, best)
        await run_tuning_stage(context, best, first)
    except BudgetSpentError as error:
        await context.calls.finish()  # a call that still waits for its turn must not spend what is kept
        await context.journal.note("spent", what=error.what)
        return best.candidate, True
    finally:
        context.budget.kept_calls = 0
    return best.candidate, False


def _sealed_calls(context: RunContext) -> int:
    """Return how many calls the search leaves to the sealed evaluation."""
    return sealed_calls(context.config, len(context.data.sealed), asks_for_letters=context.judge.asks_for_letters)


def _write_bundle(context: RunContext, chosen: Candidate, sealed: SealedResult | None, directory: Path) -> Path:
    """Write the chosen candidate as a bundle.

    If the run already wrote a bundle, this function deletes it first. Nothing is lost if the run is interrupted between
    these steps, because a resumed run writes the bundle again.
    """
    bundle = directory / BUNDLE
    if bundle.exists():
        shutil.rmtree(bundle)
    values = result_values(sealed) if sealed else None
    write_bundle(bundle, bundle_input(context.config, chosen, values), context.embedder)
    return bundle


def _check_before_the_search(context: RunContext, baseline: Candidate, first: Candidate) -> None:
    """Check what the search cannot change.

    Raises:
        ConfigError: The baseline, the first candidate or a candidate of [tune] cannot be written as a bundle, or the
            calls of [budget] are not more than the sealed evaluation can need.
    """
    limit, kept = context.budget.limits.calls, _sealed_calls(context)
    if limit is not None and limit <= kept:
        raise ConfigError(
            f"[budget] calls = {limit} leaves no call for the search, because the evaluation on "
            f"{counted(len(context.data.sealed), 'sealed row')} can need {counted(kept, 'call')}. Allow more calls, or "
            "set [data] raw to fewer rows."
        )
    for candidate in (baseline, first):
        context.gate.check(candidate, "[bundle]")
    for what, candidate in tuned_candidates(first, context.config.tune):
        context.gate.check(candidate, what)
