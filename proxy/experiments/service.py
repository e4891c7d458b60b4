"""Where a request meets the experiments: which it is in, what it is served then, and what is noted of it at its end.

Knows no route. Nothing here waits: what is noted goes to the recorder's queue.
"""

import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
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
)
from proxy.experiments.recorder import Recorder
from proxy.experiments.records import Exposure
from proxy.experiments.shadow_judge import Sample, ShadowJudge, other_arm
from proxy.experiments.store.dsn import dsn_of
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.inference.planner import Planner
from proxy.inference.reply_progress import ReplyResult
from proxy.inference.request_context import RequestContext
from proxy.inference.setting import Setting
from proxy.openai.conversation import Conversation

_MAX_CONTENT_BYTES: Final = 64 * 1024  # of the request's text and of the reply's
_RANDOM_BITS: Final = 80
_STATUS_OK: Final = 200
_DAY: Final = 86_400.0  # seconds


@dataclass(slots=True)
class ExperimentService:
    """The experiments of a server that has a store. active: those being served now; a reload replaces them, whole."""

    recorder: Recorder
    metrics: Metrics
    shadow: ShadowJudge | None = None
    active: ActiveExperiments | None = None

    def assign_request(
        self, requester: Requester, setting: Setting, models: Mapping[str, Model], bundled: Mapping[str, ServedBundle]
    ) -> tuple[Assignment | None, Setting]:
        """The experiments that a request is in, and what it is served with: without any, what it would be anyway. An
        arm whose model no backend lists now is not served: the request stays outside of the experiment, counted."""
        if self.active is None:
            return None, setting
        treatment = Treatment(setting.choice, setting.served)
        assignment, treatment = assign_request(
            self.active, self.recorder.allocations, requester, treatment, bundled, time.time()
        )
        model = models.get(treatment.choice.model)
        if model is None:
            self._count(assignment, "unavailable")
            return None, setting
        self._count(assignment)
        return assignment, Setting(treatment.choice, model, treatment.served)

    def sample(
        self,
        assignment: Assignment | None,
        conversation: Conversation,
        before: Setting,
        bundled: Mapping[str, ServedBundle],
    ) -> Sample | None:
        """Whether the request is one of those that the shadow judge will see; `before`: what it would be served with
        outside of all experiments."""
        if self.shadow is None or self.active is None or assignment is None:
            return None
        for entry in assignment.arms:
            table = self.active.judge(entry.experiment.name)
            if table is None or entry.arm is None or entry.override or random.random() >= table.share:  # noqa: S311
                continue
            if other := other_arm(entry.experiment, entry.arm):
                treatment = self.active.treatment(other, Treatment(before.choice, before.served), bundled)
                return Sample(entry.experiment.name, table, other, treatment, conversation)
        return None

    def note(
        self,
        assignment: Assignment,
        sample: Sample | None,
        request: RequestContext,
        reply: ReplyResult,
        *,
        keeps_content: bool,
    ) -> None:
        """Record a finished request: one exposure for each experiment that it is in.

        Args:
            assignment: The experiments.
            sample: What the shadow judge compares the reply with, if the request was sampled.
            request: The request.
            reply: How it ended.
            keeps_content: Whether the bodies of request and reply are stored too.
        """
        exposures = [_exposure(assignment, entry, request, reply) for entry in assignment.arms]
        content = None
        if keeps_content and reply.content is not None:
            content = _text(request.body), _text(reply.content)
        self.recorder.record(exposures, content)
        if self.shadow and sample and reply.content and reply.outcome == "complete" and reply.status == _STATUS_OK:
            exposure = next(one for one in exposures if one.experiment == sample.experiment)
            self.shadow.offer(sample, exposure.id, bytes(reply.content))

    def _count(self, assignment: Assignment | None, unavailable: str = "") -> None:
        for entry in assignment.arms if assignment else ():
            self.metrics.experiment_requests.labels(entry.experiment.name, unavailable or _label(entry)).inc()


@asynccontextmanager
async def open_experiment_service(
    settings: ExperimentSettings, shared: SharedState, metrics: Metrics, pool: Pool, planner: Planner
) -> AsyncIterator[ExperimentService | None]:
    """The experiments, none yet, what keeps their outcomes, and the shadow judge if there is to be one; None where
    there is no store."""
    if not settings.store:
        yield None
        return
    retention = settings.retention_days * _DAY
    async with Recorder(dsn_of(settings.store), retention, metrics, deletes_old=shared.worker == 0) as recorder:
        if not settings.judge:
            yield ExperimentService(recorder, metrics)
            return
        wire = pool.open_transport(RetryBudget())
        judge = Backend(settings.judge, read_key(settings.judge_api_key_file, "--judge-api-key-file"))
        log_event("the shadow judge is sent users' text", url=judge.url)
        shadow = ShadowJudge(judge, pool, planner, wire, metrics, recorder.record_judgement)
        try:
            async with shadow.working():
                yield ExperimentService(recorder, metrics, shadow)
        finally:
            await wire.close()


def _label(entry: ArmAssignment) -> str:
    if entry.arm is None:
        return "before start"
    return "override" if entry.override else entry.arm.name


def _exposure(assignment: Assignment, entry: ArmAssignment, request: RequestContext, reply: ReplyResult) -> Exposure:
    treatment = assignment.treatment
    client_gone = reply.outcome == "client_gone"
    error = reply.status >= BadRequestError.status and not client_gone
    is_whole = reply.outcome == "complete" and not error
    served = treatment.served if treatment.choice.variant != RAW else None
    return Exposure(
        id=_exposure_id(assignment.time),
        experiment=entry.experiment.name,
        arm=entry.arm.name if entry.arm else "",
        propensity=entry.propensity,
        override=entry.override,
        unit=assignment.unit,
        request_id=request.request_id,
        completion_id=reply.completion_id,
        time=assignment.time,
        model=treatment.choice.model,
        variant=treatment.choice.variant,
        bundle=served.id if served else None,
        asked=assignment.conversation,
        latency=reply.seconds if is_whole else None,
        time_to_first_token=reply.first_byte if request.plan and request.plan.stream and not error else None,
        prompt_tokens=_count_of(reply.usage, "prompt_tokens", "input_tokens"),
        completion_tokens=_count_of(reply.usage, "completion_tokens", "output_tokens"),
        ended_by_itself=reply.stopped if is_whole else None,
        truncated=reply.truncated,
        error=error,
        client_gone=client_gone,
    )


def _exposure_id(now: float) -> bytes:
    """16 bytes that are nobody else's, milliseconds first (as in a UUID of version 7, RFC 9562): a database that keeps
    them in order touches one page for many of them."""
    return (int(now * 1000) << _RANDOM_BITS | getrandbits(_RANDOM_BITS)).to_bytes(16)


def _count_of(usage: Mapping[str, object], *names: str) -> int | None:
    """A count of tokens under either API's name."""
    return next((found for name in names if isinstance(found := usage.get(name), int)), None)


def _text(data: bytes | bytearray) -> str:
    """As a database takes it: PostgreSQL has no NUL in a text."""
    return bytes(data[:_MAX_CONTENT_BYTES]).decode("utf-8", "replace").replace("\0", "\ufffd")
