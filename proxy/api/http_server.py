"""Extends aiohttp's HTTP server with a deadline for headers and with errors in OpenAI's format.

aiohttp 3.14 waits for headers without a time limit. This module closes a connection if its first headers have not
arrived by the deadline. aiohttp also logs bytes that it cannot parse. This module does not log such bytes, because they
may contain an API key. The module does not depend on routes.
"""

import asyncio
from collections.abc import Mapping
from random import getrandbits
from typing import Final

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from proxy.core.errors import BadRequestError, MethodError, ProxyError, SlowRequestError, UnknownRouteError
from proxy.core.log import log_failure

_MAX_ID_LENGTH: Final = 200


def request_id_of(request: web.Request) -> str:
    """Return the client's X-Request-Id if it is printable and has 1 to 200 characters, else a random id."""
    given = request.headers.get("X-Request-Id", "")
    if 0 < len(given) <= _MAX_ID_LENGTH and given.isprintable():
        return given
    return f"{getrandbits(128):032x}"


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return a response with a value as JSON."""
    return web.Response(status=status, body=orjson.dumps(value), content_type="application/json", headers=headers)


def error_response(error: ProxyError) -> web.Response:
    """Return the response for an error, in OpenAI's format."""
    return web.Response(status=error.status, body=error.json, content_type="application/json", headers=error.headers)


def error_middleware(hint: str) -> Middleware:
    """Return a middleware that answers requests for unknown paths and methods with an error in OpenAI's format.

    Args:
        hint: The second part of the message for an unknown path. It names served paths.
    """

    @web.middleware
    async def refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPMethodNotAllowed as error:
            return error_response(MethodError(sorted(error.allowed_methods)))
        except web.HTTPNotFound:
            return error_response(UnknownRouteError(f"This path is not served: {hint}"))

    return refuse


class HttpServer(web.AppRunner):
    """Runs an application. If a client disconnects, the handler of its request is cancelled."""

    def __init__(self, app: web.Application, headers_timeout: float = 10.0) -> None:
        """Prepare to serve an application.

        Args:
            app: The application.
            headers_timeout: Seconds within which the headers of a connection's first request must arrive.
        """
        super().__init__(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
        self._headers_timeout = headers_timeout

    async def _make_server(self) -> web.Server:
        return _Server(await super()._make_server(), self._headers_timeout)


class _Server(web.Server):
    """A server with the options of the given aiohttp server. It makes a `_Connection` for each connection."""

    def __init__(self, server: web.Server, headers_timeout: float) -> None:
        super().__init__(
            server.request_handler,
            request_factory=server.request_factory,
            handler_cancellation=server.handler_cancellation,
            **server._kwargs,  # noqa: SLF001 - aiohttp has no public attribute for the options of AppRunner
        )
        self.headers_timeout = headers_timeout

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    """One connection. It is closed if the headers of its first request do not arrive in time."""

    __slots__ = ("_deadline", "_has_received", "_timeout_seconds")

    def __init__(self, server: _Server, *, loop: asyncio.AbstractEventLoop, **options: object) -> None:
        super().__init__(server, loop=loop, **options)  # type: ignore[arg-type]  # the options of AppRunner
        self._timeout_seconds = server.headers_timeout
        self._has_received = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._deadline = self._loop.call_later(self._timeout_seconds, self._close_late)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._has_received = True
        if self._request_count:
            self._cancel_deadline()
        self._fail_broken_body()

    def _fail_broken_body(self) -> None:
        """If the body is malformed, make the handler's attempt to read it fail.

        If aiohttp cannot parse a body, it appends the error to the queue of requests. aiohttp adds the next request to
        this queue only after the current body has ended. An entry that is in the queue earlier is therefore the error.
        """
        request = self._current_request
        if request is not None and self._messages and not request.content.is_eof():
            request.content.set_exception(BadRequestError("The chunked encoding of the body is malformed."))

    def log_exception(self, *arguments: object, **options: object) -> None:
        """Log an exception as aiohttp does, but do not log a malformed body: it is a client's error, not a defect."""
        if not isinstance(options.get("exc_info"), BadRequestError):
            super().log_exception(*arguments, **options)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._cancel_deadline()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's message, which repeats the client's bytes
    ) -> web.StreamResponse:
        """Return the response for a request that aiohttp cannot parse, or for an exception that no handler caught.

        Raises:
            ConnectionError: The client has disconnected, or the reply has begun. aiohttp then closes the connection.
        """
        if isinstance(exc, ConnectionError):
            raise exc
        if request.writer.output_size > 0:
            raise ConnectionError("The reply has begun, so an error cannot be sent.")
        error: ProxyError = BadRequestError("The request is not well-formed HTTP.")
        if status >= ProxyError.status:
            error = ProxyError("Internal error. The server's log describes it.")
            if exc is not None:
                log_failure("defect", exc)
        headers = {"Server": "drpo-proxy"}
        response = web.Response(status=error.status, body=error.json, content_type="application/json", headers=headers)
        response.force_close()
        return response

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close_late(self) -> None:
        """Close the connection at the deadline. If the client has sent any bytes, send an error reply first.

        A connection without any bytes is no error, because browsers open connections that they never use.
        """
        if self.transport is not None and self._has_received:
            self.transport.write(_timeout_reply(self._timeout_seconds))
        self.force_close()


def _timeout_reply(seconds: float) -> bytes:
    body = SlowRequestError(f"The headers did not arrive within {seconds:g} s. Send the request again.").json
    head = "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
