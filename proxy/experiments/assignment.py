"""The experiments that are served, with their bundles, and which of them a request is in. Knows no socket and no store.

Precedence: what the client names itself (header, suffix) > an experiment > the default. The first is an override: it is
noted and counts for no statistics.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from proxy.core.json_types import Json
from proxy.core.variant_names import ALIGNED, RAW, RAW_MATCHED
from proxy.experiments.config import ExperimentFile, JudgeTable, read_experiments
from proxy.experiments.definition import Arm, Experiment, assign
from proxy.experiments.records import Allocation
from proxy.experiments.units import conversation_digest, opening_digest, unit_of
from proxy.inference.injection.served_bundles import ServedBundle, load_directories
from proxy.inference.variants import Choice

UNIT_HEADER: Final = "x-drpo-unit"
EXPERIMENT_HEADER: Final = "x-drpo-experiment"


@dataclass(frozen=True, slots=True)
class Entry:
    """One experiment that a request is in. arm: None before its start; propensity: of the arm, when it was assigned;
    override: the client named a variant itself."""

    experiment: Experiment
    arm: Arm | None
    propensity: float
    override: bool


@dataclass(frozen=True, slots=True)
class Setting:
    """What a request is served with: which variant of which model, and the bundle that it takes prompt and sampling
    from."""

    choice: Choice
    served: ServedBundle | None


@dataclass(frozen=True, slots=True)
class Assignment:
    """The experiments that a request is in, and what it is served with. unit, asked: see units; time: Unix seconds at
    its start."""

    unit: bytes
    asked: bytes
    time: float
    entries: tuple[Entry, ...]
    setting: Setting

    @property
    def headers(self) -> dict[str, str]:
        """What the client is told: each experiment and the arm that it got."""
        told = [f"{one.experiment.name}={one.arm.name}" for one in self.entries if one.arm and not one.override]
        return {EXPERIMENT_HEADER: ", ".join(told)} if told else {}


@dataclass(frozen=True, slots=True)
class Requester:
    """Who asks, and what. header: the unit that the client named; client: the name of its key, None where no keys are
    asked for; authorization: what it sent as a key then."""

    header: str | None
    client: str | None
    authorization: str
    body: Json
    messages: Sequence[Json]

    def unit(self, opening: bytes) -> bytes:
        """Whom the request counts for. opening: the digest of its own conversation's."""
        return unit_of(self.header, self.body, self.client or self.authorization, opening)


@dataclass(frozen=True, slots=True)
class ActiveExperiments:
    """The experiments being served. bundles: those of arms, by directory."""

    files: tuple[ExperimentFile, ...]
    bundles: Mapping[str, ServedBundle]

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        """The experiments alone."""
        return tuple(file.experiment for file in self.files)

    def judge(self, experiment: str) -> JudgeTable | None:
        """What the shadow judge may do in an experiment."""
        return next((file.judge for file in self.files if file.experiment.name == experiment), None)

    def setting(self, arm: Arm, setting: Setting, bundled: Mapping[str, ServedBundle]) -> Setting:
        """What an arm makes of what would be served without it. bundled: the bundles by model."""
        model = arm.model or setting.choice.model
        named = self.bundles[arm.bundle] if arm.bundle else None
        served = named or (bundled.get(model) if arm.model else setting.served)
        variant = arm.variant or (ALIGNED if named else setting.choice.variant)
        if variant in (ALIGNED, RAW_MATCHED) and served is None and not arm.variant:
            variant = RAW
        return Setting(Choice(model, variant, explicit=False), served)


def load_experiments(
    paths: Sequence[str], allowed: Sequence[str], query_embedder: str, serving: Sequence[ServedBundle]
) -> ActiveExperiments | None:
    """The experiments of files, with their bundles; None where there are no files.

    allowed, query_embedder: of --allow-embedder and --query-embedder; serving: bundles that are there already. Raises
    StartupError, BundleError, EmbedderError.
    """
    files = read_experiments(paths)
    if not files:
        return None
    directories = {arm.bundle for file in files for arm in file.experiment.arms if arm.bundle}
    return ActiveExperiments(files, load_directories(sorted(directories), allowed, query_embedder, serving))


def assign_request(
    active: ActiveExperiments,
    allocations: Mapping[str, Allocation],
    requester: Requester,
    setting: Setting,
    bundled: Mapping[str, ServedBundle],
    now: float,
) -> tuple[Assignment | None, Setting]:
    """The experiments that a request is in, and what it is served with. allocations: what was decided about
    experiments;
    setting: what it would be served with outside of them; now: Unix seconds."""
    choice = setting.choice
    concerned = [one for one in active.experiments if now < one.end and one.concerns(choice.model, requester.client)]
    if not concerned:
        return None, setting
    opening, entries = opening_digest(requester.messages), []
    unit = requester.unit(opening)
    for experiment in concerned:
        if not experiment.includes(unit):
            continue
        allocation = allocations.get(experiment.name)
        if allocation and allocation.stopped:
            setting = _controlled(active, experiment, setting, bundled)
            continue
        entry = _entry(experiment, allocation, unit, now, override=choice.explicit)
        entries.append(entry)
        if entry.arm and not entry.override:
            setting = active.setting(entry.arm, setting, bundled)
    if not entries:
        return None, setting
    return Assignment(unit, conversation_digest(requester.messages, opening), now, tuple(entries), setting), setting


def _controlled(
    active: ActiveExperiments, experiment: Experiment, setting: Setting, bundled: Mapping[str, ServedBundle]
) -> Setting:
    """An experiment that was stopped gives everyone its control, and records nobody."""
    if setting.choice.explicit:
        return setting
    return active.setting(experiment.arm(experiment.control), setting, bundled)


def _entry(experiment: Experiment, allocation: Allocation | None, unit: bytes, now: float, *, override: bool) -> Entry:
    if now < experiment.start:
        return Entry(experiment, None, 1.0, override)
    weighed = _weighed(experiment, allocation.weights) if allocation and allocation.weights else experiment
    arm = assign(weighed, unit)
    return Entry(experiment, arm, weighed.propensity(arm), override)


def _weighed(experiment: Experiment, weights: Mapping[str, float]) -> Experiment:
    """The experiment with weights that were decided later. An arm that they do not name, or that has a weight of 0 in
    the file, keeps the file's: a file that was changed since is obeyed."""
    arms = tuple(
        replace(arm, weight=weights.get(arm.name, arm.weight) if arm.weight else 0.0) for arm in experiment.arms
    )
    return replace(experiment, arms=arms) if math.fsum(arm.weight for arm in arms) else experiment


def warm_pairs(active: ActiveExperiments | None) -> Iterator[tuple[str, ServedBundle]]:
    """Each model that an arm's bundle will be laid out for, as far as the files say, and the bundle."""
    for experiment in active.experiments if active else ():
        for arm in experiment.arms:
            if active and arm.bundle:
                served = active.bundles[arm.bundle]
                for model in [arm.model] if arm.model else experiment.models or [served.bundle.manifest.model]:
                    yield model, served
