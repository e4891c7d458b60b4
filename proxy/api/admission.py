"""Limits the number of requests in flight, and reads and checks request bodies. It does not depend on models."""

import asyncio
from collections.abc import Callable
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
from proxy.core.json_types import repaired_json
from proxy.core.metrics import Metrics
from proxy.core.settings import AdmissionSettings
from proxy.core.shared_state import SharedState
from proxy.openai.exact_numbers import decode as decode_exactly

_QUEUE_TIMEOUT: Final = 10.0  # seconds
_POLL_INTERVAL: Final = 0.01  # seconds; a worker polls, because it gets no signal when another worker releases a slot


class Admission:
    """Limits the number of requests in flight. Each request is served within `async with admission`.

    All workers together serve at most `limits.max_in_flight` requests at once. In each worker, at most
    `limits.max_queue` more requests wait, in the order of their arrival and for at most 10 seconds. All other requests
    are refused.

    Attributes:
        limits: The limits on requests.
        draining: An event that is set when the server shuts down. From then on, new requests are refused.
        idle: An event that is set while this worker serves no request, and no request waits.
        queued: The number of requests that wait in this worker.
    """

    def __init__(self, limits: AdmissionSettings, shared: SharedState, metrics: Metrics) -> None:
        self.limits = limits
        self.draining = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()
        self.queued = 0
        self._shared = shared
        self._metrics = metrics
        self._queue_head = asyncio.Lock()
        self._released = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """The number of requests that this worker serves."""
        return self._shared.in_flight[self._shared.worker]

    async def __aenter__(self) -> None:
        """Take a slot for one request. If no slot is free, wait until one becomes free.

        Raises:
            DrainingError: The server is shutting down.
            OverloadedError: The queue is full, or no slot became free within 10 seconds.
        """
        if self.draining.is_set():
            raise DrainingError("The server is shutting down. Send the request to another server.")
        if self.queued or not self._take_slot():
            await self._wait_in_queue()

    async def __aexit__(self, *exception: object) -> None:
        self._release_slot()

    async def _wait_in_queue(self) -> None:
        if self.queued >= self.limits.max_queue:
            raise OverloadedError("Too many requests are in flight. Try again in a moment.")
        self.queued += 1
        self._metrics.queued.inc()
        self.idle.clear()
        try:
            async with asyncio.timeout(_QUEUE_TIMEOUT), self._queue_head:
                while not self._take_slot():
                    await self._wait_for_release()
        except TimeoutError as error:
            raise OverloadedError(
                f"Too many requests are in flight: no slot became free within {_QUEUE_TIMEOUT:g} s. Try again in a "
                "moment."
            ) from error
        finally:
            self.queued -= 1
            self._metrics.queued.dec()
            self._update_idle()

    async def _wait_for_release(self) -> None:
        self._released.clear()
        with suppress(TimeoutError):
            # asyncio.wait_for of Python 3.11 sometimes swallows a cancellation, so asyncio.timeout is used.
            async with asyncio.timeout(_POLL_INTERVAL):
                await self._released.wait()

    def _take_slot(self) -> bool:
        """Take a slot if all workers together serve fewer requests than the limit. Return whether a slot was taken."""
        with self._shared.lock:
            if sum(self._shared.in_flight) >= self.limits.max_in_flight:
                return False
            self._shared.in_flight[self._shared.worker] += 1
        self.idle.clear()
        return True

    def _release_slot(self) -> None:
        with self._shared.lock:
            self._shared.in_flight[self._shared.worker] -= 1
        self._released.set()
        self._update_idle()

    def _update_idle(self) -> None:
        if not self.in_flight and not self.queued:
            self.idle.set()


async def read_body(request: web.Request, limits: AdmissionSettings) -> bytes:
    """Read the body of a request.

    Raises:
        UnsupportedMediaError: The body is compressed.
        TooLargeError: The body is larger than `limits.max_body_bytes`.
        SlowRequestError: The body did not arrive within `limits.read_timeout`.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaError("Compressed bodies are not accepted. Send the body uncompressed.")
    if (request.content_length or 0) > limits.max_body_bytes:
        raise _too_large(limits)
    if request.content.is_eof():  # the whole body has arrived: no timer is needed
        body = request.content.read_nowait()
        if len(body) > limits.max_body_bytes:
            raise _too_large(limits)
        return body
    try:
        async with asyncio.timeout(limits.read_timeout):
            return await _collect(request, limits)
    except TimeoutError as error:
        raise SlowRequestError(
            f"The body did not arrive within {limits.read_timeout:g} s. Send the request again."
        ) from error


async def _collect(request: web.Request, limits: AdmissionSettings) -> bytes:
    parts, size = [], 0
    async for part in request.content.iter_any():
        size += len(part)
        if size > limits.max_body_bytes:
            raise _too_large(limits)
        parts.append(part)
    return b"".join(parts)


def parse_json(request: web.Request, data: bytes, decode: Callable[[bytes], Any] = decode_exactly) -> dict[str, Any]:
    """Parse a body that must be a JSON object.

    A byte order mark is ignored, and an unpaired surrogate is parsed as U+FFFD. Replies of backends are parsed in the
    same way.

    Args:
        request: The request.
        data: Its body.
        decode: Decodes the JSON. The default keeps the digits of each number, because the backend must get the same
            digits. Use orjson.loads if the proxy itself computes with the numbers.

    Raises:
        UnsupportedMediaError: The Content-Type is not application/json.
        BadRequestError: The body is not JSON, or not an object.
    """
    if request.content_type != "application/json":
        raise UnsupportedMediaError("Send JSON, with the header Content-Type: application/json.")
    try:
        body = _decode_repaired(data, decode)
    except UnicodeDecodeError as error:
        raise BadRequestError(f"The body is not JSON: byte {error.start} is not UTF-8. Send UTF-8.") from error
    except orjson.JSONDecodeError as error:
        raise BadRequestError(
            f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from error
    if not isinstance(body, dict):
        raise BadRequestError("The body must be a JSON object.")
    return body


def _decode_repaired(data: bytes, decode: Callable[[bytes], Any]) -> Any:
    try:
        return decode(data)
    except orjson.JSONDecodeError:
        data.decode()  # raises UnicodeDecodeError with the position if the data is not UTF-8
        if (repaired := repaired_json(data)) == data:
            raise
    return decode(repaired)


def _too_large(limits: AdmissionSettings) -> TooLargeError:
    return TooLargeError(
        f"The body is larger than {limits.max_body_bytes} bytes. Send a smaller body. "
        "(The operator sets the limit with --max-body-bytes.)"
    )
