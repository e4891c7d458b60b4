"""Builds the report of an experiment from recorded outcomes.

The statistical modules are imported when the first report is built, since they need packages of the optional extra
`experiments`. A server without this extra can still serve requests and record outcomes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from proxy.core.errors import NoStatisticsError
from proxy.experiments.analysis.operator_commands import OperatorCommands
from proxy.experiments.definition import Experiment
from proxy.experiments.records import Allocation, Outcomes, UnitOutcomes

if TYPE_CHECKING:
    from proxy.experiments.analysis.report import Report


def report_of(experiment: Experiment, outcomes: Outcomes, commands: OperatorCommands | None = None) -> "Report":
    """Compute the report of an experiment. `commands` are those that its advice names.

    Raises:
        StoreError: The outcomes cannot be read.
        NoStatisticsError: The extra `experiments` is not installed.
    """
    report = _analyse(experiment, outcomes, list(outcomes.units(experiment.name)), commands)
    return replace(report, left_out=outcomes.left_out(experiment.name))


def _analyse(
    experiment: Experiment,
    outcomes: Outcomes,
    units: Sequence[UnitOutcomes],
    commands: OperatorCommands | None = None,
) -> "Report":
    try:
        from proxy.experiments.analysis.analyze import analyse
    except ModuleNotFoundError as error:
        raise NoStatisticsError(error.name) from error
    allocation = outcomes.allocations().get(experiment.name)
    if allocation is None:
        return analyse(experiment, units, commands=commands)
    return analyse(experiment, units, allocation.weights, stopped=bool(allocation.stopped), commands=commands)


def propose_allocation(experiment: Experiment, outcomes: Outcomes, now: float) -> Allocation | None:
    """Return the decision that follows from the outcomes, or None to change nothing. `now` is in Unix seconds.

    Raises:
        StoreError: The outcomes cannot be read.
        NoStatisticsError: The extra `experiments` is not installed.
    """
    units = list(outcomes.units(experiment.name))
    report = _analyse(experiment, outcomes, units)
    from proxy.experiments.analysis.adaptive import decide_allocation

    return decide_allocation(experiment, units, report, now)


def report_as_json(
    experiment: Experiment, outcomes: Outcomes, commands: OperatorCommands | None = None
) -> Mapping[str, Any]:
    """Compute the report as a dictionary for JSON. The docstring of `analysis.report` shows its keys.

    Raises:
        StoreError: The outcomes cannot be read.
        NoStatisticsError: The extra `experiments` is not installed.
    """
    return asdict(report_of(experiment, outcomes, commands))
