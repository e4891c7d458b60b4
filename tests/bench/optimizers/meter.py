"""Counts and limits the calls of one optimizer: a relay between the optimizer and the two models.

A request to the task model counts as a call only if this optimizer did not send it before, so an optimizer gains
nothing if it keeps answers. Each reply of the writer model is a call: a request for three choices is three calls.
Replies from the cache of answers count as calls. The relay refuses a call above a limit.
"""

import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
from aiohttp import web

from proxy.backends.backend import Backend
from tests.bench.policies.answer_cache import request_key

ANSWERS_SPENT: Final = 402
"""The HTTP status of a refused call to the task model (payment required). It ends a run of this project's optimizer."""
REPLIES_SPENT: Final = 410
"""The HTTP status of a refused call to the writer model. A run goes on without the reply to this request."""
MAX_REPLY_TOKENS: Final = 512
_SEEDS: Final = 10_000  # more than the replies to one request


@dataclass(slots=True)
class Meter:
    """The calls of one optimizer so far.

    Attributes:
        seed: The seed of the run. Other seeds get other replies of the writer model.
        max_answers: The maximum number of calls to the task model; None for no limit.
        max_replies: The maximum number of calls to the writer model.
        answers: The hashes of the requests to the task model.
        replies: The number of calls to the writer model.
    """

    seed: int = 0
    max_answers: int | None = None
    max_replies: int = 0
    answers: set[str] = field(default_factory=set)
    replies: int = 0
    _asked: Counter[str] = field(default_factory=Counter)

    def takes_answer(self, key: str) -> bool:
        """Count a request to the task model. Return whether it may be sent."""
        if key in self.answers:
            return True
        if self.max_answers is not None and len(self.answers) >= self.max_answers:
            return False
        self.answers.add(key)
        return True

    def takes_replies(self, count: int) -> bool:
        """Count replies of the writer model. Return whether they may be asked for."""
        if self.replies + count > self.max_replies:
            return False
        self.replies += count
        return True

    def next_seed(self, key: str) -> int:
        """Return the sampling seed for the next reply to this request: the same in every run with this seed."""
        self._asked[key] += 1
        return self.seed * _SEEDS + self._asked[key]


@asynccontextmanager
async def metered(meter: Meter, task: Backend, writer: Backend | None) -> AsyncIterator[str]:
    """Yield the URL of the relay. The models are at URL/task/v1 and URL/writer/v1."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:

        async def send(backend: Backend, path: str, body: bytes) -> tuple[int, bytes]:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {backend.api_key}"}
            async with session.post(f"{backend.url}{path}", data=body, headers=headers) as reply:
                return reply.status, await reply.read()

        async def answer(request: web.Request) -> web.Response:
            path, body = f"/{request.match_info['path']}", await request.read()
            key = request_key("", path, body)
            if key is not None and not meter.takes_answer(key):
                return _refusal(ANSWERS_SPENT, "the answers of this run are spent")
            return _response(*await send(task, path, body))

        async def write(request: web.Request) -> web.Response:
            path, body = f"/{request.match_info['path']}", json.loads(await request.read())
            count = body.pop("n", None) or 1
            if writer is None or not meter.takes_replies(count):
                return _refusal(REPLIES_SPENT, "the replies of the writer model are spent")
            body["max_tokens"] = min(body.get("max_tokens") or MAX_REPLY_TOKENS, MAX_REPLY_TOKENS)
            key = request_key("", path, json.dumps(body).encode()) or ""
            bodies = [json.dumps({**body, "seed": meter.next_seed(key)}).encode() for _ in range(count)]
            replies = [await send(writer, path, one) for one in bodies]
            failed = [reply for reply in replies if reply[0] != 200]
            if failed:
                return _response(*failed[0])
            return web.json_response(_joined([json.loads(reply) for _, reply in replies]))

        app = web.Application(client_max_size=2**26)
        app.router.add_post("/task/{path:.*}", answer)
        app.router.add_post("/writer/{path:.*}", write)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            yield f"http://{host}:{port}"
        finally:
            await runner.cleanup()


def _joined(replies: list[dict[str, Any]]) -> Mapping[str, Any]:
    """Return one reply with the choices of all."""
    choices = [{**reply["choices"][0], "index": number} for number, reply in enumerate(replies)]
    usage = Counter[str]()
    for reply in replies:
        usage.update({name: count for name, count in reply.get("usage", {}).items() if isinstance(count, int)})
    return {**replies[0], "choices": choices, "usage": dict(usage)}


def _refusal(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status)


def _response(status: int, body: bytes) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json")
