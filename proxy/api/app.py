"""Defines the routes, and creates the parts that serve requests. Read this module first.

Each request passes through these parts, of which this module defines the routes:

    socket -> routes -> handlers.handle -> admission -> planner -> backend -> reply -> client
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import orjson
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from proxy.api.accounting import account_for_refusal
from proxy.api.admission import Admission, parse_json, read_body
from proxy.api.endpoints import ENDPOINTS, FORMS, RELAYED, Endpoint
from proxy.api.gateway import Gateway, ServingState
from proxy.api.handlers import handle
from proxy.api.http_server import HttpServer, error_response, json_response, request_id_of
from proxy.api.listeners import Listener
from proxy.api.openapi import openapi_document
from proxy.api.wrong_paths import MODELS, UNKNOWN_PATH, explain_path
from proxy.backends.backend import Backend, is_undecided, unlisted_model
from proxy.backends.discovery import Model
from proxy.backends.pool import Pool
from proxy.core.addresses import ANY_ORIGIN
from proxy.core.errors import MethodError, ProxyError, UnknownRouteError
from proxy.core.metrics import create_metrics
from proxy.core.settings import Settings
from proxy.core.settings_reader import process_environment
from proxy.core.shared_state import SharedState
from proxy.core.tracing import open_telemetry
from proxy.core.variant_names import ALIGNED, RAW
from proxy.experiments.feedback_request import MAX_BODY_BYTES, parse_feedback
from proxy.experiments.service import open_experiment_service
from proxy.inference.injection.injector import Injector
from proxy.inference.injection.retrieval import Retrieval
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.inference.injection.token_costs import TokenCosts
from proxy.inference.planner import Planner

GATEWAY: Final = web.AppKey("gateway", Gateway)
CORS_ORIGINS: Final = web.AppKey("cors_origins", frozenset[str])

_EXPOSED_HEADERS: Final = (
    "X-Drpo-Variant, X-Drpo-Bundle, X-Drpo-Examples, X-Drpo-Reduced, X-Drpo-Refusal, X-Drpo-Max-Tokens, "
    "X-Drpo-Experiment, X-Request-Id, Retry-After"
)


@asynccontextmanager
async def open_gateway(
    settings: Settings, backends: Sequence[Backend], state: ServingState, shared: SharedState
) -> AsyncIterator[Gateway]:
    """Create the parts that serve requests, and close them when the block ends.

    While the block runs, the pool checks the backends regularly.

    Raises:
        StartupError: A part cannot start, for example because OpenTelemetry is not installed.
    """
    metrics, telemetry = create_metrics(), open_telemetry(process_environment())
    retrieval = Retrieval(settings.injection.retrieval_timeout, metrics)
    try:
        async with Pool(backends, settings.backends, metrics, shared.folder) as pool:
            injector = Injector(retrieval, TokenCosts(pool.count_tokens), pool.count_tokens, pool.count_chat_tokens)
            planner = Planner(injector)
            admission = Admission(settings.admission, shared, metrics)
            async with open_experiment_service(settings.experiments, shared, metrics, pool, planner) as experiments:
                yield Gateway(
                    admission,
                    pool,
                    state,
                    injector,
                    planner,
                    metrics,
                    settings.api.forward_authorization,
                    settings.log.log_content,
                    experiments,
                    telemetry,
                )
    finally:
        retrieval.close()
        if telemetry is not None:
            await asyncio.to_thread(telemetry.close)


def create_app(gateway: Gateway, cors_origins: Sequence[str] = ()) -> web.Application:
    """Create the application with all routes of the address for clients."""
    app = web.Application(middlewares=[_answer_unrouted])
    app[GATEWAY], app[CORS_ORIGINS] = gateway, frozenset(cors_origins)
    app.on_response_prepare.append(_add_headers)
    for path, endpoint in ENDPOINTS.items():
        app.router.add_post(path, _handler(endpoint))
    app.router.add_post("/v1/feedback", _with_authentication(feedback))
    app.router.add_get("/v1/models", _with_authentication(list_models))
    app.router.add_get("/v1/models/{id:.+}", _with_authentication(show_model))
    app.router.add_get("/health/live", alive)
    app.router.add_get("/health/ready", ready)
    app.router.add_get("/metrics", metrics_page)
    app.router.add_get("/openapi.json", openapi_page)
    return app


@asynccontextmanager
async def listening(gateway: Gateway, listener: Listener, settings: Settings) -> AsyncIterator[None]:
    """Answer the requests that arrive at a socket until the block ends."""
    runner = HttpServer(create_app(gateway, settings.api.cors_origin), settings.admission.read_timeout)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        yield
    finally:
        await runner.cleanup()


def _handler(endpoint: Endpoint) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return await handle(request.app[GATEWAY], request, endpoint)

    return handler


def _with_authentication(handler: Handler) -> Handler:
    async def guarded(request: web.Request) -> web.StreamResponse:
        try:
            request.app[GATEWAY].client(request)
            return await handler(request)
        except ProxyError as error:
            return error_response(error)

    return guarded


async def feedback(request: web.Request) -> web.Response:
    """POST /v1/feedback: store one piece of feedback.

    The answer is 200 only after the store has committed the feedback. The answer is 503 if the store cannot commit the
    feedback now. A request with feedback does not count as a request in flight, so it never waits in the queue.
    """
    gateway = request.app[GATEWAY]
    if gateway.experiments is None:
        raise UnknownRouteError("This server stores no feedback. Start it with --experiment FILE or --store PLACE.")
    limits = replace(gateway.admission.limits, max_body_bytes=MAX_BODY_BYTES)
    body = parse_json(request, await read_body(request, limits), orjson.loads)
    one = parse_feedback(body, time.time(), gateway.experiments.rated_metrics)
    matched = await gateway.experiments.recorder.save_feedback(one)
    return json_response({"object": "feedback", "kept": True, "matched": matched})


async def list_models(request: web.Request) -> web.Response:
    """GET /v1/models: list the models of all backends, and each model again for some variants (see `model_cards`)."""
    pool, cards = request.app[GATEWAY].pool, _all_cards(request.app[GATEWAY])
    if not cards and not pool.healthy:
        raise unlisted_model(pool.backends, None, "No backend lists a model.")
    return json_response({"object": "list", "data": cards})


async def show_model(request: web.Request) -> web.Response:
    """GET /v1/models/{id}: answer with one entry of the list of models."""
    for card in _all_cards(request.app[GATEWAY]):
        if card["id"] == request.match_info["id"]:
            return json_response(card)
    backends, name = request.app[GATEWAY].pool.backends, request.match_info["id"]
    raise unlisted_model(backends, name, "No backend lists this model. See GET /v1/models for the listed models.")


def _all_cards(gateway: Gateway) -> list[Mapping[str, object]]:
    return [card for model in gateway.pool.models.values() for card in model_cards(model, gateway.bundles)]


def model_cards(model: Model, bundled: Mapping[str, ServedBundle]) -> list[Mapping[str, object]]:
    """Return a model's entry as its backend lists it, and for each variant a copy with the id MODEL@VARIANT.

    The variant `raw-matched` gets no entry, because it is meant for comparisons.
    """
    variants = (ALIGNED, RAW) if model.id in bundled else (RAW,)
    return [model.card, *({**model.card, "id": f"{model.id}@{variant}"} for variant in variants)]


async def alive(_request: web.Request) -> web.Response:
    """GET /health/live: answer 200, which shows that the process runs."""
    return json_response({"status": "live"})


async def ready(request: web.Request) -> web.Response:
    """GET /health/ready: answer 200 if requests can be served, else 503 with the reasons."""
    gateway = request.app[GATEWAY]
    reasons = list(unready_reasons(gateway))
    return json_response(
        {"status": "unready" if reasons else "ready", "reasons": reasons}, status=503 if reasons else 200
    )


def unready_reasons(gateway: Gateway) -> list[str]:
    """Return the reasons why requests cannot be served now; empty if they can be served."""
    if gateway.admission.draining.is_set():
        return ["shutting down"]
    if not gateway.pool.healthy:
        waits = is_undecided(gateway.pool.backends, None)
        return ["the kind of the models is not known yet: chat or completion" if waits else "no backend answers"]
    if gateway.bundles and not gateway.bundles.keys() & gateway.pool.models.keys():
        return ["no backend serves a model that has a bundle"]
    return []


async def metrics_page(request: web.Request) -> web.Response:
    """GET /metrics: answer with the metrics in the text format of Prometheus."""
    return web.Response(body=request.app[GATEWAY].metrics.exposition(), content_type="text/plain", charset="utf-8")


async def openapi_page(request: web.Request) -> web.Response:
    """GET /openapi.json: answer with the OpenAPI document, which lists the current models."""
    return json_response(openapi_document([*request.app[GATEWAY].pool.models], RELAYED, FORMS))


@web.middleware
async def _answer_unrouted(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer preflight requests of browsers, and requests for unknown paths and methods.

    One middleware does both, because each middleware makes every request about one percent slower.
    """
    if request.method == "OPTIONS" and _allowed_origin(request) is not None:
        return web.Response(status=204, headers=_preflight_headers(request))
    try:
        return await handler(request)
    except (web.HTTPMethodNotAllowed, web.HTTPNotFound) as refused:
        return _refuse_wrong_path(request, refused)


def _refuse_wrong_path(request: web.Request, refused: web.HTTPMethodNotAllowed | web.HTTPNotFound) -> web.Response:
    """Record a request for an unknown path or method, and return an error that names served paths or methods."""
    if isinstance(refused, web.HTTPMethodNotAllowed):
        error: ProxyError = MethodError(sorted(refused.allowed_methods))
        meant: str | None = None
        route = request.path if request.path in _static_paths(request.app) else f"{MODELS}/{{id}}"
    else:
        wrong = explain_path(request.path, _static_paths(request.app))
        error, route, meant = wrong.error, UNKNOWN_PATH, wrong.meant
    request_id, method = request_id_of(request), request.method if request.method in hdrs.METH_ALL else None
    account_for_refusal(request.app[GATEWAY].metrics, route, method, meant, error, request_id)
    response = error_response(error)
    response.headers["X-Request-Id"] = request_id
    return response


def _static_paths(app: web.Application) -> frozenset[str]:
    return frozenset(resource.canonical for resource in app.router.resources() if "{" not in resource.canonical)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add the Server header to every response, and CORS headers if the operator allows the request's origin."""
    response.headers["Server"] = "drpo-proxy"
    origin = _allowed_origin(request)
    if origin is not None:
        response.headers.update(_cors_headers(origin))


def _allowed_origin(request: web.Request) -> str | None:
    """Return the origin that the reply allows: the request's origin, or `*` if the operator allows any origin.

    Return None if the operator does not allow the request's origin. With `*`, browsers do not send cookies or other
    credentials of their own. A page may still send an API key.
    """
    allowed, origin = request.app[CORS_ORIGINS], request.headers.get("Origin")
    if origin is not None and ANY_ORIGIN in allowed:
        return ANY_ORIGIN
    return origin if origin in allowed else None


def _preflight_headers(request: web.Request) -> dict[str, str]:
    """Return the headers of the reply to a preflight request, besides those of every reply.

    A browser asks for access to a private network if a public page calls a server on this machine or in the local
    network. Without the permission, it does not send the request that follows.
    """
    headers = {"Access-Control-Allow-Headers": request.headers.get("Access-Control-Request-Headers", "")}
    if request.headers.get("Access-Control-Request-Private-Network") == "true":
        headers["Access-Control-Allow-Private-Network"] = "true"
    return headers


def _cors_headers(origin: str) -> dict[str, str]:
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
        "Access-Control-Expose-Headers": _EXPOSED_HEADERS,
        "Vary": "Origin",
    }
