"""A run from its settings to a bundle: examples, prompt, tuning, sealed evaluation, bundle. Read this module first.

A run has a directory with run.toml, events.jsonl (the journal) and, at the end, bundle/ and report.html. A run that is
started again over the same directory repeats the same steps. It finds every paid reply in the journal, so it continues
where it stopped.
"""

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from index.bundle.bundle import BundleInput, write_bundle
from optimizer.core.candidate import Candidate
from optimizer.core.config_tables import RunConfig
from optimizer.core.errors import BudgetSpentError
from optimizer.core.journal import Journal
from optimizer.models.task_model import ROLE as TASK
from optimizer.stages.example_stage import run_example_stage
from optimizer.stages.prompt_stage import run_prompt_stage
from optimizer.stages.run_context import BestCandidate, Notify, RunContext, open_run_context, starting_candidate
from optimizer.stages.sealed_evaluation import SealedResult, provenance, run_sealed_evaluation
from optimizer.stages.tuning_stage import run_tuning_stage

BUNDLE: Final = "bundle"
RUN_FILE: Final = "run.toml"
_SEALED_SHARE: Final = 0.2
"""Share of the budget that is kept for the sealed evaluation: without it nobody knows what the search gained."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a run.

    Attributes:
        bundle: The directory of the bundle that was written.
        sealed: The result of the sealed evaluation.
        spent_out: Whether the budget ended the search.
    """

    bundle: Path
    sealed: SealedResult
    spent_out: bool


async def run(config: RunConfig, directory: Path, journal: Journal, notify: Notify) -> Result:
    """Start a run, or continue it.

    Args:
        config: The settings of run.toml.
        directory: The directory of the run. The bundle is written into it.
        journal: The open journal of the run.
        notify: Receives a message when the user has to wait for something.

    Raises:
        OptimizeError: The data, the settings, the budget, a model or the journal stops the run.
        BundleError: The starting bundle cannot be loaded, or the new one cannot be written.
        EmbedderError: The embedder cannot be used.
    """
    async with open_run_context(config, journal, notify) as context:
        baseline = await asyncio.to_thread(starting_candidate, config, context.embedder)
        await journal.note("run", bundle=config.bundle.name, recipe=config.search.recipe, seed=config.search.seed)
        best, spent_out = await _optimize(context, baseline)
        sealed = await run_sealed_evaluation(context, best, baseline)
        chosen = best if sealed.improved else baseline
        bundle = await asyncio.to_thread(_write_bundle, context, chosen, sealed, directory)
        await journal.note("bundle", directory=bundle.name, improved=sealed.improved, candidate=chosen.key)
        return Result(bundle, sealed, spent_out)


async def _optimize(context: RunContext, baseline: Candidate) -> tuple[Candidate, bool]:
    """Return the best candidate that the budget allows, and whether the budget ended the search."""
    best = BestCandidate(baseline)
    context.budget.share = 1.0 - _SEALED_SHARE
    try:
        await run_example_stage(context, best)
        await run_prompt_stage(context, best)
        await run_tuning_stage(context, best)
    except BudgetSpentError as error:
        await context.journal.note("spent", what=error.what)
        return best.candidate, True
    finally:
        context.budget.share = 1.0
    return best.candidate, False


def _write_bundle(context: RunContext, chosen: Candidate, sealed: SealedResult, directory: Path) -> Path:
    """Write the bundle. An existing one is replaced: everything that it was made from is in the journal."""
    bundle = directory / BUNDLE
    if bundle.exists():
        shutil.rmtree(bundle)
    config = context.config
    draft = BundleInput(
        name=config.bundle.name,
        model=config.bundle.model or config.models[TASK].model,
        layout=chosen.layout,
        prompt=chosen.prompt,
        examples=chosen.bank.examples,
        retrieval=chosen.retrieval,
        sampling=chosen.sampling,
        provenance=_provenance(config, sealed),
        sets=chosen.bank.sets,
    )
    write_bundle(bundle, draft, context.embedder)
    return bundle


def _provenance(config: RunConfig, sealed: SealedResult) -> dict[str, Any]:
    return {
        "optimizer": {"recipe": config.search.recipe, "seed": config.search.seed},
        "models": {role: table.model for role, table in config.models.items()},
        "reward": dict(config.reward.weights),
        "screen": dict(config.reward.screen),
        "sealed": provenance(sealed),
    }
