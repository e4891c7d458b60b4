"""The smallest possible proxy in Python: it reads a request, forwards it, and passes on the reply as it arrives.

python -m tests.bench.peers.relay PORT BACKEND [uvloop]
"""

import sys

import aiohttp
import uvloop
from aiohttp import web


async def relay(request: web.Request) -> web.StreamResponse:
    body = await request.read()
    headers = {"Content-Type": "application/json"}
    async with request.app[SESSION].post(BACKEND + request.path, data=body, headers=headers) as upstream:
        headers = {"Content-Type": upstream.headers["Content-Type"]}
        if upstream.content_type != "text/event-stream":
            return web.Response(status=upstream.status, body=await upstream.read(), headers=headers)
        response = web.StreamResponse(status=upstream.status, headers=headers)
        await response.prepare(request)
        async for data in upstream.content.iter_any():
            await response.write(data)
        return response


async def make_app() -> web.Application:
    app = web.Application(client_max_size=2**24)
    app[SESSION] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    app.router.add_post("/{path:.*}", relay)
    app.router.add_get("/health", lambda _: web.Response())
    return app


SESSION = web.AppKey("session", aiohttp.ClientSession)

if __name__ == "__main__":
    BACKEND = sys.argv[2]
    loop = uvloop.new_event_loop() if "uvloop" in sys.argv else None
    web.run_app(make_app(), host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None, loop=loop)
