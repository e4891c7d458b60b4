"""A model server that listens on every address of its network namespace. It streams words at a fixed pace.

python -m tests.deploy.far_server PORT
"""

import asyncio
import sys

from aiohttp import web

from tests.faults.scripted import completion, completion_events

WORDS, PAUSE = 100, 0.05  # words of a stream, and seconds between two words


async def models(_request: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": "scripted", "object": "model", "max_model_len": 4096}]})


async def tokenize(_request: web.Request) -> web.Response:
    return web.json_response({"count": 9, "max_model_len": 4096, "tokens": []})


async def complete(request: web.Request) -> web.StreamResponse:
    if not (await request.json()).get("stream"):
        return web.json_response(completion("far"))
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for event in completion_events(["far "] * WORDS):
        await response.write(event)
        await asyncio.sleep(PAUSE)
    return response


if __name__ == "__main__":
    app = web.Application()
    app.router.add_get("/v1/models", models)
    app.router.add_post("/tokenize", tokenize)
    app.router.add_post("/v1/completions", complete)
    web.run_app(app, host="0.0.0.0", port=int(sys.argv[1]), print=None, access_log=None)
