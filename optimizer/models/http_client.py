"""One OpenAI-compatible server: a JSON body posted, the reply's bytes returned. Knows HTTP, time limits and retries;
knows nothing of what is asked, and keeps nothing. The only place of the optimizer that touches the network.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

import aiohttp
import orjson

from optimizer.core.errors import ModelError, RefusedRequestError, UnparsableReplyError, UnreachableError

Sleep = Callable[[float], Awaitable[None]]
_LONGEST_MESSAGE = 300
_TOO_MANY_REQUESTS = 429
_FIRST_SERVER_ERROR = 500
_FIRST_ERROR = 400


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to ask. `base_url` ends before /chat/completions, as OpenAI clients take it; `api_key` is never shown."""

    base_url: str
    model: str
    api_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try. All in seconds, but `attempts`; waits double from `first_wait` up to `longest_wait`."""

    attempts: int = 5
    first_wait: float = 0.5
    longest_wait: float = 30.0
    reply_timeout: float = 300.0

    def wait(self, failures: int, retry_after: float | None) -> float:
        """Before the next attempt after `failures` ones: what the server asks for, else doubled and jittered."""
        if retry_after is not None:
            return min(retry_after, self.longest_wait)
        ceiling = min(self.first_wait * 2.0 ** (failures - 1), self.longest_wait)
        return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries, hides nothing


class Meter(Protocol):
    """Told of each attempt, so that somebody can count what it may cost."""

    async def before(self) -> None:
        """An attempt is about to be sent. What it raises is raised by `post`, and nothing is sent."""

    async def failed(self, *, maybe_paid: bool) -> None:
        """It gave no reply. maybe_paid: the server may have worked for it all the same."""


class _Retry(Exception):  # noqa: N818 - not an error by itself
    """This attempt failed in a way that may pass. `after`: seconds, if the server named them."""

    def __init__(self, error: ModelError, after: float | None = None, *, maybe_paid: bool = True) -> None:
        super().__init__()
        self.error = error
        self.after = after
        self.maybe_paid = maybe_paid


class Client:
    """An open connection to one endpoint; at most `concurrency` requests at a time. Use as `async with`."""

    def __init__(self, endpoint: Endpoint, concurrency: int, patience: Patience, sleep: Sleep = asyncio.sleep) -> None:
        self.endpoint = endpoint
        self._patience = patience
        self._slots = asyncio.Semaphore(concurrency)
        self._sleep = sleep
        self._session = _open_session(endpoint.api_key, patience.reply_timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def post(
        self, path: str, body: bytes, headers: Mapping[str, str] | None = None, meter: Meter | None = None
    ) -> tuple[bytes, Mapping[str, str]]:
        """The reply's body and headers; `path` is relative to the base URL, or to the server if it begins with a slash.

        Tried again, after a wait, where the failure may pass. Raises ModelError.
        """
        url = join(self.endpoint.base_url, path)
        async with self._slots:
            for failures in range(1, self._patience.attempts + 1):
                try:
                    return await self._attempt(url, body, headers or {}, meter)
                except _Retry as retry:
                    if failures == self._patience.attempts:
                        raise retry.error from None
                    await self._sleep(self._patience.wait(failures, retry.after))
        raise AssertionError("there is at least one attempt")

    async def _attempt(
        self, url: str, body: bytes, headers: Mapping[str, str], meter: Meter | None
    ) -> tuple[bytes, Mapping[str, str]]:
        if meter is not None:
            await meter.before()
        try:
            return await self._send(url, body, headers)
        except _Retry as retry:
            if meter is not None:
                await meter.failed(maybe_paid=retry.maybe_paid)
            raise
        except RefusedRequestError:
            if meter is not None:
                await meter.failed(maybe_paid=False)
            raise

    async def _send(self, url: str, body: bytes, headers: Mapping[str, str]) -> tuple[bytes, Mapping[str, str]]:
        try:
            async with self._session.post(url, data=body, headers=headers) as reply:
                raw = await reply.read()
        except TimeoutError:
            seconds = self._patience.reply_timeout
            raise _Retry(UnreachableError(f"{url}: no reply within {seconds:g} s: lower the concurrency")) from None
        except aiohttp.ClientConnectorError as error:
            raise _Retry(_unreachable(url, error), maybe_paid=False) from None
        except aiohttp.ClientError as error:
            raise _Retry(_unreachable(url, error)) from None
        if reply.status >= _FIRST_ERROR:
            raise _refused(url, reply, raw)
        return raw, reply.headers


async def first_model(base_url: str, api_key: str | None, reply_timeout: float) -> str:
    """The first model that the endpoint lists under its own name (no `@variant`). ModelError."""
    url = join(base_url, "models")
    names = await listed_models(base_url, api_key, reply_timeout)
    if not names:
        raise UnparsableReplyError(f"{url}: it lists no model: name one with --model")
    return names[0]


async def listed_models(base_url: str, api_key: str | None, reply_timeout: float) -> list[str]:
    """The models that the endpoint lists under their own names (no `@variant`). ModelError."""
    url = join(base_url, "models")
    try:
        async with _open_session(api_key, reply_timeout) as session, session.get(url) as reply:
            raw = await reply.read()
    except (TimeoutError, aiohttp.ClientError) as error:
        raise _unreachable(url, error) from None
    if reply.status >= _FIRST_ERROR:
        raise RefusedRequestError(f"{url}: status {reply.status}: {_server_message(raw)}", reply.status)
    return _model_names(raw)


def join(base_url: str, path: str) -> str:
    """The URL of `path`: after the base URL, or, if it begins with a slash, after the base URL without its /v1."""
    base = base_url.rstrip("/")
    return f"{base.removesuffix('/v1')}{path}" if path.startswith("/") else f"{base}/{path}"


def _unreachable(url: str, error: BaseException) -> UnreachableError:
    return UnreachableError(f"{url}: {type(error).__name__}: is the server running, and the address right?")


def _open_session(api_key: str | None, timeout: float) -> aiohttp.ClientSession:
    headers = {"Content-Type": "application/json"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    # Servers close idle connections after a few seconds; reusing an older one would race them.
    connector = aiohttp.TCPConnector(keepalive_timeout=3, limit=0)
    return aiohttp.ClientSession(
        connector=connector,
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=min(timeout, 10)),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _refused(url: str, reply: aiohttp.ClientResponse, raw: bytes) -> RefusedRequestError | _Retry:
    error = RefusedRequestError(f"{url}: status {reply.status}: {_server_message(raw)}", reply.status)
    if reply.status == _TOO_MANY_REQUESTS or reply.status >= _FIRST_SERVER_ERROR:
        busy = reply.status == _TOO_MANY_REQUESTS
        return _Retry(error, _seconds(reply.headers.get("Retry-After")), maybe_paid=not busy)
    return error


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After in seconds; the date form counts as not given."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _server_message(raw: bytes) -> str:
    """What the server says in OpenAI's error shape, short."""
    try:
        message = orjson.loads(raw)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return "no explanation given"
    return str(message)[:_LONGEST_MESSAGE]


def _model_names(raw: bytes) -> list[str]:
    try:
        listed = [str(model["id"]) for model in orjson.loads(raw)["data"]]
    except (ValueError, KeyError, TypeError):
        return []
    return [name for name in listed if "@" not in name]
