"""Runs or continues an optimization run with its progress on stderr. The commands run, resume and improve share it."""

import shlex
import sys
from pathlib import Path

from rich.console import Console

from index.model_names import split_model_name
from index.standard_output import OutputConsole
from optimizer.cli.progress import ProgressDisplay
from optimizer.cli.tables import sealed_table
from optimizer.core.config import read_config
from optimizer.core.config_tables import RunConfig
from optimizer.core.errors import ChangedInputsError
from optimizer.core.journal import Event, Journal
from optimizer.core.model_tables import ModelTable
from optimizer.core.run_file import BEGUN
from optimizer.report.html_report import write_report
from optimizer.report.sealed_verdict import sealed_sentence
from optimizer.rewards.registry import check_rewards
from optimizer.stages.run import Result, run
from optimizer.stages.sealed_result import result_values


def read_run_file(path: Path, folder: Path | None = None) -> RunConfig:
    """Read run.toml and check its rewards.

    Args:
        path: The path of run.toml.
        folder: Relative paths in run.toml start from this folder; None stands for the folder that contains run.toml.
            The folder is added to sys.path, so that Python can import the user's reward modules from it.
    """
    sys.path.insert(0, str((folder or path.parent).resolve()))
    config = read_config(path, folder)
    check_rewards(config)
    return config


async def start_or_continue(config: RunConfig, directory: Path, begun: Event, command: str) -> tuple[Result, Path]:
    """Start or resume the run of a directory, show its progress on stderr, and write its report.

    Args:
        config: The settings of run.toml.
        directory: The directory of the run.
        begun: The event at the beginning of the journal, which `begun_event` makes.
        command: The command that continues the run, for the message if it stops.

    Returns:
        The result of the run, and the path of its report.
    """
    progress = ProgressDisplay(config.budget, Console(stderr=True, markup=False))
    with Journal(directory, progress.on_event) as journal:
        await journal.note(BEGUN, folder=begun["folder"], file=begun.get("file"), digest=begun.get("digest"))
        try:
            with progress:
                result = await run(config, directory, journal, print_error_line)
        except ChangedInputsError:  # its message says what to do, and the same command would fail again
            raise
        except BaseException:
            if any(event.get("call") == "reply" for event in journal.events):
                print_error_line(f"Paid replies are kept. To continue, run {command}.")
            raise
    return result, write_report(directory)


def print_error_line(line: str) -> None:
    """Print a line on stderr."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def show_result(result: Result, task: ModelTable) -> None:
    """Print the result of a run, and how to serve its bundle with the task model."""
    console = OutputConsole()
    if result.sealed:
        console.print(sealed_table(result.sealed))
    if result.spent_out:
        console.print(
            "The budget ended the search early. To continue the search, raise the limit under [budget], and resume."
        )
    sealed = result_values(result.sealed) if result.sealed else None
    sentence = sealed_sentence(sealed, is_found=result.is_found, kept_start=result.kept_start)
    console.print(sentence, soft_wrap=True)
    if result.is_found:
        console.print(f"Serve it:  {_serve_command(result.bundle, task)}", soft_wrap=True)
    else:
        console.print(f"The baseline was written as the bundle:  {result.bundle}", soft_wrap=True)


def _serve_command(bundle: Path, task: ModelTable) -> str:
    """Return the command that serves a bundle. If a drpo-proxy serves the task model, its backends are not known."""
    _, variant = split_model_name(task.model, ())
    return shlex.join(["drpo-proxy", *([] if variant else ["--backend", task.base_url]), "--bundle", str(bundle)])
