"""A model server for the recorder. It keeps the requests that it receives and sends the answer of the current case.

At start it answers the requests of the proxy like one kind of server: vLLM, llama.cpp, or an unknown one. It counts
tokens from the length of a text, so that every count is the same in every run.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from aiohttp import web

from proxy.backends.kinds.probe import QUESTIONS

_SHORT_ANSWER = {"choices": [{"message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}]}
NO_TEMPLATE = "default chat template is no longer allowed, so you must provide a chat template"
# Headers that are not recorded, because they depend on the connection, are new in each request, or follow from the
# body.
_UNRECORDED_HEADERS = frozenset({"host", "x-request-id", "content-length"})


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model of a scripted server.

    Attributes:
        name: Its id in /v1/models.
        kind: "chat" or "completion".
        context: The context length in tokens; None if the server does not report it.
        bundle: "default", "pinned", or "" for none.
    """

    name: str
    kind: str
    context: int | None
    bundle: str = "default"


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of the server to one generating request.

    Attributes:
        pieces: The body, in parts that are written one by one.
        status: HTTP status.
        headers: The headers, with Content-Type.
        cut: Whether the connection closes before the end of the body.
    """

    pieces: tuple[bytes, ...]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    cut: bool = False


@dataclass(slots=True)
class ScriptedServer:
    """One scripted server.

    Attributes:
        dialect: "vllm", "llama.cpp" or "unknown".
        models: The models that it lists.
        answer: Returns the answer to a generating request, from its path and body.
        received: A digest of each generating request since the last case.
        url: The URL, once the server listens.
    """

    dialect: str
    models: tuple[ServedModel, ...]
    answer: Callable[[str, bytes], Answer]
    received: list[bytes] = field(default_factory=list)
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer any request."""
        body = await request.read()
        probes = {"/v1/models": self._listing, "/tokenize": self._tokenize, "/props": self._properties}
        if request.path in probes:
            return await probes[request.path](body)
        if any(question.encode() in body[:500] for question in QUESTIONS):
            return web.json_response(_SHORT_ANSWER)
        headers = sorted(
            (name.lower(), value) for name, value in request.headers.items() if name.lower() not in _UNRECORDED_HEADERS
        )
        head = json.dumps([request.method, request.path_qs, headers])
        self.received.append(sha256(head.encode() + b"\n" + body).digest())
        return await _send(request, self.answer(request.path, body))

    async def _listing(self, _: bytes) -> web.Response:
        return web.json_response({"object": "list", "data": [self._card(model) for model in self.models]})

    def _card(self, model: ServedModel) -> dict[str, Any]:
        card: dict[str, Any] = {"id": model.name, "object": "model", "created": 1, "owned_by": "snapshots"}
        silent = model.context is None or self.dialect == "llama.cpp"  # llama.cpp reports it in /props
        return card if silent else {**card, "max_model_len": model.context}

    async def _tokenize(self, body: bytes) -> web.Response:
        request = json.loads(body)
        if self.dialect == "unknown":
            return web.json_response({"error": {"message": "not found"}}, status=404)
        if self.dialect == "llama.cpp":
            return web.json_response({"tokens": [0] * _count(request.get("content", ""))})
        model = next((model for model in self.models if model.name == request.get("model")), self.models[0])
        if "messages" not in request:
            return web.json_response({"count": _count(request["prompt"]), "max_model_len": model.context})
        if model.kind == "chat":
            return web.json_response({"count": 9, "max_model_len": model.context})
        return web.json_response({"error": {"message": NO_TEMPLATE, "code": 400}}, status=400)

    async def _properties(self, _: bytes) -> web.Response:
        if self.dialect != "llama.cpp":
            return web.json_response({"error": {"message": "not found"}}, status=404)
        template = "{{ messages }}" if self.models[0].kind == "chat" else ""
        settings = {"n_ctx": self.models[0].context}
        return web.json_response({"chat_template": template, "default_generation_settings": settings})


def _count(text: str) -> int:
    """Return one token for about four bytes, and one for the beginning."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // 4) + 1


async def _send(request: web.Request, answer: Answer) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    await response.prepare(request)
    for piece in answer.pieces:
        await response.write(piece)
        if len(answer.pieces) > 1:
            await asyncio.sleep(0.0005)  # so that most pieces arrive separately
    if answer.cut:
        assert request.transport is not None
        request.transport.close()
        return response
    await response.write_eof()
    return response


async def start(server: ScriptedServer) -> Callable[[], Awaitable[None]]:
    """Listen on a free port, and return a function that stops the server."""
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    return runner.cleanup
