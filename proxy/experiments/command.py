"""Implements the command `drpo-proxy experiment`.

The command checks experiment files, prints reports, exports recorded rows, stops experiments, deletes decisions so that
an experiment again runs as its file says, and deletes the data of a unit.
"""

import argparse
import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from shlex import quote
from typing import Final

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from index.counted import counted
from proxy.backends.backend import Backend
from proxy.backends.embedded.model_file import MODEL_NAME
from proxy.core.addresses import server_root
from proxy.core.errors import StartupError
from proxy.core.key_file import read_key
from proxy.core.settings import EMBEDDED, default_store, flag, variable
from proxy.core.settings_reader import read_list, read_variable, refuse_password
from proxy.experiments.analysis.advice import WAYS_TO_END
from proxy.experiments.analysis.operator_commands import OperatorCommands, store_flag
from proxy.experiments.analysis.report_builder import report_of
from proxy.experiments.config import ExperimentFile, read_experiment, read_experiments
from proxy.experiments.console_report import print_report
from proxy.experiments.dashboard import full_report
from proxy.experiments.definition import Experiment, assign
from proxy.experiments.mismatches import Server, find_mismatches, mismatch_lines
from proxy.experiments.model_listing import list_models
from proxy.experiments.records import Allocation
from proxy.experiments.store.dsn import StoreDsn, dsn_of
from proxy.experiments.store.export import export
from proxy.experiments.store.presence import check_place_of_new_store, presence_of
from proxy.experiments.store.store import Store
from proxy.experiments.store.stored_outcomes import StoredOutcomes
from proxy.experiments.units import named_unit

_DESCRIPTION = """\
Checks the files of experiments, and reads or changes what the store holds about them.

  drpo-proxy experiment check FILE ...         are the files valid, can they run together, can the store be used?
                                               with --backend URL: do the backends list the models of the files?
  drpo-proxy experiment report FILE            which arm is ahead, and how certain is this?
  drpo-proxy experiment export NAME > FILE     write the stored rows, one JSON object per line
  drpo-proxy experiment stop NAME --reason ... give the control to all units, on all replicas, within seconds
  drpo-proxy experiment release NAME           let a stopped experiment run again as its file says
  drpo-proxy experiment delete-unit UNIT       delete all rows of the unit that x-drpo-unit or `user` named
"""
_SIMULATED_UNITS: Final = 10_000  # units that `check` assigns to estimate each arm's share


def run_experiment_command(arguments: Sequence[str], environment: Mapping[str, str], output: Console) -> int:
    """Run the command and return the exit status. Raises DrpoError with a message for the user."""
    options = _parser().parse_args(arguments)
    refuse_password(options.store)
    dsn = dsn_of(options.store or read_variable("store", environment) or default_store(environment))
    if hasattr(options, "backend"):
        options.backend = options.backend or read_list("backend", environment)
        options.key_file = options.backend_api_key_file or read_variable("backend_api_key_file", environment)
    command: Command = options.run
    return command(options, dsn, output)


Command = Callable[[argparse.Namespace, StoreDsn, Console], int]  # runs one command, and returns the exit status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "drpo-proxy experiment", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    check = _add_command(commands, "check", _check, "check the files of experiments, and the store")
    check.add_argument("files", nargs="+", metavar="FILE")
    for name, metavar, purpose in (
        ("backend", "URL", "compare the models of the files with those that this backend lists"),
        ("backend_api_key_file", "FILE", "file with the API key to send to the backends"),
    ):
        help_text = f"{purpose} [{variable(name)}]"
        action = "append" if name == "backend" else "store"
        check.add_argument(flag(name), action=action, metavar=metavar, help=help_text)
    report = _add_command(commands, "report", _report, "which arm is ahead, and how certain is this?")
    report.add_argument("file", metavar="FILE", help="the experiment's file, which says what is compared")
    report.add_argument("--json", action="store_true", help="print the JSON of GET /experiments/{name}")
    exporting = _add_command(commands, "export", _export, "print the stored rows of an experiment as JSON lines")
    exporting.add_argument("name", metavar="NAME")
    stop = _add_command(commands, "stop", _stop, "give the control to all units of an experiment")
    stop.add_argument("name", metavar="NAME")
    stop.add_argument("--reason", default="stopped by hand", help="the reason, which is shown with the experiment")
    release = _add_command(commands, "release", _release, "undo `stop`, and delete weights that were adapted")
    release.add_argument("name", metavar="NAME")
    delete = _add_command(commands, "delete-unit", _delete_unit, "delete all rows of a unit")
    delete.add_argument("unit", metavar="UNIT")
    return parser


def _add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, run: Command, summary: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=summary, description=summary)
    command.set_defaults(run=run)
    command.add_argument(
        "--store", default="", metavar="PLACE", help=f"sqlite:PATH or postgresql://... [{variable('store')}]"
    )
    return command


def _check(options: argparse.Namespace, dsn: StoreDsn, output: Console) -> int:
    files = read_experiments(options.files)
    for file in files:
        output.print(_arms_table(file.experiment))
        for line in _scope_lines(file, _commands(file.path, options)):
            output.print(line, markup=False, soft_wrap=True)
    output.print(_describe_store(dsn), markup=False, soft_wrap=True)
    warnings = _warnings(files, options)
    for warning in warnings:
        output.print(f"warning: {warning}", style="yellow", markup=False, soft_wrap=True)
    verdict = "The files can be used, with the warnings above." if warnings else "Everything is right."
    output.print(verdict, style="green")
    return 0


def _describe_store(dsn: StoreDsn) -> str:
    """Return whether a server can use the store. Raise StartupError or StoreError if it cannot. Create no store."""
    found = presence_of(dsn)
    if found == "store":
        Store(dsn).close()
        return f"The store {dsn.name} can be used."
    if found == "no file":
        check_place_of_new_store(dsn)
    missing = "does not exist yet" if found == "no file" else "has no tables yet"
    return f"The store {dsn.name} {missing}: the server creates {'it' if found == 'no file' else 'them'} at its start."


def _warnings(files: Sequence[ExperimentFile], options: argparse.Namespace) -> list[str]:
    """Return a sentence for each setting that can have no effect, and for each backend that lists no models."""
    key = read_key(options.key_file, flag("backend_api_key_file"))
    backends = [Backend(server_root(url), key) for url in options.backend if url != EMBEDDED]
    models, problems = asyncio.run(list_models(backends))
    if models is not None and EMBEDDED in options.backend:
        models |= {MODEL_NAME}
    return problems + mismatch_lines(find_mismatches(files, Server(models or None), time.time()))


def _arms_table(experiment: Experiment) -> Table:
    """Build a table of the arms. The column `share` is the fraction of simulated units that get the arm."""
    title = f"{experiment.name}: {', '.join(metric.name for metric in experiment.metrics)}"
    table = Table("arm", "weight", "share", "variant", "model", "bundle", title=title, title_justify="left")
    names = [assign(experiment, b"%d" % unit).name for unit in range(_SIMULATED_UNITS)]
    for arm in experiment.arms:
        name = f"{arm.name} (control)" if arm.name == experiment.control else arm.name
        share = f"{names.count(arm.name) / _SIMULATED_UNITS:.1%}"
        table.add_row(name, f"{arm.weight:g}", share, arm.variant or "", arm.model or "", arm.bundle or "")
    return table


def _commands(file: Path, options: argparse.Namespace) -> OperatorCommands:
    """Return commands with the flags of this command. The variables of the environment go on being set."""
    return OperatorCommands(quote(str(file)), store_flag(options.store))


def _scope_lines(file: ExperimentFile, commands: OperatorCommands) -> list[str]:
    """Return lines of text that describe who takes part, when the experiment runs, its guardrails, and its judge."""
    experiment = file.experiment
    models = ", ".join(sorted(experiment.models)) or "all models"
    keys = f"keys {', '.join(sorted(experiment.keys))}" if experiment.keys else "all keys"
    low, high = experiment.slots
    layer = f", positions {low:g} to {high:g} of the layer {experiment.layer}" if experiment.layer else ""
    lines = [f"  Who: {experiment.share:.0%} of units, {models}, {keys}{layer}."]
    lines.append(f"  When: {_times(experiment, commands)}.")
    for guardrail in experiment.guardrails:
        consequence = "stops the experiment" if guardrail.stop else "adds a warning"
        metric = guardrail.metric
        direction = "below" if metric.better == "higher" else "above"
        lines.append(
            f"  Guardrail: {metric.name} may be at most {guardrail.tolerance:g} {direction} the control's. A breach "
            f"{consequence}."
        )
    if file.judge:
        lines.append(
            f"  Judge: if the server has --judge, {file.judge.model} compares answers to {file.judge.share:.1%} of "
            "requests. It gets the questions and answers of users."
        )
    return lines


def _times(experiment: Experiment, commands: OperatorCommands) -> str:
    start = "now on" if math.isinf(experiment.start) else _format_time(experiment.start)
    if math.isfinite(experiment.end):
        return f"from {start} to {_format_time(experiment.end)}"
    stop = f"{commands.stop(experiment.name)} gives {experiment.control} to all users"
    return f"from {start}, until you {WAYS_TO_END}. {stop}"


def _format_time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _report(options: argparse.Namespace, dsn: StoreDsn, output: Console) -> int:
    experiment, commands = read_experiment(Path(options.file)).experiment, _commands(Path(options.file), options)
    outcomes = outcomes_of(dsn)
    if options.json:
        output.file.write(
            orjson.dumps(full_report(experiment, outcomes, commands), option=orjson.OPT_INDENT_2).decode() + "\n"
        )
        return 0
    with output.status(Text(f"Reading {experiment.name} from {dsn.name}")):
        report = report_of(experiment, outcomes, commands)
    print_report(experiment.name, report, output)
    if not report.units:
        read = f"Read from {dsn.name}, which has no units of {experiment.name}."
        wanted = f"If the server has another store, give it here, too: --store or {variable('store')}."
        output.print(f"{read} {wanted}", style="yellow", markup=False, soft_wrap=True)
    return 0


def _export(options: argparse.Namespace, dsn: StoreDsn, output: Console) -> int:
    rows = export(_existing_store(dsn), options.name)
    first = next(rows, None)
    if first is None:
        raise StartupError(
            f"experiment export {options.name}: {dsn.name} has no rows of this experiment. Check NAME and --store."
        )
    for row in chain((first,), rows):
        output.file.write(orjson.dumps(row).decode() + "\n")
    return 0


def _stop(options: argparse.Namespace, dsn: StoreDsn, output: Console) -> int:
    with Store(_existing_store(dsn)) as store:
        current = store.allocations().get(options.name, Allocation(options.name, "", None, 0.0))
        store.set_allocation(replace(current, stopped=options.reason, time=time.time()))
    output.print(f"{options.name} is stopped. All its units get the control.", markup=False)
    return 0


def _release(options: argparse.Namespace, dsn: StoreDsn, output: Console) -> int:
    with Store(_existing_store(dsn)) as store:
        was_allocated = store.release(options.name)
    result = "runs again as its file says" if was_allocated else "was not stopped"
    output.print(f"{options.name} {result}.", markup=False)
    return 0


def _delete_unit(options: argparse.Namespace, dsn: StoreDsn, output: Console) -> int:
    with Store(_existing_store(dsn)) as store:
        count = store.delete_unit(named_unit(options.unit))
    output.print(f"Deleted the rows of {counted(count, 'request')} of this unit.", markup=False)
    return 0


def _existing_store(dsn: StoreDsn) -> StoreDsn:
    """Return the DSN. Raise StartupError if the place holds no store. Only a server creates stores."""
    found = presence_of(dsn)
    if found != "store":
        reason = "this file does not exist" if found == "no file" else "this place has no tables of a store"
        raise StartupError(f"--store {dsn.name}: {reason}. Name the store with --store or {variable('store')}.")
    return dsn


def outcomes_of(dsn: StoreDsn) -> StoredOutcomes:
    """Return the outcomes in a store. Raise StartupError if the place that the DSN names holds no store."""
    return StoredOutcomes(_existing_store(dsn))
