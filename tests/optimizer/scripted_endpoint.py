"""A chat endpoint that replies from a script, for tests of failures and of the code around a model."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import orjson
from aiohttp import web
from aiohttp.test_utils import TestServer

Reply = tuple[int, dict[str, str], bytes]
Script = Callable[[dict[str, object], str], Reply]


def completion(text: str, finish_reason: str = "stop", headers: dict[str, str] | None = None) -> Reply:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    body = {"object": "chat.completion", "choices": [choice], "usage": {"prompt_tokens": 12, "completion_tokens": 3}}
    return 200, headers or {}, orjson.dumps(body)


def failure(status: int, message: str = "no", headers: dict[str, str] | None = None) -> Reply:
    return (
        status,
        headers or {},
        orjson.dumps({"error": {"message": message, "type": "x", "code": None, "param": None}}),
    )


@dataclass
class ScriptedEndpoint:
    """Serves /v1/models and /v1/chat/completions.

    Attributes:
        script: Returns the reply to a body and its x-drpo-variant header.
        before_reply: Awaited before each reply.
        seen: Body and x-drpo-variant header of each request, in order.
        keys: Authorization header of each request, in order.
    """

    script: Script
    before_reply: Callable[[], Awaitable[object]] | None = None
    seen: list[tuple[dict[str, object], str]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def server(self) -> TestServer:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        return TestServer(app)

    async def _chat(self, request: web.Request) -> web.Response:
        body, variant = orjson.loads(await request.read()), request.headers.get("x-drpo-variant", "")
        self.seen.append((body, variant))
        self.keys.append(request.headers.get("Authorization", ""))
        if self.before_reply is not None:
            await self.before_reply()
        status, headers, raw = self.script(body, variant)
        return web.Response(status=status, headers=headers, body=raw, content_type="application/json")

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "tiny@aligned"}, {"id": "tiny"}, {"id": "tiny@raw"}]})
