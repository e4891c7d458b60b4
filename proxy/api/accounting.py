"""Records each finished request: in metrics, in its trace, as exposures of experiments, and in one log line.

With `--log-content`, a second log line holds the texts of request and reply. The module does not depend on HTTP.
"""

from proxy.api.gateway import Gateway
from proxy.core.errors import ProxyError
from proxy.core.log import log_event
from proxy.core.metrics import Metrics
from proxy.core.tracing import RequestOutcome
from proxy.experiments.assignment import EXPERIMENT_HEADER, Assignment
from proxy.experiments.shadow_judge import Sample
from proxy.inference.injection.injection import Injection
from proxy.inference.reply_progress import ReplyResult
from proxy.inference.request_context import RequestContext


def account_for(
    gateway: Gateway, request: RequestContext, reply: ReplyResult, assignment: Assignment | None, sample: Sample | None
) -> None:
    """Record a finished request.

    Args:
        gateway: The parts that serve requests, with the metrics and the experiments.
        request: The request.
        reply: The result of the request.
        assignment: The request's arm in each of its experiments; None if the request is not recorded as an exposure.
        sample: The data that the shadow judge needs to compare the reply; None if the request was not sampled.
    """
    _count(gateway.metrics, request, reply)
    if request.trace is not None:
        request.trace.end(_outcome(request, reply))
    if gateway.experiments is not None and assignment is not None:
        gateway.experiments.note(assignment, sample, request, reply)
    _log(request, reply, assignment)
    if gateway.log_content:
        _log_content(request, reply)


def account_for_refusal(
    metrics: Metrics, route: str, method: str | None, meant: str | None, error: ProxyError, request_id: str
) -> None:
    """Record a request that reached no handler, because its path or its method is not served.

    Args:
        metrics: The metrics of this process.
        route: The path of the endpoint, or `UNKNOWN_PATH` for every path that is not served.
        method: The HTTP method; None if it is not a standard method.
        meant: The path that the client probably meant; None if it is unknown.
        error: The error that the client gets.
        request_id: The id of the request.
    """
    metrics.requests.labels(route, "none", str(error.status), error.outcome).inc()
    log_event(
        "request",
        route=route,
        method=method,
        meant=meant,
        status=error.status,
        outcome=error.outcome,
        request_id=request_id,
    )


def _count(metrics: Metrics, request: RequestContext, reply: ReplyResult) -> None:
    plan = request.plan
    variant = _variant(request)
    metrics.requests.labels(request.route, variant, str(reply.status), reply.outcome).inc()
    metrics.duration.labels(request.route, variant).observe(reply.seconds)
    if reply.first_byte is not None:
        metrics.first_byte.labels(variant).observe(reply.first_byte)
    if plan is not None and plan.injection is not None:
        _count_injection(metrics, plan.injection)
    for kind, count in reply.token_counts():
        metrics.tokens.labels(variant, kind).inc(count)


def _count_injection(metrics: Metrics, injection: Injection) -> None:
    metrics.injected_tokens.observe(injection.tokens)
    for reason in injection.reduced:
        metrics.injection_reduced.labels(reason).inc()
    if injection.lacks_refusal:
        metrics.refusal_left_out.inc()
    if injection.is_below_floor:
        metrics.below_floor.inc()


def _variant(request: RequestContext) -> str:
    return request.plan.choice.variant if request.plan else "none"


def _outcome(request: RequestContext, reply: ReplyResult) -> RequestOutcome:
    plan = request.plan
    injection = plan.injection if plan else None
    return RequestOutcome(
        plan.choice.model if plan else None,
        reply.status,
        reply.outcome,
        reply.seconds,
        reply.first_byte if plan and plan.stream else None,
        reply.tokens("prompt_tokens"),
        reply.tokens("completion_tokens"),
        {
            "drpo.variant": plan.choice.variant if plan else None,
            "drpo.bundle": injection.bundle if injection else None,
            "drpo.reduced": _reduced(injection),
        },
    )


def _log(request: RequestContext, reply: ReplyResult, assignment: Assignment | None) -> None:
    plan = request.plan
    injection = plan.injection if plan else None
    log_event(
        "request",
        route=request.route,
        status=reply.status,
        outcome=reply.outcome,
        client=request.client,
        variant=_variant(request),
        model=plan.choice.model if plan else None,
        bundle=injection.bundle if injection else None,
        experiment=assignment.headers.get(EXPERIMENT_HEADER) if assignment else None,
        examples=len(injection.examples) if injection else None,
        set=injection.set_name or None if injection else None,
        below_floor=injection.is_below_floor or None if injection else None,
        reduced=_reduced(injection),
        refusal="left-out" if injection and injection.lacks_refusal else None,
        prompt_tokens=reply.tokens("prompt_tokens"),
        completion_tokens=reply.tokens("completion_tokens"),
        first_byte_ms=None if reply.first_byte is None else round(reply.first_byte * 1000, 1),
        duration_ms=round(reply.seconds * 1000, 1),
        request_id=request.request_id,
    )


def _reduced(injection: Injection | None) -> str | None:
    """Return the reasons why the request got fewer examples than usual, joined by commas; None if there are none."""
    return ",".join(injection.reduced) or None if injection else None


def _log_content(request: RequestContext, reply: ReplyResult) -> None:
    asked = request.body.decode("utf-8", "replace")
    answered = bytes(reply.content or b"").decode("utf-8", "replace")
    log_event("content", request_id=request.request_id, asked=asked, answered=answered)
