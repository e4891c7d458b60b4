"""One request from top to bottom: admit, read, choose, plan, send, relay; one log line whatever happens.

Read this after app.py. Knows HTTP; what is injected is decided in plan, what comes back is handled in reply.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from random import getrandbits
from typing import Any, Final

from aiohttp import web

from index.errors import LayoutError
from proxy.api.accounting import account_for
from proxy.api.admission import parse_json, read_body
from proxy.api.auth import Account
from proxy.api.gateway import Gateway
from proxy.api.handled_request import HandledRequest
from proxy.api.http_server import error_response
from proxy.api.multipart import form_model
from proxy.backends.discovery import Model
from proxy.core.errors import BadRequestError, ProxyError, UnsupportedMediaError
from proxy.core.log import log_failure
from proxy.core.variant_names import RAW
from proxy.experiments.assignment import UNIT_HEADER, Requester, Setting
from proxy.experiments.service import ExperimentService
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.inference.planner import CHAT, COMPLETIONS, Plan
from proxy.inference.relay import Client, ReplyFacts, request_headers
from proxy.inference.reply import send_reply
from proxy.inference.reply_observer import ReplyObserver
from proxy.inference.variants import Choice
from proxy.openai.conversation import loose_messages
from proxy.openai.json_fields import encode

CLIENT_GONE: Final = 499
_LONGEST_ID: Final = 200


Serve = Callable[[Gateway, web.Request, HandledRequest], Awaitable[web.StreamResponse]]


async def handle(gateway: Gateway, request: web.Request, route: str, serve: Serve) -> web.StreamResponse:
    """Run `serve` within admission; every end, a vanished client's too, becomes one status, one log line, one count."""
    record = HandledRequest(_request_id(request), route)
    record.facts.content = bytearray() if gateway.log_content else None
    if gateway.telemetry is not None:
        record.trace = gateway.telemetry.begin(route, request.headers)
    gateway.metrics.in_flight.inc()
    try:
        if client := gateway.client(request):
            record.client, record.account = client
            record.account.enter()
        async with gateway.admission:
            response = await serve(gateway, request, record)
        record.status = response.status
        record.outcome = "truncated" if record.facts.truncated else "complete"
    except ProxyError as error:
        record.status, record.outcome = error.status, error.code or "bad_request"
        response = error_response(error)
    except LayoutError as error:
        record.status, record.outcome = BadRequestError.status, "bad_request"
        response = error_response(BadRequestError(str(error), param="messages"))
    except (asyncio.CancelledError, ConnectionError):
        record.status, record.outcome = CLIENT_GONE, "client_gone"
        raise
    except Exception as error:  # noqa: BLE001 - the root of a request: a defect of ours answers 500 and says where
        log_failure("defect", error, request_id=record.request_id, route=route)
        response = error_response(ProxyError("Internal error; the server's log has the place under this request's id."))
    finally:
        gateway.metrics.in_flight.dec()
        account_for(record, gateway.metrics, gateway.experiments, logs_content=gateway.log_content)
    if not response.prepared:
        response.headers["X-Request-Id"] = record.request_id
    return response


async def serve_chat(gateway: Gateway, request: web.Request, record: HandledRequest) -> web.StreamResponse:
    """POST /v1/chat/completions."""
    return await _serve_planned(gateway, request, record, gateway.planner.chat)


async def serve_completion(gateway: Gateway, request: web.Request, record: HandledRequest) -> web.StreamResponse:
    """POST /v1/completions."""
    return await _serve_planned(gateway, request, record, gateway.planner.completion)


async def serve_response(gateway: Gateway, request: web.Request, record: HandledRequest) -> web.StreamResponse:
    """POST /v1/responses."""
    return await _serve_planned(gateway, request, record, gateway.planner.response)


async def serve_relayed(gateway: Gateway, request: web.Request, record: HandledRequest) -> web.StreamResponse:
    """Any other path that takes JSON: the body as it came, but for the model's suffix, to the backend of its model."""
    data = await _read(gateway, request, record)
    body = parse_json(request, data)
    choice, _ = gateway.choice(body, request)
    if body.get("model") != choice.model:
        data = encode({**body, "model": choice.model})
    plan = Plan(replace(choice, variant=RAW), request.path, data)
    return await _forward(gateway, request, record, plan, "application/json")


async def serve_form(gateway: Gateway, request: web.Request, record: HandledRequest) -> web.StreamResponse:
    """A path that takes a multipart form: the same, with the suffix removed in the form's own field."""
    if request.content_type != "multipart/form-data":
        raise UnsupportedMediaError("Send a form, with the header Content-Type: multipart/form-data.")
    content_type = request.headers["Content-Type"]
    data = await read_body(request, gateway.admission.limits)
    field_ = form_model(content_type, data)
    choice, _ = gateway.choice({"model": field_.value}, request)
    plan = Plan(replace(choice, variant=RAW), request.path, field_.replaced(data, choice.model))
    return await _forward(gateway, request, record, plan, content_type)


Plans = Callable[[Mapping[str, Any], Choice, Model, ServedBundle | None], Awaitable[Plan]]


async def _serve_planned(
    gateway: Gateway, request: web.Request, record: HandledRequest, plan_of: Plans
) -> web.StreamResponse:
    plan = await _planned(gateway, request, record, plan_of)
    return await _forward(gateway, request, record, plan, "application/json")


async def _planned(gateway: Gateway, request: web.Request, record: HandledRequest, plan_of: Plans) -> Plan:
    """The plan of a request. What was asked is let go with this: an answer may stream for minutes."""
    body = parse_json(request, await _read(gateway, request, record))
    choice, model = gateway.choice(body, request)
    setting = Setting(choice, gateway.bundles.get(choice.model))
    if gateway.experiments is not None and record.route != COMPLETIONS:
        setting = _assign(gateway, gateway.experiments, request, record, body, setting)
        model = gateway.pool.models[setting.choice.model]
    return await plan_of(body, setting.choice, model, setting.served)


async def _read(gateway: Gateway, request: web.Request, record: HandledRequest) -> bytes:
    """The body, which the record keeps where contents are logged."""
    data = await read_body(request, gateway.admission.limits)
    if gateway.log_content:
        record.asked = data
    return data


def _assign(
    gateway: Gateway,
    experiments: ExperimentService,
    request: web.Request,
    record: HandledRequest,
    body: Mapping[str, Any],
    setting: Setting,
) -> Setting:
    """What the request is served with, by the experiments that it is in; the record remembers them."""
    headers = request.headers
    authorization = headers.get("Authorization", "")
    requester = Requester(headers.get(UNIT_HEADER), record.client, authorization, body, loose_messages(body))
    before = setting
    record.assignment, setting = experiments.assign_request(requester, setting, gateway.pool.models, gateway.bundles)
    record.facts.watch = ReplyObserver() if record.assignment else None
    if record.route == CHAT:
        record.sample = experiments.sample(record.assignment, body, before, gateway.bundles)
        if record.sample is not None and record.facts.content is None:
            record.facts.content = bytearray()
    return setting


async def _forward(
    gateway: Gateway, request: web.Request, record: HandledRequest, plan: Plan, content_type: str
) -> web.StreamResponse:
    record.plan = plan
    headers = request_headers(request.headers, authorization=gateway.forward_authorization)
    headers = {**headers, "Content-Type": content_type, "X-Request-Id": record.request_id}
    if record.trace is not None:
        headers |= record.trace.headers
    with _tokens_of(record.account, plan, record.facts):
        conversation = plan.conversation
        async with gateway.pool.send(plan.choice.model, plan.path, plan.take_body(), headers, conversation) as upstream:
            record.facts.answering = upstream.status < BadRequestError.status
            ours = {**plan.headers, "X-Request-Id": record.request_id}
            if record.assignment is not None:
                ours |= record.assignment.headers
            client = Client(request, gateway.admission.limits.write_timeout, record.facts)
            return await send_reply(client, upstream, plan, ours, record.facts)


@contextmanager
def _tokens_of(account: Account | None, plan: Plan, facts: ReplyFacts) -> Iterator[None]:
    """Reserve what the request may take, and settle by what it took; an answer that tells no usage took it all."""
    if account is None:
        yield
        return
    account.reserve(plan.reserve)
    try:
        yield
    finally:
        told = (facts.usage or {}).get("total_tokens")
        unknown = plan.reserve if facts.answering else 0
        account.settle(plan.reserve, told if isinstance(told, int) else unknown)


def _request_id(request: web.Request) -> str:
    given = request.headers.get("X-Request-Id", "")
    if 0 < len(given) <= _LONGEST_ID and given.isprintable():
        return given
    return f"{getrandbits(128):032x}"
