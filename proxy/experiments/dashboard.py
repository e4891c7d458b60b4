"""The experiments as their operator sees them: what runs, who is in, what came of it. Reads the store, and writes
to it what guardrails and adaptive weights decide; serves nothing.

Everything here waits for files and databases: call it on a thread.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from proxy.core.errors import UnknownExperimentError
from proxy.core.settings import Settings, store_argument
from proxy.experiments.analysis.report_builder import decided, report_as_json
from proxy.experiments.config import read_experiments
from proxy.experiments.definition import Experiment
from proxy.experiments.records import Allocation, Outcomes
from proxy.experiments.store.store import Store, StoredOutcomes, place_of


class Dashboard:
    """The experiments that the settings name, as they were when last read."""

    def __init__(self, settings: Settings) -> None:
        self._paths = settings.experiment
        store = store_argument(settings)
        self._place = place_of(store) if store else None
        self._outcomes = StoredOutcomes(self._place) if self._place else None
        self._experiments: Mapping[str, Experiment] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the files again. Raises StartupError."""
        files = read_experiments(self._paths)
        self._experiments = {file.experiment.name: file.experiment for file in files}

    def listing(self) -> list[Mapping[str, Any]]:
        """Each experiment, with its state and its units by arm. Raises StoreError."""
        if self._outcomes is None:
            return []
        allocations = self._outcomes.allocations()
        return [_card(one, allocations.get(one.name), self._outcomes) for one in self._experiments.values()]

    def report(self, name: str) -> Mapping[str, Any]:
        """One of them, with its statistics. Raises UnknownExperimentError, StoreError."""
        experiment = self._experiments.get(name)
        if experiment is None or self._outcomes is None:
            listed = ", ".join(self._experiments) or "none"
            raise UnknownExperimentError(f"There is no such experiment here. There are: {listed}.")
        return whole_report(experiment, self._outcomes)

    def update_allocations(self) -> list[Allocation]:
        """Stop what a guardrail says, and adapt the weights that are to be adapted; what was decided.

        Replicas that do so at once decide the same. Raises StoreError; NoStatisticsError.
        """
        if self._outcomes is None or self._place is None:
            return []
        known, now = self._outcomes.allocations(), time.time()
        running = [one for one in self._experiments.values() if state_of(one, known.get(one.name), now) == "running"]
        found = [decision for one in running if _is_steered(one) and (decision := decided(one, self._outcomes, now))]
        if found:
            with Store(self._place) as store:
                for decision in found:
                    store.set_allocation(decision)
        return found


def _is_steered(experiment: Experiment) -> bool:
    return experiment.adaptive is not None or any(guardrail.stop for guardrail in experiment.guardrails)


def whole_report(experiment: Experiment, outcomes: Outcomes) -> dict[str, Any]:
    """What GET /experiments/{name} answers, and `experiment report --json` prints. Raises as reporting.report_of."""
    allocation = outcomes.allocations().get(experiment.name)
    return {**_card(experiment, allocation, outcomes), **report_as_json(experiment, outcomes)}


def _card(experiment: Experiment, allocation: Allocation | None, outcomes: Outcomes) -> dict[str, Any]:
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
        "start": _finite(experiment.start),
        "end": _finite(experiment.end),
        "exposed": dict(outcomes.exposed(experiment.name)),
    }


def state_of(experiment: Experiment, allocation: Allocation | None, now: float) -> str:
    """In a word or two: `before start`, `running`, `stopped` or `ended`; now: Unix seconds."""
    if now >= experiment.end:
        return "ended"
    if allocation and allocation.stopped:
        return "stopped"
    return "before start" if now < experiment.start else "running"


def _finite(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None
