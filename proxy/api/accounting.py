"""What a finished request leaves: counts, exposures of experiments, its trace and its log line. Knows no HTTP."""

from collections.abc import Mapping
from time import perf_counter

from proxy.api.handled_request import HandledRequest
from proxy.core.log import log_event
from proxy.core.metrics import Metrics
from proxy.core.tracing import RequestOutcome
from proxy.experiments.assignment import EXPERIMENT_HEADER
from proxy.experiments.service import ExperimentService


def account_for(
    record: HandledRequest, metrics: Metrics, experiments: ExperimentService | None, *, logs_content: bool
) -> None:
    """Metrics, exposures, the trace and the log line of a finished request."""
    seconds = perf_counter() - record.started
    plan, usage = record.plan, record.facts.usage or {}
    variant = plan.choice.variant if plan else "none"
    metrics.requests.labels(record.route, variant, str(record.status), record.outcome).inc()
    metrics.duration.labels(record.route, variant).observe(seconds)
    if record.first_byte is not None:
        metrics.first_byte.labels(variant).observe(record.first_byte)
    if plan is not None and plan.injection is not None:
        metrics.injected_tokens.observe(plan.injection.tokens)
    for kind, count in record.token_counts():
        metrics.tokens.labels(variant, kind).inc(count)
    if record.trace is not None:
        record.trace.end(_outcome(record, seconds, usage))
    if experiments is not None and record.assignment is not None:
        experiments.note(record.assignment, record, record.sample, seconds, keeps_content=logs_content)
    _log(record, seconds, variant, usage, logs_content=logs_content)


def _outcome(record: HandledRequest, seconds: float, usage: Mapping[str, object]) -> RequestOutcome:
    plan = record.plan
    injection = plan.injection if plan else None
    return RequestOutcome(
        plan.choice.model if plan else None,
        record.status,
        record.outcome,
        seconds,
        record.first_byte if plan and plan.stream else None,
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
        {
            "drpo.variant": plan.choice.variant if plan else None,
            "drpo.bundle": injection.bundle if injection else None,
            "drpo.degraded": injection.degraded if injection else None,
        },
    )


def _log(
    record: HandledRequest, seconds: float, variant: str, usage: Mapping[str, object], *, logs_content: bool
) -> None:
    injection = record.plan.injection if record.plan else None
    log_event(
        "request",
        route=record.route,
        status=record.status,
        outcome=record.outcome,
        client=record.client,
        variant=variant,
        model=record.plan.choice.model if record.plan else None,
        bundle=injection.bundle if injection else None,
        experiment=record.assignment.headers.get(EXPERIMENT_HEADER) if record.assignment else None,
        examples=len(injection.examples) if injection else None,
        degraded=injection.degraded if injection else None,
        prompt_tokens=usage.get("prompt_tokens"),
        completion_tokens=usage.get("completion_tokens"),
        first_byte_ms=None if record.first_byte is None else round(record.first_byte * 1000, 1),
        duration_ms=round(seconds * 1000, 1),
        request_id=record.request_id,
    )
    if logs_content and record.facts.content is not None:
        asked, answered = (bytes(data).decode("utf-8", "replace") for data in (record.asked, record.facts.content))
        log_event("content", request_id=record.request_id, asked=asked, answered=answered)
