"""Who gets in, and what must be true of a request before anyone looks at what it asks. Knows no model."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from proxy.errors import (
    BadRequestError,
    DrainingError,
    OverloadedError,
    SlowRequestError,
    TooLargeError,
    UnsupportedMediaError,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """max_in_flight: requests at once; max_body_bytes: of one body; read_timeout: seconds for a body to arrive;
    write_timeout: seconds that a client may not read its answer."""

    max_in_flight: int
    max_body_bytes: int
    read_timeout: float
    write_timeout: float


class Admission:
    """Counts requests in flight, refuses more than the limit, and all of them once draining."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.in_flight = 0
        self.draining = False
        self.idle = asyncio.Event()
        self.idle.set()

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Hold a place for one request. Raises DrainingError, OverloadedError."""
        if self.draining:
            raise DrainingError("The server is shutting down: send the request to another one.")
        if self.in_flight >= self.limits.max_in_flight:
            raise OverloadedError("Too many requests in flight: try again in a moment.")
        self.in_flight += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self.idle.set()


async def read_body(request: web.Request, limits: Limits) -> bytes:
    """The whole body, in time and in size. Raises UnsupportedMediaError, TooLargeError, SlowRequestError."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaError("Compressed bodies are not accepted: send it without Content-Encoding.")
    if (request.content_length or 0) > limits.max_body_bytes:
        raise _too_large(limits)
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.read_timeout):
            async for part in request.content.iter_any():
                size += len(part)
                if size > limits.max_body_bytes:
                    raise _too_large(limits)
                parts.append(part)
    except TimeoutError as error:
        raise SlowRequestError(f"The body did not arrive within {limits.read_timeout:g} s.") from error
    return b"".join(parts)


def parse_json(request: web.Request, data: bytes) -> dict[str, Any]:
    """The body as a JSON object. Raises UnsupportedMediaError, BadRequestError."""
    if request.content_type != "application/json":
        raise UnsupportedMediaError("Send JSON, with the header Content-Type: application/json.")
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(
            f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from error
    if not isinstance(body, dict):
        raise BadRequestError("The body must be a JSON object.")
    return body


def _too_large(limits: Limits) -> TooLargeError:
    return TooLargeError(f"The body is larger than {limits.max_body_bytes} bytes (--max-body-bytes).")
