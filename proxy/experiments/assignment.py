"""Assigns requests to arms of experiments, and determines the model, variant and bundle that serve each request.

This module does not depend on HTTP or on the store. The function `definition.assign` computes the arm of a unit.

A client may name a variant in a header, or as a suffix of the model name such as MODEL@raw. Its request is then served
with this variant. Such a request is called an override. It is recorded, but comparisons of arms leave it out. All other
requests are served as their arms define. A request in no experiment is served with the server's default variant.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from proxy.core.variant_names import ALIGNED, RAW, RAW_MATCHED
from proxy.experiments.config import ExperimentFile, JudgeSettings, read_experiments
from proxy.experiments.definition import Arm, Experiment, assign
from proxy.experiments.records import Allocation
from proxy.experiments.units import conversation_digest, opening_digest, unit_of, user_name
from proxy.inference.injection.served_bundles import ServedBundle, load_directories
from proxy.inference.variants import Choice
from proxy.openai.conversation import Conversation

EXPERIMENT_HEADER: Final = "x-drpo-experiment"


@dataclass(frozen=True, slots=True)
class ArmAssignment:
    """The arm of a request in one experiment.

    Attributes:
        experiment: The experiment.
        arm: The arm of the request's unit. None before the experiment's start.
        propensity: Probability that a unit gets this arm, at the time of the request. 1 before the experiment's start.
        override: Whether the client named a variant. If so, the request was not served as the arm defines.
    """

    experiment: Experiment
    arm: Arm | None
    propensity: float
    override: bool


@dataclass(frozen=True, slots=True)
class Treatment:
    """The model, the variant and the bundle that a request is served with.

    Attributes:
        choice: The model and the variant.
        served: The bundle that provides the prompt, the examples and the sampling. None if no bundle is used.
    """

    choice: Choice
    served: ServedBundle | None


@dataclass(frozen=True, slots=True)
class Assignment:
    """The arms of a request in its experiments, and how the request is served.

    Attributes:
        unit: Digest of the request's unit (see `units`).
        conversation: Digest of the request's conversation (see `units`). None if another person may have an equal
            conversation.
        time: Time at which the request started, Unix seconds.
        arms: The arms of the request, one for each experiment that records the request. Empty if no experiment does.
        treatment: The model, the variant and the bundle that the request is served with.
    """

    unit: bytes
    conversation: bytes | None
    time: float
    arms: tuple[ArmAssignment, ...]
    treatment: Treatment

    @property
    def headers(self) -> dict[str, str]:
        """The reply header x-drpo-experiment, which names each experiment and the arm that served the request.

        Empty if no arm served the request.
        """
        served = [f"{one.experiment.name}={one.arm.name}" for one in self.arms if one.arm and not one.override]
        return {EXPERIMENT_HEADER: ", ".join(served)} if served else {}


@dataclass(frozen=True, slots=True)
class Requester:
    """The client and the conversation of a request, which determine the unit of the request.

    Attributes:
        header: The unit that the headers of the request name. None if they name none.
        client: Name of the client's key. None if the proxy requires no keys.
        authorization: Credentials that the client sent. They identify the client if `client` is None.
        conversation: The conversation in the body of the request.
    """

    header: str | None
    client: str | None
    authorization: str
    conversation: Conversation

    def unit(self, opening: bytes) -> bytes:
        """Return the digest of the request's unit. `opening` is the digest of the conversation's opening."""
        return unit_of(self.user, self.client or self.authorization, opening)

    def asked(self, opening: bytes) -> bytes | None:
        """Return the digest of the conversation; None if other people may have equal conversations."""
        return conversation_digest(self.conversation, opening, knows_user=bool(self.user))

    @property
    def user(self) -> str:
        """The name of the user, from a header or from the field `user` of the body. Empty if the request names none."""
        return user_name(self.header, self.conversation.body)


@dataclass(frozen=True, slots=True)
class ActiveExperiments:
    """The experiments that the server currently applies to requests.

    Attributes:
        files: The contents of the experiment files.
        bundles: The bundles of the arms. The keys are the values of `Arm.bundle`.
    """

    files: tuple[ExperimentFile, ...]
    bundles: Mapping[str, ServedBundle]

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        """The experiments that the files define."""
        return tuple(file.experiment for file in self.files)

    def judge(self, experiment: str) -> JudgeSettings | None:
        """Return the limits of the shadow judge in an experiment, or None if the experiment's file sets none."""
        return next((file.judge for file in self.files if file.experiment.name == experiment), None)

    def treatment(self, arm: Arm, treatment: Treatment, bundles_by_model: Mapping[str, ServedBundle]) -> Treatment:
        """Return the treatment of a request that an arm serves.

        If the arm does not name a model, a variant or a bundle, the request gets the one in the argument `treatment`.
        There are three exceptions:

        - If the arm names a model but no bundle, the bundle is the one that `bundles_by_model` contains for this model.
        - If the arm names a bundle but no variant, the variant is `aligned`.
        - If the arm names no variant, and these rules give no bundle, the variant is `raw`.

        Args:
            arm: The arm.
            treatment: The treatment that the request would get without the arm.
            bundles_by_model: By model id, the bundle that the server uses for requests that are in no experiment.
        """
        model = arm.model or treatment.choice.model
        arm_bundle = self.bundles[arm.bundle] if arm.bundle else None
        served = arm_bundle or (bundles_by_model.get(model) if arm.model else treatment.served)
        variant = arm.variant or (ALIGNED if arm_bundle else treatment.choice.variant)
        if variant in (ALIGNED, RAW_MATCHED) and served is None and not arm.variant:
            variant = RAW
        return Treatment(Choice(model, variant, explicit=False), served)


def load_experiments(
    paths: Sequence[str], allowed: Sequence[str], serving: Sequence[ServedBundle]
) -> ActiveExperiments | None:
    """Read experiment files and load the bundles of their arms.

    Args:
        paths: Paths of the experiment files.
        allowed: Values of the flag --allow-embedder.
        serving: Loaded bundles. If an arm needs one of them, the loaded bundle is reused.

    Returns:
        The experiments, or None if there are no files.

    Raises:
        StartupError: A file is invalid, or two experiments conflict.
        BundleError: A bundle cannot be loaded.
        EmbedderError: The embedder of a bundle cannot be used.
    """
    files = read_experiments(paths)
    if not files:
        return None
    directories = {arm.bundle for file in files for arm in file.experiment.arms if arm.bundle}
    return ActiveExperiments(files, load_directories(sorted(directories), allowed, serving))


def assign_request(
    active: ActiveExperiments,
    allocations: Mapping[str, Allocation],
    requester: Requester,
    treatment: Treatment,
    bundles_by_model: Mapping[str, ServedBundle],
    now: float,
) -> tuple[Assignment | None, Treatment]:
    """Assign a request to the active experiments.

    A stopped experiment does not record requests. It serves them with its control, unless the client named a variant.

    Args:
        active: The experiments.
        allocations: The decisions about running experiments, by the experiment's name.
        requester: The client and the conversation.
        treatment: The treatment that the request would get if there were no experiments.
        bundles_by_model: By model id, the bundle that the server uses for requests that are in no experiment.
        now: The current time in Unix seconds.

    Returns:
        The assignment and the treatment of the request. The assignment is None if no experiment records the request.
    """
    choice = treatment.choice
    candidates = [one for one in active.experiments if now < one.end and one.applies_to(choice.model, requester.client)]
    if not candidates:
        return None, treatment
    opening, arms = opening_digest(requester.conversation), []
    unit = requester.unit(opening)
    for experiment in candidates:
        if not experiment.includes(unit):
            continue
        allocation = allocations.get(experiment.name)
        if allocation and allocation.stopped:
            treatment = _control_treatment(active, experiment, treatment, bundles_by_model)
            continue
        assigned = _assign_arm(experiment, allocation, unit, now, override=choice.explicit)
        arms.append(assigned)
        if assigned.arm and not assigned.override:
            treatment = active.treatment(assigned.arm, treatment, bundles_by_model)
    if not arms:
        return None, treatment
    return Assignment(unit, requester.asked(opening), now, tuple(arms), treatment), treatment


def no_arms(requester: Requester, treatment: Treatment, now: float) -> Assignment:
    """Return the assignment of a request that is recorded, but in no experiment."""
    opening = opening_digest(requester.conversation)
    return Assignment(requester.unit(opening), requester.asked(opening), now, (), treatment)


def _control_treatment(
    active: ActiveExperiments,
    experiment: Experiment,
    treatment: Treatment,
    bundles_by_model: Mapping[str, ServedBundle],
) -> Treatment:
    """Return the treatment of a request in a stopped experiment: as the control defines, except for an override."""
    if treatment.choice.explicit:
        return treatment
    return active.treatment(experiment.arm(experiment.control), treatment, bundles_by_model)


def _assign_arm(
    experiment: Experiment, allocation: Allocation | None, unit: bytes, now: float, *, override: bool
) -> ArmAssignment:
    if now < experiment.start:
        return ArmAssignment(experiment, None, 1.0, override)
    weighted = _with_weights(experiment, allocation.weights) if allocation and allocation.weights else experiment
    arm = assign(weighted, unit)
    return ArmAssignment(experiment, arm, weighted.propensity(arm), override)


def _with_weights(experiment: Experiment, weights: Mapping[str, float]) -> Experiment:
    """Return the experiment with the weights of a decision in place of the weights of the file.

    The file may have changed since the decision. An arm that was added to the file after the decision keeps its weight
    in the file. An arm whose weight in the file is 0 keeps the weight 0. If all weights would be 0, the experiment
    keeps all weights of the file.
    """
    arms = tuple(
        replace(arm, weight=weights.get(arm.name, arm.weight) if arm.weight else 0.0) for arm in experiment.arms
    )
    return replace(experiment, arms=arms) if math.fsum(arm.weight for arm in arms) else experiment


def bundles_to_warm(active: ActiveExperiments | None) -> Iterator[tuple[str, ServedBundle]]:
    """Yield pairs of a model id and the bundle of an arm that is used with this model.

    If the arm names a model, there is one pair with this model. Otherwise, there is one pair for each model that the
    experiment names. If the arm and the experiment name no model, the bundle's manifest names it.
    """
    for experiment in active.experiments if active else ():
        for arm in experiment.arms:
            if active and arm.bundle:
                served = active.bundles[arm.bundle]
                for model in [arm.model] if arm.model else experiment.models or [served.bundle.manifest.model]:
                    yield model, served
