"""The command drpo-optimizer: parses the command line, runs one command, and prints the progress and the result.

Exit codes:
    0: The command succeeded. For `doctor`: all checks passed.
    1: The command failed, for example because an endpoint did not answer. For `doctor`: a check failed.
    2: The command line is wrong.
    130: The user interrupted the command.
    141: The reader of the output ended early, such as `head`.
"""

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from index.bundle.bundle import read_bundle
from index.bundle.differences import differences
from index.bundle.shipped import find_bundle
from index.counted import counted
from index.embedders.base import Embedder
from index.embedders.registry import open_embedder
from index.errors import DrpoError
from index.standard_output import OutputConsole, discard_rest, escape_unprintable
from optimizer.cli.arguments import HARVEST, IMPROVE, argument_parser
from optimizer.cli.doctor import check_run
from optimizer.cli.harvest import run_harvest
from optimizer.cli.improve import run_improve
from optimizer.cli.judge_check import judge_tables
from optimizer.cli.run_command import print_error_line, read_run_file, show_result, start_or_continue
from optimizer.cli.ship import ship
from optimizer.cli.tables import budget_note, estimate_table, evaluation_markdown, evaluation_table
from optimizer.core.config import read_config
from optimizer.core.config_tables import RunConfig
from optimizer.core.errors import JournalError, OptimizeError
from optimizer.core.journal import Event, Journal, discard_without_reply, read_journal
from optimizer.core.run_file import BEGUN, begun_event, changed_run_file
from optimizer.data.dataset import Row, read_rows
from optimizer.estimation.estimate import estimate
from optimizer.evaluation.answers_file import AnswersFile
from optimizer.evaluation.chat_endpoint import ChatEndpoint, Decoding
from optimizer.evaluation.evaluate import Evaluation, EvaluationPlan, evaluate
from optimizer.models.http_client import Endpoint, RetryPolicy
from optimizer.models.model_list import first_model
from optimizer.report.html_report import write_report
from optimizer.stages.run import RUN_FILE
from optimizer.stages.run_context import open_run_context


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. For a wrong command line, argparse ends the process with code 2."""
    escape_unprintable()
    options = argument_parser().parse_args(arguments)
    try:
        status = _run_command(options)
        sys.stdout.flush()
        return status
    except DrpoError as error:
        can_resume = options.command in _RUN_COMMANDS
        message = error.without_run if isinstance(error, OptimizeError) and not can_resume else str(error)
        print(f"drpo-optimizer: {message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("drpo-optimizer: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return discard_rest()


def _run_command(options: argparse.Namespace) -> int:
    if options.command == HARVEST:  # in asyncio.run, Ctrl-C could not end the wait for the user's input
        return run_harvest(options)
    if options.command == IMPROVE:
        return run_improve(options)
    return asyncio.run(_COMMANDS[options.command](options))


async def _run(options: argparse.Namespace) -> int:
    config = read_run_file(options.config)
    directory = options.out or options.config.parent / "runs" / config.bundle.name
    if not discard_without_reply(directory):
        command = f"drpo-optimizer resume {quote(str(directory))}"
        raise JournalError(f"{directory} already contains a run. Continue it with `{command}`, or name another --out.")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copy(options.config, directory / RUN_FILE)
    except OSError as error:
        raise JournalError(f"{directory} cannot be written: {error.strerror}") from None
    return await _run_in(config, directory, begun_event(options.config))


async def _resume(options: argparse.Namespace) -> int:
    directory: Path = options.directory
    begun = next((event for event in read_journal(directory) if event.get("note") == BEGUN), None)
    if begun is None:
        raise JournalError(
            f"{directory}: the run never began. Delete the directory, and give the command `drpo-optimizer run "
            "RUN.TOML`."
        )
    if line := changed_run_file(begun, directory / RUN_FILE):
        print_error_line(line)
    config = read_run_file(directory / RUN_FILE, Path(begun["folder"]))
    return await _run_in(config, directory, begun)


async def _run_in(config: RunConfig, directory: Path, begun: Event) -> int:
    command = f"`drpo-optimizer resume {quote(str(directory))}`"
    result, report = await start_or_continue(config, directory, begun, command)
    show_result(result, config.models["task"])
    print(f"Report:  {report}")
    return 0


async def _report(options: argparse.Namespace) -> int:
    print(write_report(options.directory))
    return 0


async def _estimate(options: argparse.Namespace) -> int:
    config = read_run_file(options.config)
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder)) as journal:
        async with open_run_context(config, journal, print_error_line) as context:
            expected = await estimate(context)
    OutputConsole().print(estimate_table(expected, config.budget))
    if note := budget_note(expected, config.budget):
        print(note)
    return 0


async def _ship(options: argparse.Namespace) -> int:
    begun = next((event for event in read_journal(options.run) if event.get("note") == BEGUN), None)
    folder = Path(begun["folder"]) if begun else options.run
    print("\n".join(ship(options, read_config(options.run / RUN_FILE, folder))))
    return 0


async def _diff(options: argparse.Namespace) -> int:
    # A bundle may come from an untrusted source, so its embedder must not be opened. read_bundle does not open it.
    before, after = (read_bundle(find_bundle(name)) for name in (options.before, options.after))
    lines = list(differences(before, after))
    print("\n".join(lines) if lines else "The bundles differ in nothing that a model gets.")
    return 0


async def _judge_check(options: argparse.Namespace) -> int:
    key = os.environ.get("DRPO_API_KEY")
    name = options.model or await first_model(options.base_url, key, options.timeout)
    with _progress_bar() as bar:
        tables = await judge_tables(options, Endpoint(options.base_url, name, key), bar)
    for table in tables:
        OutputConsole().print(table)
    return 0


async def _doctor(options: argparse.Namespace) -> int:
    config, failures, warnings = read_run_file(options.config), 0, 0
    with Console(stderr=True, markup=False).status("checking") as status:
        async for finding in check_run(config, lambda subject: status.update(Text(f"checking {subject}"))):
            mark = "WARN" if finding.is_warning else {True: "ok", False: "BAD", None: "-"}[finding.ok]
            print(f"{mark:4}{' ' * finding.is_warning}{finding.subject}: {finding.message}")
            print(textwrap.indent(finding.advice + "\n", "    ") if finding.advice else "", end="", flush=True)
            failures += finding.ok is False
            warnings += finding.is_warning
    if failures:
        print(f"\n{counted(failures, 'check')} failed. The run would not work.")
    elif warnings:
        print(f"\nWarnings: {warnings}. The run would work, but you could not trust its result.")
    return 1 if failures else 0


async def _eval(options: argparse.Namespace) -> int:
    rows = read_rows(options.data, options.limit)
    api_key = os.environ.get("DRPO_API_KEY")
    name = options.model or await first_model(options.base_url, api_key, options.timeout)
    decoding = Decoding(options.max_tokens, options.temperature)
    plan = EvaluationPlan(name, decoding, tuple(dict.fromkeys(options.variant)), rows)
    address = Endpoint(options.base_url, name, api_key)
    patience = RetryPolicy(reply_timeout=options.timeout)
    async with ChatEndpoint(address, decoding, options.concurrency, patience) as endpoint:
        with AnswersFile(options.out) as answers:
            evaluation = await _evaluate(plan, endpoint, answers, _open_embedder(options.embedder, rows))
    if evaluation.left_out:
        print_error_line(
            f"Rows that were left out, because a variant cannot answer them: {'; '.join(evaluation.left_out)}"
        )
    if options.markdown:
        print(evaluation_markdown(evaluation))
    else:
        OutputConsole().print(
            evaluation_table(evaluation, f"{name}, {counted(len(rows), 'row')} of {options.data.name}")
        )
    return 0


async def _evaluate(
    plan: EvaluationPlan, endpoint: ChatEndpoint, answers: AnswersFile, embedder: Embedder | None
) -> Evaluation:
    with _progress_bar() as bar:
        task = bar.add_task("answers", total=len(plan.rows) * len(plan.variants))
        return await evaluate(plan, endpoint, answers, embedder, lambda: bar.advance(task))


def _progress_bar() -> Progress:
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True, markup=False))


def _open_embedder(name: str, rows: Sequence[Row]) -> Embedder | None:
    """Open the embedder that compares answers with references. Return None if no row has a reference."""
    return open_embedder(name) if any(row.reference for row in rows) else None


_RUN_COMMANDS: Final = ("run", "resume", IMPROVE)
_COMMANDS: Mapping[str, Callable[[argparse.Namespace], Coroutine[Any, Any, int]]] = {
    "run": _run,
    "resume": _resume,
    "doctor": _doctor,
    "report": _report,
    "estimate": _estimate,
    "diff": _diff,
    "ship": _ship,
    "judge-check": _judge_check,
    "eval": _eval,
}


if __name__ == "__main__":
    raise SystemExit(main())
