"""The operator's page: what it shows, and the files that it is made of. Served by the admin listener.

A question asked on the page goes the way of every client's (proxy/api/handlers.py), but asks for no key and is in no
experiment. Knows no statistics: experiments answer on their own routes.
"""

import asyncio
from collections.abc import Mapping
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
from index.retrieval.retriever import MAX_QUERY_CHARACTERS
from index.types import Bundle, Vectors
from proxy.api.admission import parse_json, read_body
from proxy.api.endpoints import ENDPOINTS
from proxy.api.gateway import Gateway, ServingState
from proxy.api.handlers import handle
from proxy.api.http_server import error_response
from proxy.core.errors import BadRequestError, ProxyError, UnknownModelError, UnknownRouteError
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.inference.plan import CHAT, Plan
from proxy.inference.variants import available
from proxy.openai.conversation import read_chat
from proxy.openai.json_fields import text_field

GATEWAY: Final = web.AppKey("page's gateway", Gateway)
_FILES: Final = Path(__file__).parent / "static"
_TYPES: Final[Mapping[str, str]] = MappingProxyType(
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
_MOST_EXAMPLES: Final = 2_000  # of a bank, that the page lists and draws
_NEAREST: Final = 24


def add_page(app: web.Application, gateway: Gateway) -> None:
    """The page's routes, where one process has the page and answers its questions."""
    add_files(app)
    add_answers(app, gateway)


def add_files(app: web.Application) -> None:
    """The page's own files."""
    app.router.add_get("/", _to_page)
    app.router.add_get("/ui", _file)
    app.router.add_get("/ui/{name}", _file)


def add_answers(app: web.Application, gateway: Gateway) -> None:
    """What the page asks, answered by `gateway`."""
    app[GATEWAY] = gateway
    app.router.add_get("/ui/api/state", _state)
    app.router.add_post("/ui/api/chat", _chat)
    app.router.add_post("/ui/api/explain", _guarded(_explain))
    app.router.add_get("/ui/api/bundle", _guarded(_bundle))
    app.router.add_post("/ui/api/search", _guarded(_search))
    app.router.add_get("/ui/api/live", _live)


def _guarded(handler: Handler) -> Handler:
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


async def _to_page(_: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("/ui")


async def _file(request: web.Request) -> web.StreamResponse:
    """One of the page's own files, by its name alone."""
    name = request.match_info.get("name", "index.html")
    place = _FILES / name
    if place.suffix not in _TYPES or place not in _FILES.iterdir():
        return error_response(UnknownRouteError(f"The page has no file {name[:100]!r}."))
    content = await asyncio.to_thread(place.read_bytes)
    return web.Response(body=content, content_type=_TYPES[place.suffix], charset="utf-8", headers=_HEADERS)


async def _state(request: web.Request) -> web.StreamResponse:
    """What there is to be asked: the models with their variants, the first one with a bundle first."""
    gateway = request.app[GATEWAY]
    bundles = gateway.bundles
    models = sorted(gateway.pool.models.values(), key=lambda model: model.id not in bundles)
    return _json(
        {
            "models": [
                {"id": one.id, "kind": one.kind, "variants": available(one.id, bundles), "bundled": one.id in bundles}
                for one in models
            ],
        }
    )


async def _chat(request: web.Request) -> web.StreamResponse:
    """A question, answered as a client's is."""
    gateway = request.app[GATEWAY]
    unkeyed = replace(gateway, state=ServingState(gateway.bundles), experiments=None, log_content=False)
    return await handle(unkeyed, request, ENDPOINTS[CHAT])


async def _explain(request: web.Request) -> web.StreamResponse:
    """What a question would be sent as, and why: the plan of it, which is not carried out."""
    gateway = request.app[GATEWAY]
    body = parse_json(request, await read_body(request, gateway.admission.limits))
    conversation, setting = read_chat(body), gateway.setting(body, request)
    served = setting.served
    plan = await gateway.planner.chat(conversation, setting)
    likeness = {}
    if served is not None and plan.injection is not None:
        query = conversation.opening[:MAX_QUERY_CHARACTERS]
        likeness = await asyncio.to_thread(lambda: dict(_likeness(served, served.search.embedder.embed([query])[0])))
    return _json(_explained(plan, served, likeness))


def _explained(plan: Plan, served: ServedBundle | None, likeness: Mapping[str, float]) -> Mapping[str, Any]:
    sent, injection = orjson.loads(plan.body), plan.injection
    sampling = {name: value for name, value in sent.items() if name not in ("prompt", "messages")}
    told: dict[str, Any] = {"variant": plan.choice.variant, "path": plan.path, "sampling": sampling}
    told |= {"text": sent.get("prompt"), "messages": sent.get("messages")}
    if injection is None or served is None:
        return told
    bundle = served.bundle
    examples = [{**asdict(one), "similarity": likeness.get(one.id)} for one in injection.examples]
    shown = tuple(one.id for one in injection.examples if not one.pinned)
    chosen = next((one.name for one in bundle.sets if one.shown == shown), None)
    why = {"prompt_only": injection.prompt_only, "degraded": injection.degraded, "set": chosen}
    return {**told, "tokens": injection.tokens, "prompt": bundle.prompt, "examples": examples, **why}


def _likeness(served: ServedBundle, vector: Vectors) -> list[tuple[str, float]]:
    """Every example of the bank that the page knows, with its similarity to a query's vector."""
    examples = served.bundle.examples[:_MOST_EXAMPLES]
    found = served.bundle.vectors[: len(examples)] @ vector
    return [(example.id, round(float(value), 4)) for example, value in zip(examples, found, strict=True)]


async def _bundle(request: web.Request) -> web.StreamResponse:
    """A bundle to look at: its prompt, its policy, its examples, and where each lies on a map."""
    served = _asked_for(request.app[GATEWAY], request.query.get("model", ""))
    return _json(await asyncio.to_thread(_described, served.bundle))


def _described(bundle: Bundle) -> Mapping[str, Any]:
    examples = bundle.examples[:_MOST_EXAMPLES]
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
        "map": np.round(on_a_map(bundle.vectors[: len(examples)]), 4).tolist(),
    }


def on_a_map(vectors: Vectors) -> Vectors:
    """(n, dimension) -> (n, 2): along the two directions in which the vectors differ most (principal components), each
    scaled to -1 to 1. Every run gives the same signs."""
    centred = np.asarray(vectors, np.float64) - np.mean(vectors, axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    flat = np.zeros((len(vectors), 2))
    for axis, direction in enumerate(directions[:2]):
        placed = centred @ direction
        flat[:, axis] = placed * np.sign(placed[np.argmax(np.abs(placed))]) / max(np.abs(placed).max(), 1e-12)
    return flat.astype(np.float32)


async def _search(request: web.Request) -> web.StreamResponse:
    """{"model": ..., "query": ...}: the examples nearest to a query, and which of them it would be shown."""
    gateway = request.app[GATEWAY]
    body = parse_json(request, await read_body(request, gateway.admission.limits))
    served, query = _asked_for(gateway, text_field(body, "model")), text_field(body, "query")[:MAX_QUERY_CHARACTERS]
    if not query.strip():
        raise BadRequestError("`query` is empty: write what a user would ask.", param="query")
    return _json(await asyncio.to_thread(_found, served, query))


def _found(served: ServedBundle, query: str) -> Mapping[str, Any]:
    vector = served.search.embedder.embed([query])[0]
    shown = [hit.example.id for hit in served.search.retriever.choose(vector)]
    likeness = _likeness(served, vector)
    nearest = sorted(likeness, key=lambda pair: -pair[1])[:_NEAREST] + [one for one in likeness if one[0] in shown]
    ranked = sorted(dict(nearest).items(), key=lambda pair: -pair[1])
    return {"nearest": [{"id": name, "similarity": value} for name, value in ranked], "shown": shown}


def _asked_for(gateway: Gateway, model: str) -> ServedBundle:
    served = gateway.bundles.get(model)
    if served is None:
        raise UnknownModelError(f"There is no bundle for {model[:100]!r}. There are: {', '.join(gateway.bundles)}.")
    return served


async def _live(request: web.Request) -> web.StreamResponse:
    """The server's own metrics, and the state of its backends, as numbers since the start."""
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
    return _json({"samples": samples, "backends": backends})


def _json(value: object) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json", headers=_HEADERS)
