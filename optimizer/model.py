"""An async client of any OpenAI-compatible chat endpoint: messages in, one answer out.

Knows HTTP, time limits and retries; knows nothing of what is asked, and keeps nothing. The only place of the optimizer
that touches the network.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import aiohttp
import orjson

from index.types import Message
from optimizer.errors import ModelError, RefusedRequestError, UnparsableReplyError, UnreachableError

VARIANT_HEADER = "x-drpo-variant"
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
class Decoding:
    """What the client states about decoding; everything else is left to the bundle or the server."""

    max_tokens: int = 256
    temperature: float = 0.0


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


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. `finish_reason` as the server gives it; tokens are 0 where it does not count them.

    `examples`: the ids that the proxy says it showed (empty elsewhere).
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    examples: tuple[str, ...] = ()


class _Retry(Exception):  # noqa: N818 - not an error by itself
    """This attempt failed in a way that may pass. `after`: seconds, if the server named them."""

    def __init__(self, error: ModelError, after: float | None = None) -> None:
        super().__init__()
        self.error = error
        self.after = after


class Model:
    """An open connection to one endpoint; at most `concurrency` requests at a time. Use as `async with`."""

    def __init__(
        self,
        endpoint: Endpoint,
        decoding: Decoding,
        concurrency: int,
        patience: Patience,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._endpoint = endpoint
        self._decoding = decoding
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

    async def complete(self, messages: Sequence[Message], variant: str | None = None) -> Answer:
        """The answer to `messages`. `variant`: sent as x-drpo-variant, if any. ModelError."""
        body = {
            "model": self._endpoint.model,
            "messages": [{"role": message.role, "content": message.text} for message in messages],
            "max_tokens": self._decoding.max_tokens,
            "temperature": self._decoding.temperature,
        }
        headers = {VARIANT_HEADER: variant} if variant else {}
        async with self._slots:
            return await self._with_retries(lambda: self._post(body, headers))

    async def _with_retries(self, attempt: Callable[[], Awaitable[Answer]]) -> Answer:
        for failures in range(1, self._patience.attempts):
            try:
                return await attempt()
            except _Retry as retry:
                await self._sleep(self._patience.wait(failures, retry.after))
        try:
            return await attempt()
        except _Retry as retry:
            raise retry.error from None

    async def _post(self, body: Mapping[str, object], headers: Mapping[str, str]) -> Answer:
        url = _join(self._endpoint.base_url, "chat/completions")
        try:
            async with self._session.post(url, data=orjson.dumps(body), headers=headers) as reply:
                raw = await reply.read()
        except TimeoutError:
            seconds = self._patience.reply_timeout
            raise _Retry(UnreachableError(f"{url}: no reply within {seconds:g} s: lower --concurrency")) from None
        except aiohttp.ClientError as error:
            reason = f"{url}: {type(error).__name__}: is the server running, and the address right?"
            raise _Retry(UnreachableError(reason)) from None
        if reply.status >= _FIRST_ERROR:
            raise _refused(url, reply, raw)
        return parse_answer(raw, reply.headers.get("x-drpo-examples", ""))


async def first_model(base_url: str, api_key: str | None, reply_timeout: float) -> str:
    """The first model that the endpoint lists under its own name (no `@variant`). ModelError."""
    url = _join(base_url, "models")
    try:
        async with _open_session(api_key, reply_timeout) as session, session.get(url) as reply:
            raw = await reply.read()
    except (TimeoutError, aiohttp.ClientError) as error:
        reason = f"{url}: {type(error).__name__}: is the server running, and the address right?"
        raise UnreachableError(reason) from None
    if reply.status >= _FIRST_ERROR:
        raise RefusedRequestError(f"{url}: status {reply.status}: {_server_message(raw)}", reply.status)
    names = _model_names(raw)
    if not names:
        raise UnparsableReplyError(f"{url}: it lists no model: name one with --model")
    return names[0]


def parse_answer(raw: bytes, examples: str) -> Answer:
    """A chat completion's first choice. `examples`: ids, separated by commas. UnparsableReplyError."""
    try:
        reply = orjson.loads(raw)
        choice = reply["choices"][0]
        usage = reply.get("usage") or {}
        return Answer(
            text=choice["message"]["content"] or "",
            finish_reason=choice["finish_reason"] or "",
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
            examples=tuple(name for name in (part.strip() for part in examples.split(",")) if name),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        reason = "the reply is not a chat completion: is this the base URL of an OpenAI-compatible server?"
        raise UnparsableReplyError(reason) from None


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


def _join(base_url: str, path: str) -> str:
    return f"{base_url.rstrip('/')}/{path}"


def _refused(url: str, reply: aiohttp.ClientResponse, raw: bytes) -> RefusedRequestError | _Retry:
    error = RefusedRequestError(f"{url}: status {reply.status}: {_server_message(raw)}", reply.status)
    if reply.status == _TOO_MANY_REQUESTS or reply.status >= _FIRST_SERVER_ERROR:
        return _Retry(error, _seconds(reply.headers.get("Retry-After")))
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
