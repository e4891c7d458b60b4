"""The command `drpo-proxy experiment`: look at experiments and at what is kept of them, from a terminal."""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Final

import orjson
from rich.console import Console
from rich.table import Table

from proxy.core.errors import StartupError
from proxy.core.settings import default_store, refuse_password, variable
from proxy.experiments.analysis.report_builder import report_of
from proxy.experiments.config import ExperimentFile, read_experiment, read_experiments
from proxy.experiments.console_report import print_report
from proxy.experiments.dashboard import whole_report
from proxy.experiments.definition import Experiment, assign
from proxy.experiments.records import Allocation
from proxy.experiments.store.export import export
from proxy.experiments.store.store import Place, Store, StoredOutcomes, place_of
from proxy.experiments.units import named_unit

_DESCRIPTION = """\
Experiments: what a file says, and what is kept of one.

  drpo-proxy experiment check FILE ...         are the files right, can they run together, can the store be used?
  drpo-proxy experiment report FILE            who is ahead, and how certain is it?
  drpo-proxy experiment export NAME > FILE     the raw rows, one JSON object to a line
  drpo-proxy experiment stop NAME --reason ... give everyone the control, on all replicas, within seconds
  drpo-proxy experiment release NAME           let it run as its file says again
  drpo-proxy experiment delete-unit UNIT       delete all that is kept of whom x-drpo-unit or `user` named so
"""
_LOOKS: Final = 10_000  # units that `check` assigns, to show what the weights come to


def run_experiment_command(arguments: Sequence[str], environment: Mapping[str, str], output: Console) -> int:
    """Run it; 0 if all is well. Raises DrpoError, which says what is not."""
    options = _parser().parse_args(arguments)
    refuse_password(options.store)
    place = place_of(options.store or environment.get(variable("store")) or default_store(environment))
    command: Command = options.run
    return command(options, place, output)


Command = Callable[[argparse.Namespace, Place, Console], int]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "drpo-proxy experiment", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    check = _command(commands, "check", _check, "look at experiments' files, and at the store")
    check.add_argument("files", nargs="+", metavar="FILE")
    report = _command(commands, "report", _report, "who is ahead, and how certain is it?")
    report.add_argument("file", metavar="FILE", help="the experiment's file, which says what is compared")
    report.add_argument("--json", action="store_true", help="what GET /experiments/{name} answers")
    exporting = _command(commands, "export", _export, "print the raw rows of one, as JSON lines")
    exporting.add_argument("name", metavar="NAME")
    stop = _command(commands, "stop", _stop, "give everyone its control")
    stop.add_argument("name", metavar="NAME")
    stop.add_argument("--reason", default="stopped by hand", help="to be shown where the experiment is")
    release = _command(commands, "release", _release, "undo `stop`, and weights that were adapted")
    release.add_argument("name", metavar="NAME")
    delete = _command(commands, "delete-unit", _delete_unit, "delete all that is kept of a unit")
    delete.add_argument("unit", metavar="UNIT")
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, run: Command, what: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=what, description=what)
    command.set_defaults(run=run)
    command.add_argument(
        "--store", default="", metavar="PLACE", help=f"sqlite:PATH or postgresql://... [{variable('store')}]"
    )
    return command


def _check(options: argparse.Namespace, place: Place, output: Console) -> int:
    for file in read_experiments(options.files):
        output.print(_arms(file.experiment))
        for line in _who_and_when(file):
            output.print(line, markup=False, soft_wrap=True)
    with Store(place):
        output.print(f"The store {place.name} can be used.", markup=False, soft_wrap=True)
    output.print("Everything is right.", style="green")
    return 0


def _arms(experiment: Experiment) -> Table:
    """The arms, with what their weights come to for units that are made up."""
    title = f"{experiment.name}: {', '.join(metric.name for metric in experiment.metrics)}"
    table = Table("arm", "weight", "share", "variant", "model", "bundle", title=title, title_justify="left")
    names = [assign(experiment, b"%d" % unit).name for unit in range(_LOOKS)]
    for arm in experiment.arms:
        name = f"{arm.name} (control)" if arm.name == experiment.control else arm.name
        share = f"{names.count(arm.name) / _LOOKS:.1%}"
        table.add_row(name, f"{arm.weight:g}", share, arm.variant or "", arm.model or "", arm.bundle or "")
    return table


def _who_and_when(file: ExperimentFile) -> list[str]:
    """Who is in, when, and what watches over it, in a line each."""
    experiment = file.experiment
    models = ", ".join(sorted(experiment.models)) or "all models"
    keys = f"keys {', '.join(sorted(experiment.keys))}" if experiment.keys else "all keys"
    low, high = experiment.slots
    layer = f", {low:g} to {high:g} of the layer {experiment.layer}" if experiment.layer else ""
    lines = [f"  Who: {experiment.share:.0%} of units, {models}, {keys}{layer}."]
    lines.append(f"  When: from {_moment(experiment.start)} to {_moment(experiment.end)}.")
    for guardrail in experiment.guardrails:
        then = "and stops it" if guardrail.stop else "and warns"
        metric = guardrail.metric
        worse = "below" if metric.better == "higher" else "above"
        lines.append(f"  Guardrail: {metric.name} at most {guardrail.tolerance:g} {worse} the control's, {then}.")
    if file.judge:
        lines.append(
            f"  Judge: {file.judge.model}, {file.judge.share:.1%} of requests, if the server has --judge: it is sent "
            "what users ask and are answered."
        )
    return lines


def _moment(seconds: float) -> str:
    if abs(seconds) == float("inf"):
        return "now on" if seconds < 0 else "whenever it is taken out"
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _report(options: argparse.Namespace, place: Place, output: Console) -> int:
    experiment = read_experiment(Path(options.file)).experiment
    outcomes = outcomes_of(place)
    if options.json:
        output.file.write(orjson.dumps(whole_report(experiment, outcomes), option=orjson.OPT_INDENT_2).decode() + "\n")
        return 0
    with output.status(f"Reading {experiment.name} from {place.name}"):
        report = report_of(experiment, outcomes)
    print_report(experiment.name, report, output)
    return 0


def _export(options: argparse.Namespace, place: Place, output: Console) -> int:
    rows = export(_existing(place), options.name)
    first = next(rows, None)
    if first is None:
        raise StartupError(f"experiment export {options.name}: {place.name} has nothing of it.")
    for row in chain((first,), rows):
        output.file.write(orjson.dumps(row).decode() + "\n")
    return 0


def _stop(options: argparse.Namespace, place: Place, output: Console) -> int:
    with Store(_existing(place)) as store:
        known = store.allocations().get(options.name, Allocation(options.name, "", None, 0.0))
        store.set_allocation(replace(known, stopped=options.reason, time=time.time()))
    output.print(f"{options.name} is stopped: everyone gets its control.", markup=False)
    return 0


def _release(options: argparse.Namespace, place: Place, output: Console) -> int:
    with Store(_existing(place)) as store:
        was = store.release(options.name)
    said = "runs as its file says again" if was else "was not stopped"
    output.print(f"{options.name} {said}.", markup=False)
    return 0


def _delete_unit(options: argparse.Namespace, place: Place, output: Console) -> int:
    with Store(_existing(place)) as store:
        count = store.delete_unit(named_unit(options.unit))
    output.print(f"Deleted what was kept of {count} requests of this unit.", markup=False)
    return 0


def _existing(place: Place) -> Place:
    """The place, if something is there: only `check` and a server make a store. Raises StartupError."""
    kind, _, path = place.name.partition(":")
    if kind == "sqlite" and not Path(path).exists():
        raise StartupError(
            f"--store {place.name}: there is no such file; say which with --store, or {variable('store')}."
        )
    return place


def outcomes_of(place: Place) -> StoredOutcomes:
    """What the place knows, for statistics. Raises StartupError where nothing is there."""
    return StoredOutcomes(_existing(place))
