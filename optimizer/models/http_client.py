"""An HTTP client for one OpenAI-compatible server: it posts a JSON body and returns the reply's bytes.

This module is responsible for connections, timeouts and retries. No other module of the optimizer sends HTTP requests
to models. This module does not depend on the content of requests and replies, and does not cache replies.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Protocol, Self

import aiohttp
import orjson

from index.base_urls import without_endpoint
from optimizer.core.errors import ModelError, NoReplyError, RefusedRequestError, UnreachableError
from optimizer.models.error_replies import retry_after_seconds, server_explanation, status_in_body

Sleep = Callable[[float], Awaitable[None]]
_MAX_MESSAGE_CHARACTERS = 300
_TOO_MANY_REQUESTS = 429
_FIRST_SERVER_ERROR = 500
_FIRST_ERROR = 400
_NOT_IMPLEMENTED = 501
_PASSING: Final = frozenset((408, 409, 425, _TOO_MANY_REQUESTS))
"""Statuses below 500 after which the same request may succeed a moment later."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The server of a model, and the model's name.

    Attributes:
        base_url: The base URL of the server's API, such as `http://localhost:8000/v1`.
        model: The name of the model in requests to the server.
        api_key: The API key; None if the server needs no key. The result of `repr` does not contain the key.
    """

    base_url: str
    model: str
    api_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a request is attempted, and how long the client waits between the attempts.

    Attributes:
        attempts: The maximum number of attempts to send a request, at least 1.
        first_wait: The maximum wait before the second attempt, in seconds. This maximum doubles for each further
            attempt, until it reaches `max_wait`.
        max_wait: The maximum wait before any attempt, in seconds.
        reply_timeout: The maximum time of one attempt until its reply is complete, in seconds. A slower attempt fails.
    """

    attempts: int = 5
    first_wait: float = 0.5
    max_wait: float = 30.0
    reply_timeout: float = 300.0

    def wait(self, failures: int, retry_after: float | None) -> float:
        """Return the seconds to wait before the next attempt, at most `max_wait`.

        Args:
            failures: The number of failed attempts, at least 1.
            retry_after: The seconds that the server asks the client to wait. If None, the wait is random, so that many
                clients do not retry at the same moment. The random wait is at least half of the longest wait for this
                number of failed attempts. The longest wait begins with `first_wait`, and doubles with each further
                failure.
        """
        if retry_after is not None:
            return min(retry_after, self.max_wait)
        ceiling = min(self.first_wait * 2.0 ** (failures - 1), self.max_wait)
        return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries over time, not security


class AttemptObserver(Protocol):
    """Accounts for the cost of each attempt to send a request. `Client.post` calls the methods."""

    async def before(self) -> None:
        """Prepare for an attempt, which begins after this method has returned.

        If this method raises an error, nothing is sent, and `Client.post` raises the same error.
        """

    async def failed(self, *, maybe_paid: bool, reached_server: bool) -> None:
        """Account for a failed attempt: its reply was missing or incomplete, or had an error status.

        Args:
            maybe_paid: Whether the server may bill the attempt although it failed.
            reached_server: Whether there was a connection to the server.
        """


class _Retry(Exception):  # noqa: N818 - a signal to try again, which callers of this module never see
    """An attempt failed, and another attempt may succeed.

    Attributes:
        error: The error to raise if this attempt was the last one.
        after: The seconds that the server asks the client to wait; None if the server asks for no wait.
        maybe_paid: Whether the server may bill the failed attempt.
        reached_server: Whether there was a connection to the server.
    """

    def __init__(
        self,
        error: ModelError,
        after: float | None = None,
        *,
        maybe_paid: bool = True,
        reached_server: bool = True,
    ) -> None:
        super().__init__()
        self.error = error
        self.after = after
        self.maybe_paid = maybe_paid
        self.reached_server = reached_server


class Client:
    """Sends requests to one endpoint. Use the client as an async context manager, which closes its connections.

    Attributes:
        endpoint: The endpoint that receives the requests.
    """

    def __init__(self, endpoint: Endpoint, concurrency: int, policy: RetryPolicy, sleep: Sleep = asyncio.sleep) -> None:
        """Create a client without opening a connection.

        Args:
            endpoint: The endpoint that receives the requests.
            concurrency: The maximum number of requests at the same time.
            policy: The number of attempts, the waits between them, and the timeout of a reply.
            sleep: The coroutine function that waits between two attempts.
        """
        self.endpoint = endpoint
        self._policy = policy
        self._slots = asyncio.Semaphore(concurrency)
        self._sleep = sleep
        self._session = open_session(endpoint.api_key, policy.reply_timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def post(
        self,
        path: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        observer: AttemptObserver | None = None,
        *,
        is_json: bool = False,
    ) -> tuple[bytes, Mapping[str, str]]:
        """Post a JSON body. Retry after a network error, a timeout, and each status that may pass (`_may_pass`).

        Args:
            path: The path to append to the endpoint's base URL. `join_url` appends it.
            body: The JSON body.
            headers: Additional headers.
            observer: An object whose method `before` is called before each attempt, and whose method `failed` is called
                after each failed attempt.
            is_json: Whether a reply that is not JSON is a failed attempt, because a gateway can cut a reply, or answer
                with a page. Such a reply to the last attempt is returned.

        Returns:
            The reply's body and headers.

        Raises:
            UnreachableError: The last attempt got no connection, or no complete reply in time.
            RefusedRequestError: The endpoint answered with an error status after which the client does not retry. Or
                the last attempt got an error status after which the client would retry, such as 429.
        """
        url = join_url(self.endpoint.base_url, path)
        async with self._slots:
            for failures in range(1, self._policy.attempts + 1):
                try:
                    return await self._attempt(
                        url, body, headers or {}, observer, is_json and failures < self._policy.attempts
                    )
                except _Retry as retry:
                    if failures == self._policy.attempts:
                        raise retry.error from None
                    await self._sleep(self._policy.wait(failures, retry.after))
        raise AssertionError("there is at least one attempt")

    async def _attempt(
        self, url: str, body: bytes, headers: Mapping[str, str], observer: AttemptObserver | None, is_json: bool
    ) -> tuple[bytes, Mapping[str, str]]:
        if observer is not None:
            await observer.before()
        try:
            raw, received = await self._send(url, body, headers)
            if is_json and not _is_json(raw):
                error = NoReplyError(f"{url} gave a reply that is not JSON. Check that the address is right")
                raise _Retry(error, retry_after_seconds(received))
            return raw, received
        except _Retry as retry:
            if observer is not None:
                await observer.failed(maybe_paid=retry.maybe_paid, reached_server=retry.reached_server)
            raise
        except RefusedRequestError:
            if observer is not None:
                await observer.failed(maybe_paid=False, reached_server=True)
            raise

    async def _send(self, url: str, body: bytes, headers: Mapping[str, str]) -> tuple[bytes, Mapping[str, str]]:
        try:
            async with self._session.post(url, data=body, headers=headers) as reply:
                raw = await reply.read()
        except TimeoutError:
            seconds = self._policy.reply_timeout
            raise _Retry(NoReplyError(f"{url} gave no reply within {seconds:g} s. Lower the concurrency")) from None
        except aiohttp.ClientConnectorError as error:
            raise _Retry(unreachable_error(url, error), maybe_paid=False, reached_server=False) from None
        except aiohttp.ClientError as error:
            raise _Retry(unreachable_error(url, error)) from None
        status = reply.status if reply.status >= _FIRST_ERROR else status_in_body(raw)
        if status:
            raise _status_error(url, status, reply.headers, server_explanation(raw, self.endpoint.api_key))
        return raw, reply.headers


def join_url(base_url: str, path: str) -> str:
    """Return the base URL with a path appended.

    The name of an endpoint at the end of the base URL, such as `chat/completions` after `/v1`, is removed first. A path
    that does not begin with a slash, such as `chat/completions`, follows the base URL. A path that begins with a slash,
    such as `/tokenize`, is not below `/v1`: if the base URL ends in `/v1`, this part is replaced.
    """
    base = without_endpoint(base_url)
    return f"{base.removesuffix('/v1')}{path}" if path.startswith("/") else f"{base}/{path}"


def unreachable_error(url: str, error: BaseException) -> UnreachableError:
    """Return the error for a server that cannot be reached at a URL, or that gave no complete reply."""
    return UnreachableError(
        f"{url} cannot be reached ({type(error).__name__}). Check that the server runs, and that the address is right"
    )


def open_session(api_key: str | None, timeout: float) -> aiohttp.ClientSession:
    """Open the connections to a server. The caller closes them.

    Args:
        api_key: The API key; None if the server needs no key.
        timeout: The maximum time until a reply is complete, in seconds.
    """
    headers = {"Content-Type": "application/json"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    # Servers close idle connections after a few seconds. A request is lost if it is sent just when the server closes
    # its connection. The client therefore closes an idle connection earlier than servers do, after three seconds.
    connector = aiohttp.TCPConnector(keepalive_timeout=3, limit=0)
    return aiohttp.ClientSession(
        connector=connector,
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=min(timeout, 10)),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _status_error(url: str, status: int, headers: Mapping[str, str], explanation: str) -> RefusedRequestError | _Retry:
    error = refusal_error(url, status, explanation)
    if _may_pass(status):
        return _Retry(error, retry_after_seconds(headers), maybe_paid=status != _TOO_MANY_REQUESTS)
    return error


def _may_pass(status: int) -> bool:
    """Whether the same request may succeed a moment later, after this error status."""
    return status in _PASSING or (status >= _FIRST_SERVER_ERROR and status != _NOT_IMPLEMENTED)


def _is_json(raw: bytes) -> bool:
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError:
        return False
    return True


def refusal_error(url: str, status: int, explanation: str) -> RefusedRequestError:
    """Return the error for an error status, with the beginning of the server's explanation in its message."""
    shown = explanation[:_MAX_MESSAGE_CHARACTERS] or "no explanation given"
    return RefusedRequestError(f"{url} answered with status {status}: {shown}", status, explanation)
