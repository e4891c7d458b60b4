"""Applies experiments to the requests of a server, and records the results of these requests.

This module does not depend on routes. No method waits for the store: the recorder queues exposures and writes them
later.
"""

import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import getrandbits
from typing import Final

from proxy.backends.backend import Backend
from proxy.backends.discovery import Model
from proxy.backends.load_balancing import RetryBudget
from proxy.backends.pool import Pool
from proxy.core.errors import BadRequestError
from proxy.core.key_file import read_key
from proxy.core.log import log_event
from proxy.core.metrics import Metrics
from proxy.core.settings import ExperimentSettings
from proxy.core.shared_state import SharedState
from proxy.core.variant_names import RAW
from proxy.experiments.assignment import (
    ActiveExperiments,
    ArmAssignment,
    Assignment,
    Requester,
    Treatment,
    assign_request,
    no_arms,
)
from proxy.experiments.recorder import Kept, Recorder
from proxy.experiments.records import NO_EXPERIMENT, Exposure
from proxy.experiments.shadow_judge import Sample, ShadowJudge, other_arm
from proxy.experiments.store.content import storable_reply, storable_text
from proxy.experiments.store.dsn import dsn_of
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.inference.planner import Planner
from proxy.inference.reply_progress import BACKEND_ERROR, ReplyResult
from proxy.inference.request_context import RequestContext
from proxy.inference.setting import Setting
from proxy.openai.conversation import Conversation

_RANDOM_ID_BITS: Final = 80
_STATUS_OK: Final = 200
_DAY: Final = 86_400.0  # seconds


@dataclass(slots=True)
class ExperimentService:
    """Applies the active experiments of a server to its requests. Only a server with a store has this service.

    Attributes:
        recorder: The recorder that writes exposures to the store.
        metrics: The Prometheus metrics of the process.
        shadow: The shadow judge. None if the server does not have the flag --judge.
        active: The active experiments. None if there are no experiments. A reload of the files replaces this value.
        trusts_user_headers: Whether headers of chat applications name the unit of a request (see `units.unit_name`).
        stores_content: Whether the store keeps the texts of requests and replies, and of the other arms' replies that
            the judge compares.
        max_stored_requests: The number of requests in no experiment that the store keeps. With 0, or if
            `stores_content` is false, requests in no experiment are not recorded.
    """

    recorder: Recorder
    metrics: Metrics
    shadow: ShadowJudge | None = None
    active: ActiveExperiments | None = None
    trusts_user_headers: bool = False
    stores_content: bool = False
    max_stored_requests: int = 0

    @property
    def rated_metrics(self) -> frozenset[str]:
        """The names of the metrics by which the active experiments compare their arms, guardrails included."""
        experiments = self.active.experiments if self.active else ()
        return frozenset(metric.name for experiment in experiments for metric in experiment.all_metrics)

    def assign_request(
        self,
        requester: Requester,
        setting: Setting,
        models: Mapping[str, Model],
        bundles_by_model: Mapping[str, ServedBundle],
    ) -> tuple[Assignment | None, Setting]:
        """Assign a request to the active experiments.

        If no backend lists the model that the arms select, the experiments leave the request unchanged and unrecorded.
        The request is counted as `unavailable` in the Prometheus metrics of its experiments.

        Args:
            requester: The client and the conversation.
            setting: The model, variant and bundle that the request would have without experiments.
            models: The models that backends list now, by id.
            bundles_by_model: By model id, the bundle that the server uses for requests that are in no experiment.

        Returns:
            The assignment and the setting of the request. The assignment is None if the request is not recorded. It has
            no arms if the request is recorded, but in no experiment.
        """
        if self.active is None:
            return self._without_experiment(requester, setting), setting
        treatment = Treatment(setting.choice, setting.served)
        assignment, treatment = assign_request(
            self.active, self.recorder.allocations, requester, treatment, bundles_by_model, time.time()
        )
        model = models.get(treatment.choice.model)
        if model is None:
            self._count(assignment, "unavailable")
            return None, setting
        self._count(assignment)
        changed = Setting(treatment.choice, model, treatment.served)
        return assignment or self._without_experiment(requester, changed), changed

    def _without_experiment(self, requester: Requester, setting: Setting) -> Assignment | None:
        """Return the assignment of a request in no experiment; None if it is not recorded.

        A request that names a variant is not recorded: evaluations and the optimizer send such requests, not users.
        """
        if not self.stores_content or not self.max_stored_requests or setting.choice.explicit:
            return None
        return no_arms(requester, Treatment(setting.choice, setting.served), time.time())

    def sample(
        self,
        assignment: Assignment | None,
        conversation: Conversation,
        before: Setting,
        bundles_by_model: Mapping[str, ServedBundle],
    ) -> Sample | None:
        """Decide at random whether the shadow judge compares the reply to a request with another arm's reply.

        Args:
            assignment: The assignment of the request.
            conversation: The conversation in the body of the request.
            before: The model, variant and bundle that the request would have without experiments.
            bundles_by_model: By model id, the bundle that the server uses for requests that are in no experiment.

        Returns:
            The request and the arm whose reply is compared with the reply to the request. None if the request is not
            sampled.
        """
        if self.shadow is None or self.active is None or assignment is None:
            return None
        for assigned in assignment.arms:
            limits = self.active.judge(assigned.experiment.name)
            if limits is None or assigned.arm is None or assigned.override:
                continue
            if random.random() < limits.share and (other := other_arm(assigned.experiment, assigned.arm)):  # noqa: S311
                treatment = self.active.treatment(other, Treatment(before.choice, before.served), bundles_by_model)
                return Sample(assigned.experiment.name, limits, other, treatment, conversation)
        return None

    def note(self, assignment: Assignment, sample: Sample | None, request: RequestContext, reply: ReplyResult) -> None:
        """Record a finished request: one exposure for each of its experiments, or one without an experiment.

        A sampled request is passed to the judge.

        Args:
            assignment: The experiments and arms of the request.
            sample: The result of the method `sample`. The judge gets the sample only if the reply is complete and has
                the status 200.
            request: The request.
            reply: The result of the request.
        """
        exposures = [_exposure(assignment, assigned, request, reply) for assigned in assignment.arms or (None,)]
        content = None
        if self.stores_content and reply.content is not None:
            content = storable_text(request.body), storable_reply(reply.content)
        self.recorder.record(exposures, content)
        if self.shadow and sample and reply.content and reply.outcome == "complete" and reply.status == _STATUS_OK:
            exposure = next(one for one in exposures if one.experiment == sample.experiment)
            self.shadow.offer(sample, exposure.id, bytes(reply.content), keeps_content=self.stores_content)

    def _count(self, assignment: Assignment | None, unavailable: str = "") -> None:
        for assigned in assignment.arms if assignment else ():
            label = unavailable or _metric_label(assigned)
            self.metrics.experiment_requests.labels(assigned.experiment.name, label).inc()


@asynccontextmanager
async def open_experiment_service(
    settings: ExperimentSettings, shared: SharedState, metrics: Metrics, pool: Pool, planner: Planner
) -> AsyncIterator[ExperimentService | None]:
    """Open the experiment service. Yield None if the settings name no store.

    The service has no active experiments at first: the caller sets `ExperimentService.active`.
    """
    if not settings.store:
        yield None
        return
    retention = settings.retention_days * _DAY
    kept = Kept(retention, settings.max_stored_requests if settings.store_content else None)
    async with Recorder(dsn_of(settings.store), metrics, kept if shared.worker == 0 else None) as recorder:
        service = ExperimentService(
            recorder,
            metrics,
            trusts_user_headers=settings.trust_user_headers,
            stores_content=settings.store_content,
            max_stored_requests=settings.max_stored_requests,
        )
        if not settings.judge:
            yield service
            return
        transport = pool.open_transport(RetryBudget())
        judge = Backend(settings.judge, read_key(settings.judge_api_key_file, "--judge-api-key-file"))
        log_event("the shadow judge gets users' text", url=judge.url)
        shadow = ShadowJudge(judge, pool, planner, transport, metrics, recorder.record_judgement)
        try:
            async with shadow.working():
                yield replace(service, shadow=shadow)
        finally:
            await transport.close()


def _metric_label(assigned: ArmAssignment) -> str:
    if assigned.arm is None:
        return "before start"
    return "override" if assigned.override else assigned.arm.name


def _exposure(
    assignment: Assignment, assigned: ArmAssignment | None, request: RequestContext, reply: ReplyResult
) -> Exposure:
    treatment = assignment.treatment
    client_gone = reply.outcome == "client_gone"
    error = (reply.status >= BadRequestError.status and not client_gone) or reply.outcome == BACKEND_ERROR
    is_complete = reply.outcome == "complete" and not error
    served = treatment.served if treatment.choice.variant != RAW else None
    injection = request.plan.injection if request.plan else None
    return Exposure(
        id=_exposure_id(assignment.time),
        experiment=assigned.experiment.name if assigned else NO_EXPERIMENT,
        arm=assigned.arm.name if assigned and assigned.arm else "",
        propensity=assigned.propensity if assigned else 1.0,
        override=assigned.override if assigned else False,
        unit=assignment.unit,
        request_id=request.request_id,
        completion_id=reply.completion_id,
        time=assignment.time,
        model=treatment.choice.model,
        variant=treatment.choice.variant,
        bundle=served.id if served else None,
        asked=assignment.conversation,
        latency=reply.seconds if is_complete else None,
        time_to_first_token=reply.first_byte if request.plan and request.plan.stream and not error else None,
        prompt_tokens=reply.tokens("prompt_tokens", "input_tokens"),
        completion_tokens=reply.tokens("completion_tokens", "output_tokens"),
        ended_by_itself=reply.stopped if is_complete else None,
        truncated=reply.truncated,
        error=error,
        client_gone=client_gone,
        example_set=(injection.set_name or None) if injection else None,
    )


def _exposure_id(now: float) -> bytes:
    """Return 16 unique bytes: the time in milliseconds, then random bits, similar to a UUID of version 7 (RFC 9562).

    Ids of consecutive exposures are close to each other, so a database keeps them in the same page of its index.
    """
    return (int(now * 1000) << _RANDOM_ID_BITS | getrandbits(_RANDOM_ID_BITS)).to_bytes(16)
