"""The report of an experiment as values that JSON has, from what a store knows. Brings in the statistics when they are
first asked for: serving needs none of them, and they are an extra.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from proxy.core.errors import NoStatisticsError
from proxy.experiments.definition import Experiment
from proxy.experiments.records import Allocation, Outcomes, UnitOutcomes

if TYPE_CHECKING:
    from proxy.experiments.analysis.report import Report


def report_of(experiment: Experiment, outcomes: Outcomes) -> "Report":
    """The statistics of an experiment. Raises StoreError; NoStatisticsError where the extra is not installed."""
    return _report(experiment, outcomes, list(outcomes.units(experiment.name)))


def _report(experiment: Experiment, outcomes: Outcomes, units: Sequence[UnitOutcomes]) -> "Report":
    try:
        from proxy.experiments.analysis.analyze import analyse
    except ModuleNotFoundError as error:
        raise NoStatisticsError(error.name) from error
    allocations = outcomes.allocations().get(experiment.name)
    return analyse(experiment, units, allocations.weights if allocations else None)


def decided(experiment: Experiment, outcomes: Outcomes, now: float) -> Allocation | None:
    """What follows for the running experiment; see adaptive.decide. now: Unix seconds. Raises as `report_of`."""
    units = list(outcomes.units(experiment.name))
    report = _report(experiment, outcomes, units)
    from proxy.experiments.analysis.adaptive import decide

    return decide(experiment, units, report, now)


def report_as_json(experiment: Experiment, outcomes: Outcomes) -> Mapping[str, Any]:
    """The same, as JSON has it; see report for its shape."""
    return asdict(report_of(experiment, outcomes))
