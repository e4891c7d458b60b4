"""Serves the operator page on the admin listener: the files of the page, and the JSON that the page requests.

When the operator asks a model a question on the page, the server handles the question like a client's request
(proxy/api/handlers.py), except that it needs no API key and takes part in no experiment. The page requests the results
of experiments from other routes of the admin listener, so this module does not depend on statistics.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from index.bundle.sets_file import set_record
from index.errors import DrpoError, LayoutError
from index.retrieval.passages import embed_query
from index.retrieval.selection import select_without_costs
from index.retrieval.turns import choose_by_turns, turns_to_read
from index.types import Bundle, Vectors
from proxy.api.admission import parse_json, read_body
from proxy.api.endpoints import ENDPOINTS
from proxy.api.gateway import Gateway, ServingState
from proxy.api.handlers import handle
from proxy.api.http_server import error_response, json_response
from proxy.core.errors import BadRequestError, ProxyError, UnknownModelError, UnknownRouteError
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.inference.plan import CHAT, Plan
from proxy.inference.variants import available
from proxy.openai.conversation import read_chat
from proxy.openai.json_fields import text_field
from proxy.ui.bundle_changes import bundle_changes

GATEWAY: Final = web.AppKey("page's gateway", Gateway)
_FILES: Final = Path(__file__).parent / "static"
_CONTENT_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
)
_HEADERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
)
_MAX_EXAMPLES: Final = 2_000  # the page shows only this many examples of a bundle, from the beginning of its bank
_MAX_NEAREST: Final = 24  # most similar examples that the result of a search has


def add_page(app: web.Application, gateway: Gateway) -> None:
    """Add all routes of the page to the admin listener of a server with one process."""
    add_files(app)
    add_api(app, gateway)


def add_files(app: web.Application) -> None:
    """Add the routes of the page's files."""
    app.router.add_get("/", _redirect_to_page)
    app.router.add_get("/ui", _file)
    app.router.add_get("/ui/{name}", _file)


def add_api(app: web.Application, gateway: Gateway) -> None:
    """Add the routes of the JSON that the page requests. The handlers of these routes use `gateway`."""
    app[GATEWAY] = gateway
    app.router.add_get("/ui/api/state", _state)
    app.router.add_post("/ui/api/chat", _chat)
    app.router.add_post("/ui/api/explain", _guarded(_explain))
    app.router.add_get("/ui/api/bundle", _guarded(_bundle))
    app.router.add_post("/ui/api/search", _guarded(_search))
    app.router.add_get("/ui/api/live", _live)
    app.router.add_get("/ui/api/changes", _changes)


def _guarded(handler: Handler) -> Handler:
    """Return a handler that calls `handler` and converts its errors into replies in OpenAI's format."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except LayoutError as error:
            return error_response(BadRequestError(str(error), param="messages"))
        except ProxyError as error:
            return error_response(error)
        except DrpoError as error:
            return error_response(ProxyError(str(error)))

    return guarded


async def _redirect_to_page(_: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("/ui")


async def _file(request: web.Request) -> web.StreamResponse:
    """Answer GET /ui and GET /ui/{name} with a file of the page."""
    name = request.match_info.get("name", "index.html")
    path = _FILES / name
    if path.suffix not in _CONTENT_TYPES or path not in _FILES.iterdir():
        return error_response(UnknownRouteError(f"The page has no file {name[:100]!r}."))
    content = await asyncio.to_thread(path.read_bytes)
    return web.Response(body=content, content_type=_CONTENT_TYPES[path.suffix], charset="utf-8", headers=_HEADERS)


async def _state(request: web.Request) -> web.StreamResponse:
    """Answer GET /ui/api/state: the models with their variants, and the settings of experiments that have no effect.

    The models with a bundle come first.
    """
    gateway = request.app[GATEWAY]
    bundles = gateway.bundles
    models = sorted(gateway.pool.models.values(), key=lambda model: model.id not in bundles)
    return _answer(
        {
            "models": [
                {
                    "id": one.id,
                    "kind": one.kind,
                    "variants": available(one.id, bundles),
                    "bundled": one.id in bundles,
                    "bundle": gateway.chosen.describe(one.id) if one.id in bundles else None,
                }
                for one in models
            ],
            "mismatches": gateway.experiment_mismatches(),
        }
    )


async def _chat(request: web.Request) -> web.StreamResponse:
    """Answer POST /ui/api/chat like a client's chat request, but check no API key, run no experiment, log no text."""
    gateway = request.app[GATEWAY]
    without_keys = replace(gateway, state=ServingState(gateway.state.bundles), experiments=None, log_content=False)
    return await handle(without_keys, request, ENDPOINTS[CHAT])


async def _explain(request: web.Request) -> web.StreamResponse:
    """Answer POST /ui/api/explain: describe what the proxy would send to a backend for a chat request, and why.

    The chat request itself is not sent to a backend.
    """
    gateway = request.app[GATEWAY]
    body = parse_json(request, await read_body(request, gateway.admission.limits), orjson.loads)
    conversation, setting = read_chat(body), gateway.setting(body, request)
    served = setting.served
    plan = await gateway.planner.chat(conversation, setting)
    similarities = {}
    if served is not None and plan.injection is not None:
        similarities = dict(await asyncio.to_thread(_similarities, served, conversation.queries))
    return _answer(_explain_plan(plan, served, similarities))


def _explain_plan(plan: Plan, served: ServedBundle | None, similarities: Mapping[str, float]) -> Mapping[str, Any]:
    sent, injection = orjson.loads(plan.body), plan.injection
    sampling = {name: value for name, value in sent.items() if name not in ("prompt", "messages")}
    explanation: dict[str, Any] = {"variant": plan.choice.variant, "path": plan.path, "sampling": sampling}
    explanation |= {"text": sent.get("prompt"), "messages": sent.get("messages")}
    if injection is None or served is None:
        return explanation
    examples = [{**asdict(one), "similarity": similarities.get(one.id)} for one in injection.examples]
    reasons = {
        "reduced": injection.reduced,
        "lacks_refusal": injection.lacks_refusal,
        "set": injection.set_name or None,
        "nearest": injection.nearest,
        "is_below_floor": injection.is_below_floor,
    }
    return {**explanation, "tokens": injection.tokens, "prompt": injection.prompt, "examples": examples, **reasons}


def _similarities(served: ServedBundle, queries: Sequence[str]) -> list[tuple[str, float]]:
    """Return the id of each example that the page shows, and its similarity to the turn that chose the examples."""
    search = served.search
    turns = [embed_query(search.embedder, query) for query in turns_to_read(search.retriever, queries or [""])]
    deciding, _ = choose_by_turns(search.retriever, turns)
    return _similarities_to(served, turns[deciding])


def _similarities_to(served: ServedBundle, vectors: Vectors) -> list[tuple[str, float]]:
    examples = served.bundle.examples[:_MAX_EXAMPLES]
    similarities = (served.bundle.vectors[: len(examples)] @ vectors.T).max(axis=1)
    return [(example.id, round(float(value), 4)) for example, value in zip(examples, similarities, strict=True)]


async def _bundle(request: web.Request) -> web.StreamResponse:
    """Answer GET /ui/api/bundle?model=... with a model's bundle, the reason for it, and a map of the examples."""
    gateway, model = request.app[GATEWAY], request.query.get("model", "")
    served, reason = _bundle_of(gateway, model), gateway.chosen.reasons[model]
    return _answer({**await asyncio.to_thread(_describe_bundle, served.bundle), "reason": reason})


def _describe_bundle(bundle: Bundle) -> Mapping[str, Any]:
    examples = bundle.examples[:_MAX_EXAMPLES]
    votes = {member: one.name for one in bundle.sets for member in one.members}
    manifest = bundle.manifest
    return {
        "id": bundle.id,
        "name": manifest.name,
        "model": manifest.model,
        "layout": manifest.layout,
        "embedder": manifest.embedder.name,
        "retrieval": asdict(manifest.retrieval),
        "sampling": dict(manifest.sampling),
        "prompt": bundle.prompt,
        "total": len(bundle.examples),
        "sets": [set_record(one) for one in bundle.sets],
        "examples": [{**asdict(one), "votes_for": votes.get(one.id)} for one in examples],
        "map": np.round(project_to_plane(bundle.vectors[: len(examples)]), 4).tolist(),
    }


def project_to_plane(vectors: Vectors) -> Vectors:
    """Project vectors on their first two principal components.

    Args:
        vectors: The vectors: (n, dimension).

    Returns:
        The projected vectors: (n, 2). Each column is scaled so that its value with the largest magnitude is 1. This
        also fixes the sign of the column, which the decomposition leaves open.
    """
    centred = np.asarray(vectors, np.float64) - np.mean(vectors, axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    flat = np.zeros((len(vectors), 2))
    for axis, direction in enumerate(directions[:2]):
        values = centred @ direction
        flat[:, axis] = values * np.sign(values[np.argmax(np.abs(values))]) / max(np.abs(values).max(), 1e-12)
    return flat.astype(np.float32)


async def _search(request: web.Request) -> web.StreamResponse:
    """Answer POST /ui/api/search with the examples nearest to a query, and the ids of the retrieved examples."""
    gateway = request.app[GATEWAY]
    body = parse_json(request, await read_body(request, gateway.admission.limits), orjson.loads)
    served, query = _bundle_of(gateway, text_field(body, "model")), text_field(body, "query")
    if not query.strip():
        raise BadRequestError("`query` is empty: write what a user would ask.", param="query")
    return _answer(await asyncio.to_thread(_search_bundle, served, query))


def _search_bundle(served: ServedBundle, query: str) -> Mapping[str, Any]:
    vectors = embed_query(served.search.embedder, query)
    retrieved = served.search.retriever.choose_by_passages(vectors)
    selection = select_without_costs(served.bundle.manifest.retrieval, (), retrieved)
    shown = [hit.example.id for hit in (*selection.in_set, *selection.nearest)]
    similarities = _similarities_to(served, vectors)
    nearest = sorted(similarities, key=lambda pair: -pair[1])[:_MAX_NEAREST]
    nearest += [pair for pair in similarities if pair[0] in shown]
    ranked = sorted(dict(nearest).items(), key=lambda pair: -pair[1])
    return {
        "nearest": [{"id": name, "similarity": value} for name, value in ranked],
        "shown": shown,
        "set": retrieved.set_name or None,
        "is_below_floor": retrieved.is_below_floor,
    }


def _bundle_of(gateway: Gateway, model: str) -> ServedBundle:
    """Return the bundle of a model. Raises UnknownModelError if the model has no bundle."""
    served = gateway.bundles.get(model)
    if served is None:
        raise UnknownModelError(f"There is no bundle for {model[:100]!r}, only for: {', '.join(gateway.bundles)}.")
    return served


async def _live(request: web.Request) -> web.StreamResponse:
    """Answer GET /ui/api/live with the current values of the proxy's metrics, and the state of its backends."""
    gateway = request.app[GATEWAY]
    samples = [
        {"name": sample.name, "labels": sample.labels, "value": sample.value}
        for family in gateway.metrics.collect_workers().collect()
        for sample in family.samples
        if sample.name.startswith("drpo_") and not sample.name.endswith("_created")
    ]
    backends = [
        {"url": one.url, "models": list(one.models), "trouble": one.problem or None} for one in gateway.pool.backends
    ]
    return _answer({"samples": samples, "backends": backends})


async def _changes(request: web.Request) -> web.StreamResponse:
    """Answer GET /ui/api/changes?experiment=... with the changes that the bundles of the arms make."""
    return _answer(await bundle_changes(request.app[GATEWAY], request.query.get("experiment", "")))


def _answer(value: object) -> web.Response:
    return json_response(value, headers=_HEADERS)
