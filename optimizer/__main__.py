"""The command drpo-optimizer. Reads the command line, shows progress, prints what came of it, exits.

Exit codes: 0 good; 1 an endpoint, the data or the run fails; 2 the command line is wrong; 130 interrupted.
"""

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from index.bundle.bundle import read_bundle
from index.embedders.base import Embedder
from index.embedders.registry import open_embedder
from index.errors import DrpoError
from index.types import Example
from optimizer.cli.arguments import command_line
from optimizer.cli.bundle_diff import differences
from optimizer.cli.doctor import examine
from optimizer.cli.harvest import harvest, write_examples
from optimizer.cli.progress import ProgressDisplay
from optimizer.cli.tables import as_markdown, as_table, estimate_table, sealed_table
from optimizer.core.budget import Budget, Limits, Prices
from optimizer.core.config import RunConfig, read_config
from optimizer.core.errors import DataError, JournalError
from optimizer.core.journal import EVENTS, Journal, read_journal
from optimizer.data.dataset import Row, read_rows
from optimizer.evaluation.answers_file import AnswersFile
from optimizer.evaluation.chat_endpoint import ChatEndpoint, Decoding
from optimizer.evaluation.evaluate import Evaluation, EvaluationPlan, evaluate
from optimizer.evaluation.judge_agreement import agreement_table, check_judge, read_pairs
from optimizer.models.cached_calls import Calls, Source
from optimizer.models.http_client import Client, Endpoint, Patience, first_model
from optimizer.report.html_report import write_report
from optimizer.stages.estimate import estimate
from optimizer.stages.run import RUN_FILE, Result, open_run_context, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit code; argparse itself exits with 2."""
    options = command_line().parse_args(arguments)
    try:
        return asyncio.run(_COMMANDS[options.command](options))
    except DrpoError as error:
        print(f"drpo-optimizer: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("drpo-optimizer: interrupted", file=sys.stderr)
        return 130


async def _run(options: argparse.Namespace) -> int:
    config = _config(options.config)
    directory = options.out or options.config.parent / "runs" / config.bundle.name
    if (directory / EVENTS).exists():
        raise JournalError(f"{directory} holds a run already: go on with it (resume), or name another --out")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copy(options.config, directory / RUN_FILE)
    except OSError as error:
        raise JournalError(f"{directory}: cannot be written: {error.strerror}") from None
    return await _go(config, directory, options.config.resolve().parent)


async def _resume(options: argparse.Namespace) -> int:
    directory: Path = options.directory
    begun = next((event["folder"] for event in read_journal(directory) if event.get("note") == "begun"), None)
    if begun is None:
        raise JournalError(f"{directory}: the run never began: delete the directory, and begin it with run RUN.TOML")
    return await _go(_config(directory / RUN_FILE, Path(begun)), directory, Path(begun))


def _config(path: Path, folder: Path | None = None) -> RunConfig:
    """What read_config gives; a reward of the user's own is a module beside run.toml, or installed."""
    sys.path.insert(0, str((folder or path.parent).resolve()))
    return read_config(path, folder)


async def _go(config: RunConfig, directory: Path, folder: Path) -> int:
    live = ProgressDisplay(config.budget, Console(stderr=True))
    with Journal(directory, live.see) as journal:
        await journal.note("begun", folder=str(folder))
        try:
            with live:
                result = await run(config, directory, journal, _tell)
        except BaseException:
            if any(event.get("call") == "reply" for event in journal.events):
                _tell(f"What was paid for is kept: go on with  drpo-optimizer resume {directory}")
            raise
    _show_result(result)
    print(f"Report:  {write_report(directory)}")
    return 0


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _show_result(result: Result) -> None:
    console = Console()
    console.print(sealed_table(result.verdict))
    if result.spent_out:
        console.print("The budget ended the search early: raise it under [budget], and resume, to go on.")
    if result.verdict.improved:
        console.print(f"Better than the baseline. Serve it:  drpo-proxy --bundle {result.bundle}", soft_wrap=True)
    else:
        console.print("No better than the baseline, beyond chance: the bundle holds the baseline.")
        console.print(f"It was written all the same:  {result.bundle}", soft_wrap=True)


async def _report(options: argparse.Namespace) -> int:
    print(write_report(options.directory))
    return 0


async def _estimate(options: argparse.Namespace) -> int:
    config = _config(options.config)
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder)) as journal:
        async with open_run_context(config, journal, _tell) as context:
            found = await estimate(context)
    Console().print(estimate_table(found, config.budget))
    return 0


async def _diff(options: argparse.Namespace) -> int:
    before, after = read_bundle(options.before), read_bundle(options.after)  # opens no embedder of a bundle's choice
    lines = list(differences(before, after))
    print("\n".join(lines) if lines else "Both say the same to a model.")
    return 0


async def _judge_check(options: argparse.Namespace) -> int:
    pairs, key = read_pairs(options.data, options.limit), os.environ.get("DRPO_API_KEY")
    name = options.model or await first_model(options.base_url, key, options.timeout)
    patience = Patience(reply_timeout=options.timeout)
    with ExitStack() as stack:
        folder = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        bar = stack.enter_context(Progress(*columns, console=Console(stderr=True)))
        task = bar.add_task("replies", total=2 * len(pairs))
        journal = stack.enter_context(Journal(folder, lambda event: bar.advance(task, event.get("call") == "reply")))
        async with Client(Endpoint(options.base_url, name, key), options.concurrency, patience) as client:
            calls = Calls({"judge": Source(client, Prices())}, journal, Budget(Limits()))
            judgements = await check_judge(calls, pairs)
    Console().print(agreement_table(judgements, name))
    return 0


async def _harvest(options: argparse.Namespace) -> int:
    if options.out.exists():
        raise DataError(f"{options.out} exists: name another --out")
    found = harvest(options.export, options.at_least, options.words, _approve_all if options.yes else _ask)
    write_examples(options.out, found.approved)
    told = f"{found.too_low} below --at-least, {found.unfit} unfit, too long or doubled, {found.refused} not approved"
    print(f"{len(found.approved)} of {found.read} conversations became examples in {options.out} ({told})")
    return 0


def _approve_all(_example: Example, _outcome: float) -> bool:
    return True


def _ask(example: Example, outcome: float) -> bool:
    print(f"\n--- outcome {outcome:g} ---\n{example.query}\n\n{example.response}\n")
    try:
        return input("Take it as an example? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


async def _doctor(options: argparse.Namespace) -> int:
    bad = 0
    async for finding in examine(_config(options.config)):
        mark = {True: "ok  ", False: "BAD ", None: "-   "}[finding.ok]
        print(f"{mark}{finding.what}: {finding.told}", flush=True)
        bad += finding.ok is False
    return 1 if bad else 0


async def _eval(options: argparse.Namespace) -> int:
    rows = read_rows(options.data, options.limit)
    api_key = os.environ.get("DRPO_API_KEY")
    name = options.model or await first_model(options.base_url, api_key, options.timeout)
    decoding = Decoding(options.max_tokens, options.temperature)
    plan = EvaluationPlan(name, decoding, tuple(dict.fromkeys(options.variant)), rows)
    endpoint = Endpoint(options.base_url, name, api_key)
    patience = Patience(reply_timeout=options.timeout)
    async with ChatEndpoint(endpoint, decoding, options.concurrency, patience) as model:
        with AnswersFile(options.out) as answers:
            evaluation = await _with_progress(plan, model, answers, _open_embedder(options.embedder, rows))
    _show(evaluation, f"{name}, {len(rows):,} rows of {options.data.name}", markdown=options.markdown)
    return 0


async def _with_progress(
    plan: EvaluationPlan, model: ChatEndpoint, answers: AnswersFile, embedder: Embedder | None
) -> Evaluation:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("answers", total=len(plan.rows) * len(plan.variants))
        return await evaluate(plan, model, answers, embedder, lambda: bar.advance(task))


def _open_embedder(name: str, rows: Sequence[Row]) -> Embedder | None:
    """None where nothing is to be compared: a data set without references needs no embedder."""
    return open_embedder(name) if any(row.reference for row in rows) else None


def _show(evaluation: Evaluation, title: str, *, markdown: bool) -> None:
    if markdown:
        print(as_markdown(evaluation))
    else:
        Console().print(as_table(evaluation, title))


_COMMANDS: Mapping[str, Callable[[argparse.Namespace], Coroutine[Any, Any, int]]] = {
    "run": _run,
    "resume": _resume,
    "doctor": _doctor,
    "report": _report,
    "estimate": _estimate,
    "diff": _diff,
    "judge-check": _judge_check,
    "harvest": _harvest,
    "eval": _eval,
}


if __name__ == "__main__":
    raise SystemExit(main())
