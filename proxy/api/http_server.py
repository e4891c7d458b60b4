"""The front door: aiohttp's HTTP server with a deadline for a request's headers, and with its own errors said in
OpenAI's shape and never logged with what the client sent (a malformed header may hold a key). Knows no routes.

aiohttp 3.14 waits for headers for ever, and logs the bytes that it could not parse.
"""

import asyncio

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from proxy.core.errors import BadRequestError, MethodError, ProxyError, SlowRequestError, UnknownRouteError
from proxy.core.log import log_failure


def error_response(error: ProxyError) -> web.Response:
    """An error of ours in OpenAI's shape."""
    return web.Response(status=error.status, body=error.json, content_type="application/json", headers=error.headers)


def saying_what_is_not_served(where: str) -> Middleware:
    """For an application: a path or a method that it has not is refused in OpenAI's shape. where: to look instead."""

    @web.middleware
    async def refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPMethodNotAllowed as error:
            return error_response(MethodError(sorted(error.allowed_methods)))
        except web.HTTPNotFound:
            return error_response(UnknownRouteError(f"This path is not served: {where}"))

    return refuse


class HttpServer(web.AppRunner):
    """Runs an application. headers_within: seconds for the first request of a connection to tell its headers."""

    def __init__(self, app: web.Application, headers_within: float = 10.0) -> None:
        super().__init__(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
        self._headers_within = headers_within

    async def _make_server(self) -> web.Server:
        return _Server(await super()._make_server(), self._headers_within)


class _Server(web.Server):
    """Makes a handler for each connection, as `server` would, but one of ours."""

    def __init__(self, server: web.Server, headers_within: float) -> None:
        super().__init__(
            server.request_handler,
            request_factory=server.request_factory,
            handler_cancellation=server.handler_cancellation,
            **server._kwargs,  # noqa: SLF001 - what AppRunner was told; there is no public way to it
        )
        self.headers_within = headers_within

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    """One connection: closed if it does not bring the headers of a request in time."""

    __slots__ = ("_deadline", "_said_something", "_within")

    def __init__(self, server: _Server, *, loop: asyncio.AbstractEventLoop, **options: object) -> None:
        super().__init__(server, loop=loop, **options)  # type: ignore[arg-type]  # AppRunner's, passed on
        self._within = server.headers_within
        self._said_something = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._deadline = self._loop.call_later(self._within, self._give_up)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._said_something = True
        if self._request_count:
            self._disarm()
        self._fail_broken_body()

    def _fail_broken_body(self) -> None:
        """Tell whoever reads the body that it will not come: aiohttp queues the parser's error as if it were the next
        request. Nothing can follow a body that has not ended, so what is queued behind one is such an error."""
        request = self._current_request
        if request is not None and self._messages and not request.content.is_eof():
            request.content.set_exception(BadRequestError("The body is not well-formed (chunked encoding)."))

    def log_exception(self, *words: object, **options: object) -> None:
        """What aiohttp logs of a connection, but not that a body is broken: the client was told so."""
        if not isinstance(options.get("exc_info"), BadRequestError):
            super().log_exception(*words, **options)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's words, which repeat the client's bytes
    ) -> web.StreamResponse:
        """What aiohttp could not parse, or what no handler caught, in OpenAI's shape. Raises ConnectionError, at which
        aiohttp closes without a word, where there is nobody to tell or no way to: the client went, or is being told."""
        if isinstance(exc, ConnectionError):
            raise exc
        if request.writer.output_size > 0:
            raise ConnectionError("The reply has begun: it cannot become an error.")
        error: ProxyError = BadRequestError("The request is not well-formed HTTP.")
        if status >= ProxyError.status:
            error = ProxyError("Internal error; the server's log has its place.")
            if exc is not None:
                log_failure("defect", exc)
        headers = {"Server": "drpo-proxy"}
        response = web.Response(status=error.status, body=error.json, content_type="application/json", headers=headers)
        response.force_close()
        return response

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        """Say why, if the client began at all (a browser opens connections that it may never use), and close."""
        if self.transport is not None and self._said_something:
            self.transport.write(_too_slow(self._within))
        self.force_close()


def _too_slow(within: float) -> bytes:
    body = SlowRequestError(f"The headers did not arrive within {within:g} s.").json
    head = "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
