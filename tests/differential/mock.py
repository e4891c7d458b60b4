"""A server whose replies are made from the response types of the installed openai package. It interprets no request.

It has the endpoints of a vLLM server, needs no key, and keeps the path and the body of each request.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from aiohttp import web
from openai.types import Completion, CreateEmbeddingResponse
from openai.types import Model as ModelCard
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseCompletedEvent, ResponseCreatedEvent

from proxy.api.endpoints import FORMS, RELAYED
from tests.differential.example import example
from tests.faults.scripted import NO_TEMPLATE

_WHOLE: Final = {
    "/v1/chat/completions": ChatCompletion,
    "/v1/completions": Completion,
    "/v1/embeddings": CreateEmbeddingResponse,
    "/v1/responses": Response,
}
_EVENTS: Final = {
    "/v1/chat/completions": (ChatCompletionChunk,),
    "/v1/completions": (Completion,),
    "/v1/responses": (ResponseCreatedEvent, ResponseCompletedEvent),
}


@dataclass(slots=True)
class ReflectiveMock:
    """The server.

    Attributes:
        models: The names of the models that it lists.
        kind: The kind of all models.
        posted: The path and the body of each request so far.
    """

    models: Sequence[str]
    kind: str
    posted: list[tuple[str, Any]] = field(default_factory=list)

    def app(self) -> web.Application:
        """Return the application with the routes."""
        app = web.Application()
        app.router.add_get("/v1/models", self._list)
        app.router.add_get("/v1/models/{id:.+}", self._show)
        app.router.add_post("/tokenize", self._tokenize)
        for path in _WHOLE:
            app.router.add_post(path, self._answer)
        for path in (*RELAYED, *FORMS):
            if path not in (*_WHOLE, "/tokenize"):
                app.router.add_post(path, _understood)
        app.router.add_route("*", "/{path:.*}", _unserved)
        return app

    def _card(self, name: str) -> dict[str, Any]:
        return {**example(ModelCard), "id": name, "max_model_len": 4096}

    async def _list(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._card(name) for name in self.models]})

    async def _show(self, request: web.Request) -> web.Response:
        return web.json_response(self._card(request.match_info["id"]))

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        if "messages" in body and self.kind == "completion":
            return web.json_response({"error": {"message": NO_TEMPLATE}}, status=400)
        return web.json_response({"count": len(str(body).split()), "max_model_len": 4096, "tokens": []})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.posted.append((request.path, body))
        if body.get("stream"):
            return await self._stream(request)
        return web.json_response(example(_WHOLE[request.path]))

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        with suppress(ConnectionError):  # the suite closes a stream as soon as it has begun
            for type_ in _EVENTS[request.path]:
                await response.write(b"data: " + orjson.dumps(example(type_)) + b"\n\n")
            if request.path != "/v1/responses":
                await response.write(b"data: [DONE]\n\n")
            await response.write_eof()
        return response


async def _understood(_request: web.Request) -> web.Response:
    return web.json_response({})


async def _unserved(_request: web.Request) -> web.Response:
    return web.json_response({"detail": "Not Found"}, status=404)


@asynccontextmanager
async def running(mock: ReflectiveMock) -> AsyncIterator[str]:
    """Run the mock on a free port, and yield its base URL, without /v1."""
    runner = web.AppRunner(mock.app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()
