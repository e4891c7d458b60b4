"""Handles one request from its arrival to its log line. Read this module after app.py.

The steps are: check the key, admit, read the body, choose the model, assign experiments, plan, send, and record. The
planner (proxy/inference/planner.py) decides what is sent to a backend. proxy/inference/reply.py converts the reply.
"""

import asyncio
from time import perf_counter
from typing import Final

from aiohttp import web

from index.errors import LayoutError
from proxy.api.accounting import account_for
from proxy.api.admission import read_body
from proxy.api.auth import Account
from proxy.api.endpoints import Endpoint
from proxy.api.gateway import Gateway
from proxy.api.http_server import error_response, request_id_of
from proxy.core.errors import BadRequestError, ProxyError, UnsupportedMediaError
from proxy.core.log import log_failure
from proxy.core.tracing import Trace
from proxy.experiments.assignment import Assignment, Requester
from proxy.experiments.service import ExperimentService
from proxy.experiments.shadow_judge import Sample
from proxy.experiments.units import unit_name
from proxy.inference.plan import Plan
from proxy.inference.relay import Client, request_headers
from proxy.inference.reply import send_reply
from proxy.inference.reply_observer import ReplyObserver
from proxy.inference.reply_progress import ReplyProgress, token_count
from proxy.inference.request_context import RequestContext
from proxy.inference.setting import Setting
from proxy.openai.conversation import Conversation

CLIENT_CLOSED_REQUEST: Final = 499  # the status in metrics and logs if the client disconnected, as in nginx


async def handle(gateway: Gateway, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
    """Answer one request. Whether it succeeds or fails, it is counted once in the metrics and logged once."""
    started, request_id, route = perf_counter(), request_id_of(request), endpoint.path
    trace = gateway.telemetry.begin(route, request.headers) if gateway.telemetry is not None else None
    client: str | None = None
    account: Account | None = None
    assignment: Assignment | None = None
    sample: Sample | None = None
    plan: Plan | None = None
    kept_body = b""
    progress = ReplyProgress(content=bytearray() if gateway.log_content else None)
    status, outcome = ProxyError.status, "error"
    gateway.metrics.in_flight.inc()
    try:
        if identity := gateway.client(request):
            client, account = identity
            account.enter()
        async with gateway.admission:
            data = await _read(gateway, request, endpoint)
            if gateway.log_content and not endpoint.is_form:
                kept_body = data
            body = endpoint.parse(request, data)
            setting = await gateway.setting_when_known(body.body, request)
            if endpoint.in_experiments and gateway.experiments is not None and not body.is_background:
                requester = _requester(gateway.experiments, request, client, body)
                assignment, sample, setting = _assign(gateway, gateway.experiments, endpoint, requester, setting)
                stores_content = assignment is not None and gateway.experiments.stores_content
                kept_body = data if stores_content else kept_body
                _observe(progress, assignment, keeps_reply=stores_content or sample is not None)
                del requester
            plan = await endpoint.plan(gateway.planner, body, setting)
            del data, body  # This frees memory: the answer may stream for minutes, and does not need the client's body.
            with _ReservedTokens(account, plan.reserve, progress):
                response = await _send(gateway, request, plan, request_id, trace, assignment, progress)
        status, outcome = response.status, progress.outcome
    except (asyncio.CancelledError, ConnectionError):
        status, outcome = CLIENT_CLOSED_REQUEST, "client_gone"
        raise
    except Exception as error:  # noqa: BLE001 - the root of a request: any defect must be logged and answered with 500
        status, outcome, response = _failure(error, request_id, route)
    finally:
        gateway.metrics.in_flight.dec()
        context = RequestContext(request_id, route, client, trace, kept_body, plan)
        account_for(gateway, context, progress.result(status, outcome, started, perf_counter()), assignment, sample)
    if not response.prepared:
        response.headers["X-Request-Id"] = request_id
    return response


async def _read(gateway: Gateway, request: web.Request, endpoint: Endpoint) -> bytes:
    if endpoint.is_form and request.content_type != "multipart/form-data":
        raise UnsupportedMediaError("Send a form, with the header Content-Type: multipart/form-data.")
    return await read_body(request, gateway.admission.limits)


def _requester(
    experiments: ExperimentService, request: web.Request, client: str | None, conversation: Conversation
) -> Requester:
    headers = request.headers
    unit = unit_name(headers, trusts_user_headers=experiments.trusts_user_headers)
    return Requester(unit, client, headers.get("Authorization", ""), conversation)


def _assign(
    gateway: Gateway, experiments: ExperimentService, endpoint: Endpoint, requester: Requester, setting: Setting
) -> tuple[Assignment | None, Sample | None, Setting]:
    """Assign a request to one arm in each running experiment that it takes part in.

    Returns:
        The assignment (None if the request is not recorded), the sample for the shadow judge (None if the request was
        not sampled), and the setting with the changes that the request's arms make.
    """
    assignment, changed = experiments.assign_request(requester, setting, gateway.pool.models, gateway.bundles)
    if not endpoint.is_judged:
        return assignment, None, changed
    return assignment, experiments.sample(assignment, requester.conversation, setting, gateway.bundles), changed


def _observe(progress: ReplyProgress, assignment: Assignment | None, *, keeps_reply: bool) -> None:
    """Prepare `progress`: add an observer if the request is recorded, and keep the reply if `keeps_reply` is true."""
    if assignment is not None:
        progress.observer = ReplyObserver()
    if keeps_reply and progress.content is None:
        progress.content = bytearray()


class _ReservedTokens:
    """Reserves the tokens that a request may use. At its end, the number of used tokens replaces the reservation.

    If a backend accepted the request but reported no token counts, all reserved tokens count as used. If no backend
    accepted the request, no tokens count as used.
    """

    __slots__ = ("_account", "_progress", "_reserved")

    def __init__(self, account: Account | None, reserved: int, progress: ReplyProgress) -> None:
        self._account = account
        self._reserved = reserved
        self._progress = progress

    def __enter__(self) -> None:
        """Reserve the tokens. Raises RateLimitError if the key's tokens per minute are used up."""
        if self._account is not None:
            self._account.reserve(self._reserved)

    def __exit__(self, *exception: object) -> None:
        if self._account is not None:
            used = token_count((self._progress.usage or {}).get("total_tokens"))
            unknown = self._reserved if self._progress.accepted else 0
            self._account.settle(self._reserved, unknown if used is None else used)


async def _send(
    gateway: Gateway,
    request: web.Request,
    plan: Plan,
    request_id: str,
    trace: Trace | None,
    assignment: Assignment | None,
    progress: ReplyProgress,
) -> web.StreamResponse:
    """Send the plan's body to a backend, and the backend's reply to the client."""
    headers = request_headers(request.headers, authorization=gateway.forward_authorization)
    headers = {**headers, "Content-Type": plan.content_type, "X-Request-Id": request_id}
    if trace is not None:
        headers |= trace.headers
    model, affinity = plan.choice.model, plan.affinity
    async with gateway.pool.send(model, plan.path, plan.take_body(), headers, affinity) as upstream:
        progress.accepted = upstream.status < BadRequestError.status
        added = {**plan.headers, "X-Request-Id": request_id}
        if assignment is not None:
            added |= assignment.headers
        client = Client(request, gateway.admission.limits.write_timeout, progress)
        return await send_reply(client, upstream, plan, added, progress)


def _failure(error: Exception, request_id: str, route: str) -> tuple[int, str, web.Response]:
    """Return the status, the outcome and the response for an error. An unexpected error is logged as a defect."""
    if isinstance(error, LayoutError):
        error = BadRequestError(str(error), param="messages")
    if isinstance(error, ProxyError):
        return error.status, error.outcome, error_response(error)
    log_failure("defect", error, request_id=request_id, route=route)
    hidden = ProxyError("Internal error. The server's log describes it under the id of this request.")
    return hidden.status, "error", error_response(hidden)
