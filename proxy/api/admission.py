"""Who gets in, and what must be true of a request before anyone looks at what it asks. Knows no model."""

import asyncio
from contextlib import suppress
from typing import Any, Final

import orjson
from aiohttp import web

from proxy.core.errors import (
    BadRequestError,
    DrainingError,
    OverloadedError,
    SlowRequestError,
    TooLargeError,
    UnsupportedMediaError,
)
from proxy.core.metrics import Metrics
from proxy.core.settings import AdmissionSettings
from proxy.core.shared_state import SharedState

_LONGEST_WAIT: Final = 10.0  # seconds in the queue
_LOOK_EVERY: Final = 0.01  # seconds: a place that another worker gives back is told to nobody


class Admission:
    """Counts requests in flight, lets a few more wait in the order of their coming, and refuses the rest; all of them
    once draining. Each request is served within `async with admission`."""

    def __init__(self, limits: AdmissionSettings, shared: SharedState, metrics: Metrics) -> None:
        self.limits = limits
        self.draining = False
        self.idle = asyncio.Event()
        self.idle.set()
        self.queued = 0
        self._shared = shared
        self._metrics = metrics
        self._first_in_line = asyncio.Lock()
        self._given_back = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Requests that this worker serves."""
        return self._shared.in_flight[self._shared.worker]

    async def __aenter__(self) -> None:
        """Hold a place for one request, waiting for it where it must. Raises DrainingError, OverloadedError."""
        if self.draining:
            raise DrainingError("The server is shutting down: send the request to another one.")
        if self.queued or not self._take():
            await self._wait()

    async def __aexit__(self, *exception: object) -> None:
        self._give_back()

    async def _wait(self) -> None:
        if self.queued >= self.limits.max_queue:
            raise OverloadedError("Too many requests in flight: try again in a moment.")
        self.queued += 1
        self._metrics.queued.inc()
        self.idle.clear()
        try:
            async with asyncio.timeout(_LONGEST_WAIT), self._first_in_line:
                while not self._take():
                    await self._next_look()
        except TimeoutError as error:
            raise OverloadedError(f"No place came free within {_LONGEST_WAIT:g} s: try again in a moment.") from error
        finally:
            self.queued -= 1
            self._metrics.queued.dec()
            self._note_idle()

    async def _next_look(self) -> None:
        self._given_back.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_EVERY):  # wait_for of Python 3.11 may swallow that the client went
                await self._given_back.wait()

    def _take(self) -> bool:
        """A place, if there is one on all workers together."""
        with self._shared.lock:
            if sum(self._shared.in_flight) >= self.limits.max_in_flight:
                return False
            self._shared.in_flight[self._shared.worker] += 1
        self.idle.clear()
        return True

    def _give_back(self) -> None:
        with self._shared.lock:
            self._shared.in_flight[self._shared.worker] -= 1
        self._given_back.set()
        self._note_idle()

    def _note_idle(self) -> None:
        if not self.in_flight and not self.queued:
            self.idle.set()


async def read_body(request: web.Request, limits: AdmissionSettings) -> bytes:
    """The whole body, in time and in size. Raises UnsupportedMediaError, TooLargeError, SlowRequestError."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaError("Compressed bodies are not accepted: send it without Content-Encoding.")
    if (request.content_length or 0) > limits.max_body_bytes:
        raise _too_large(limits)
    if request.content.is_eof():  # all of it is here: nothing to wait for
        body = request.content.read_nowait()
        if len(body) > limits.max_body_bytes:
            raise _too_large(limits)
        return body
    try:
        async with asyncio.timeout(limits.read_timeout):
            return await _collect(request, limits)
    except TimeoutError as error:
        raise SlowRequestError(f"The body did not arrive within {limits.read_timeout:g} s.") from error


async def _collect(request: web.Request, limits: AdmissionSettings) -> bytes:
    parts, size = [], 0
    async for part in request.content.iter_any():
        size += len(part)
        if size > limits.max_body_bytes:
            raise _too_large(limits)
        parts.append(part)
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


def _too_large(limits: AdmissionSettings) -> TooLargeError:
    return TooLargeError(f"The body is larger than {limits.max_body_bytes} bytes (--max-body-bytes).")
