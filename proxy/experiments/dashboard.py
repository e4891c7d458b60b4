"""Lists and reports experiments for the operator, and makes the automatic decisions about running experiments.

An automatic decision stops an experiment whose guardrail is breached, or changes adaptive weights. This module reads
outcomes from the store and writes decisions to it. It does not depend on routes. The methods block while they read
files or the store, so call them in a thread.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from proxy.core.errors import UnknownExperimentError
from proxy.core.settings import ExperimentSettings
from proxy.experiments.analysis.operator_commands import OperatorCommands
from proxy.experiments.analysis.report_builder import propose_allocation, report_as_json
from proxy.experiments.automatic_metrics import AUTOMATIC_METRICS
from proxy.experiments.config import read_experiments
from proxy.experiments.definition import Experiment, Metric
from proxy.experiments.records import NO_EXPERIMENT, Allocation, Outcomes
from proxy.experiments.store.dsn import dsn_of
from proxy.experiments.store.store import Store
from proxy.experiments.store.stored_outcomes import StoredOutcomes


class Dashboard:
    """The experiments whose files the settings name. The files are read at the start and by each call of `refresh`."""

    def __init__(self, settings: ExperimentSettings) -> None:
        self._paths, self._store = settings.experiment, settings.store
        self._dsn = dsn_of(settings.store) if settings.store else None
        self._outcomes = StoredOutcomes(self._dsn) if self._dsn else None
        self._experiments: Mapping[str, Experiment] = {}
        self._files: Mapping[str, str] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the experiment files again. Raises StartupError if a file is invalid."""
        files = read_experiments(self._paths)
        self._experiments = {file.experiment.name: file.experiment for file in files}
        self._files = {file.experiment.name: str(file.path.absolute()) for file in files}

    def listing(self) -> list[Mapping[str, Any]]:
        """Return a summary of each experiment, with its state and its number of units by arm.

        The list is empty if the settings name no store. Raises StoreError if the store cannot be read.
        """
        if self._outcomes is None:
            return []
        allocations = self._outcomes.allocations()
        return [_summary(one, allocations.get(one.name), self._outcomes) for one in self._experiments.values()]

    def report(self, name: str) -> Mapping[str, Any]:
        """Return the summary and the report of an experiment.

        Raises:
            UnknownExperimentError: No experiment has this name.
            StoreError: The outcomes cannot be read.
            NoStatisticsError: The extra `experiments` is not installed.
        """
        experiment = self._experiment(name)
        commands = OperatorCommands.for_server(self._files[name], self._store)
        return full_report(experiment, self._outcomes, commands) if self._outcomes else {}

    def feedback(self, name: str) -> Mapping[str, Any]:
        """Return what users say about the latest requests: the JSON of GET /experiments/{name}/feedback.

        Raises:
            UnknownExperimentError: No experiment has this name.
            StoreError: The store cannot be read.
        """
        experiment = self._experiment(name)
        return asdict(self._outcomes.feedback(name, rated_metric(experiment))) if self._outcomes else {}

    def feedback_without_experiment(self) -> Mapping[str, Any]:
        """Return what users say about the latest requests in no experiment: the JSON of GET /feedback.

        Raises StoreError if the store cannot be read.
        """
        return asdict(self._outcomes.feedback(NO_EXPERIMENT, _THUMBS)) if self._outcomes else {"requests": 0}

    def _experiment(self, name: str) -> Experiment:
        if name not in self._experiments or self._outcomes is None:
            listed = ", ".join(self._experiments) or "none"
            raise UnknownExperimentError(f"This server has no experiment with this name. It has: {listed}.")
        return self._experiments[name]

    def update_allocations(self) -> list[Allocation]:
        """Stop each running experiment whose verdict is `stop`, compute adaptive weights, and save these decisions.

        The decisions follow from the outcomes without randomness. Replicas that read the same outcomes make the same
        decisions, so they need no lock.

        Returns:
            The decisions, which are already saved in the store.

        Raises:
            StoreError: The store cannot be used.
            NoStatisticsError: The extra `experiments` is not installed.
        """
        if self._outcomes is None or self._dsn is None:
            return []
        known, now = self._outcomes.allocations(), time.time()
        running = [one for one in self._experiments.values() if state_of(one, known.get(one.name), now) == "running"]
        decisions = [
            decision
            for one in running
            if _has_automatic_decisions(one) and (decision := propose_allocation(one, self._outcomes, now))
        ]
        if decisions:
            with Store(self._dsn) as store:
                for decision in decisions:
                    store.set_allocation(decision)
        return decisions


_THUMBS: Final = Metric("thumbs_up")


def rated_metric(experiment: Experiment) -> Metric:
    """Return the first metric whose values clients send. If there is none, return `thumbs_up`."""
    sent = (one for one in experiment.all_metrics if one.name not in AUTOMATIC_METRICS)
    return next(sent, _THUMBS)


def _has_automatic_decisions(experiment: Experiment) -> bool:
    return experiment.adaptive is not None or any(guardrail.stop for guardrail in experiment.guardrails)


def full_report(experiment: Experiment, outcomes: Outcomes, commands: OperatorCommands) -> dict[str, Any]:
    """Return the JSON of GET /experiments/{name} and of `experiment report --json`.

    `commands` are those that the advice names.

    Raises:
        StoreError: The outcomes cannot be read.
        NoStatisticsError: The extra `experiments` is not installed.
    """
    allocation = outcomes.allocations().get(experiment.name)
    return {**_summary(experiment, allocation, outcomes), **report_as_json(experiment, outcomes, commands)}


def _summary(experiment: Experiment, allocation: Allocation | None, outcomes: Outcomes) -> dict[str, Any]:
    return {
        "name": experiment.name,
        "state": state_of(experiment, allocation, time.time()),
        "stopped": allocation.stopped if allocation else "",
        "weights": dict(allocation.weights) if allocation and allocation.weights else None,
        "arms": [asdict(arm) for arm in experiment.arms],
        "control": experiment.control,
        "metrics": [asdict(metric) for metric in experiment.metrics],
        "guardrails": [asdict(guardrail) for guardrail in experiment.guardrails],
        "models": sorted(experiment.models),
        "keys": sorted(experiment.keys),
        "share": experiment.share,
        "layer": experiment.layer,
        "slots": list(experiment.slots),
        "adaptive": experiment.adaptive,
        "start": _finite_or_none(experiment.start),
        "end": _finite_or_none(experiment.end),
        "exposed": dict(outcomes.units_by_arm(experiment.name)),
    }


def state_of(experiment: Experiment, allocation: Allocation | None, now: float) -> str:
    """Return the state `before start`, `running`, `stopped` or `ended`. `now` is in Unix seconds."""
    if now >= experiment.end:
        return "ended"
    if allocation and allocation.stopped:
        return "stopped"
    return "before start" if now < experiment.start else "running"


def _finite_or_none(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None
