"""One request from top to bottom: admit, read, choose, plan, send, relay; one log line whatever happens.

Read this after app.py. Knows HTTP; what is injected is decided in plan, what comes back is handled in reply.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import getrandbits
from typing import Any, Final

from aiohttp import web

from index.errors import LayoutError
from proxy.accounting import account_for
from proxy.admission import Admission, parse_json, read_body
from proxy.backend import Pool
from proxy.errors import BadRequestError, ProxyError, UnsupportedMediaError
from proxy.fields import encode
from proxy.front import error_response
from proxy.injection import Injector
from proxy.keys import Account
from proxy.laboratory import Laboratory
from proxy.live import Live, ServedBundle
from proxy.log import log_failure
from proxy.metrics import Metrics
from proxy.models import Model
from proxy.multipart import form_model
from proxy.plan import CHAT, COMPLETIONS, Plan, Planner
from proxy.record import Record
from proxy.relay import Client, ReplyFacts, request_headers
from proxy.reply import send_reply
from proxy.telemetry import Telemetry
from proxy.trials import UNIT_HEADER, Asker, Setting
from proxy.turns import loose_messages
from proxy.variants import RAW, Choice, choose
from proxy.watch import ReplyWatch

CLIENT_GONE: Final = 499
_LONGEST_ID: Final = 200


@dataclass(frozen=True, slots=True)
class Gateway:
    """Everything that a request meets on its way, wired in app."""

    admission: Admission
    pool: Pool
    live: Live
    injector: Injector
    planner: Planner
    metrics: Metrics
    forward_authorization: bool
    log_content: bool
    laboratory: Laboratory | None = None
    telemetry: Telemetry | None = None

    @property
    def bundles(self) -> Mapping[str, ServedBundle]:
        """The bundles by model, as they are now."""
        return self.live.bundles

    def client(self, request: web.Request) -> tuple[str, Account] | None:
        """Who asks: a key's name and account; None where no keys are asked for. Raises UnauthorizedError."""
        keyring = self.live.keyring
        return None if keyring is None else keyring.identify(request.headers.get("Authorization"))

    def choice(self, body: Mapping[str, Any], request: web.Request) -> tuple[Choice, Model]:
        """The model and variant that a body and its headers ask for."""
        models = self.pool.models
        named = self.pool.default_model if body.get("model") in (None, "") else body["model"]
        choice = choose(named, request.headers.get("x-drpo-variant"), models, self.bundles)
        return choice, models[choice.model]


Serve = Callable[[Gateway, web.Request, Record], Awaitable[web.StreamResponse]]


async def handle(gateway: Gateway, request: web.Request, route: str, serve: Serve) -> web.StreamResponse:
    """Run `serve` within admission; every end, a vanished client's too, becomes one status, one log line, one count."""
    record = Record(_request_id(request), route)
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
        account_for(record, gateway.metrics, gateway.laboratory, logs_content=gateway.log_content)
    if not response.prepared:
        response.headers["X-Request-Id"] = record.request_id
    return response


async def serve_chat(gateway: Gateway, request: web.Request, record: Record) -> web.StreamResponse:
    """POST /v1/chat/completions."""
    return await _serve_planned(gateway, request, record, gateway.planner.chat)


async def serve_completion(gateway: Gateway, request: web.Request, record: Record) -> web.StreamResponse:
    """POST /v1/completions."""
    return await _serve_planned(gateway, request, record, gateway.planner.completion)


async def serve_response(gateway: Gateway, request: web.Request, record: Record) -> web.StreamResponse:
    """POST /v1/responses."""
    return await _serve_planned(gateway, request, record, gateway.planner.response)


async def serve_relayed(gateway: Gateway, request: web.Request, record: Record) -> web.StreamResponse:
    """Any other path that takes JSON: the body as it came, but for the model's suffix, to the backend of its model."""
    data = await _read(gateway, request, record)
    body = parse_json(request, data)
    choice, _ = gateway.choice(body, request)
    if body.get("model") != choice.model:
        data = encode({**body, "model": choice.model})
    plan = Plan(replace(choice, variant=RAW), request.path, data)
    return await _forward(gateway, request, record, plan, "application/json")


async def serve_form(gateway: Gateway, request: web.Request, record: Record) -> web.StreamResponse:
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


async def _serve_planned(gateway: Gateway, request: web.Request, record: Record, plan_of: Plans) -> web.StreamResponse:
    plan = await _planned(gateway, request, record, plan_of)
    return await _forward(gateway, request, record, plan, "application/json")


async def _planned(gateway: Gateway, request: web.Request, record: Record, plan_of: Plans) -> Plan:
    """The plan of a request. What was asked is let go with this: an answer may stream for minutes."""
    body = parse_json(request, await _read(gateway, request, record))
    choice, model = gateway.choice(body, request)
    setting = Setting(choice, gateway.bundles.get(choice.model))
    if gateway.laboratory is not None and record.route != COMPLETIONS:
        setting = _enrol(gateway, gateway.laboratory, request, record, body, setting)
        model = gateway.pool.models[setting.choice.model]
    return await plan_of(body, setting.choice, model, setting.served)


async def _read(gateway: Gateway, request: web.Request, record: Record) -> bytes:
    """The body, which the record keeps where contents are logged."""
    data = await read_body(request, gateway.admission.limits)
    if gateway.log_content:
        record.asked = data
    return data


def _enrol(
    gateway: Gateway,
    laboratory: Laboratory,
    request: web.Request,
    record: Record,
    body: Mapping[str, Any],
    setting: Setting,
) -> Setting:
    """What the request is served with, by the experiments that it is in; the record remembers them."""
    headers = request.headers
    authorization = headers.get("Authorization", "")
    asker = Asker(headers.get(UNIT_HEADER), record.client, authorization, body, loose_messages(body))
    before = setting
    record.trial, setting = laboratory.enrol(asker, setting, gateway.pool.models, gateway.bundles)
    record.facts.watch = ReplyWatch() if record.trial else None
    if record.route == CHAT:
        record.sample = laboratory.sample(record.trial, body, before, gateway.bundles)
        if record.sample is not None and record.facts.content is None:
            record.facts.content = bytearray()
    return setting


async def _forward(
    gateway: Gateway, request: web.Request, record: Record, plan: Plan, content_type: str
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
            if record.trial is not None:
                ours |= record.trial.headers
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
