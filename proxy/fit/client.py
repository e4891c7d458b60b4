"""Asks one question through the served HTTP interface, as a user's client does, and returns the answer or a failure."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final, Self

import aiohttp
import orjson

from index.model_names import VARIANT_HEADER
from proxy.core.errors import ProxyError
from proxy.fit.arms import Arm
from proxy.fit.questions import Question, wire_messages
from proxy.inference.reduction import RETRIEVAL_FAILURES
from proxy.inference.reply_progress import token_count
from proxy.openai.sse import EventSplitter, event_data, is_done, parse_object, split_events

MAX_ANSWER_TOKENS: Final = 128
PAUSES: Final = (1.0, 2.0, 4.0)  # seconds before the second, third and fourth attempt
_RATE_LIMITED: Final = 429
_RETRIED: Final = (408, _RATE_LIMITED, 502, 503, 504)
_MAX_RETRY_AFTER: Final = 30.0  # seconds
_MAX_REASON_CHARACTERS: Final = 300
_LIMIT_FIELDS: Final = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer.

    Attributes:
        text: The text of the answer.
        finish_reason: Why the answer ended; empty if the server did not say it.
        prompt_tokens: The number of tokens of the prompt; None if the server did not report it.
        cached_tokens: The number of prompt tokens that the prefix cache had; None if the server did not report it.
        first_token: Seconds from sending the request to the first text of the answer, or to its end if it has no text.
        degraded: Why retrieval failed for this request; None if it did not fail.
    """

    text: str
    finish_reason: str
    prompt_tokens: int | None
    cached_tokens: int | None
    first_token: float
    degraded: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that got no complete answer.

    Attributes:
        status: The HTTP status; None if the reply broke off or the connection failed.
        reason: The message of the server.
        retry_after: The number of seconds to wait before another attempt (`Retry-After`); None if the server names no
            number.
    """

    status: int | None
    reason: str
    retry_after: float | None = None

    @property
    def is_temporary(self) -> bool:
        """Whether another attempt may succeed.

        No other attempt helps after a status from 400 to 499, except 408 and 429: the server refuses the request.
        """
        return self.status is None or self.status in _RETRIED or self.status >= ProxyError.status


Outcome = Answer | Failure


@dataclass(slots=True)
class Client:
    """Sends the questions of one run.

    Attributes:
        session: The HTTP session.
        urls: The base URL of each arm, by its name.
        model: The id of the model.
        salts: The `cache_salt` of each arm, by its name; empty if the server does not know this field. Arms with
            different salts do not find each other's prompts in the prefix cache.
        pauses: Seconds before each further attempt to ask a question.
        limit_field: The name of the field for the length limit that the server accepts.
        is_answering: Whether the last question ended with an answer or a refusal (such as status 400), and not with a
            temporary failure. While it is False, a failed request is tried again only after status 429.
    """

    session: aiohttp.ClientSession
    urls: Mapping[str, str]
    model: str
    salts: Mapping[str, str] = field(default_factory=dict)
    pauses: Sequence[float] = PAUSES
    limit_field: str = _LIMIT_FIELDS[0]
    is_answering: bool = True

    @classmethod
    @asynccontextmanager
    async def open(
        cls, urls: Mapping[str, str], model: str, salts: Mapping[str, str], pauses: Sequence[float] = PAUSES
    ) -> AsyncIterator[Self]:
        """Yield a client. Its requests have no timeout: the proxy itself ends a request whose backend is silent."""
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:
            yield cls(session, urls, model, salts, pauses)

    async def ask(self, arm: Arm, question: Question) -> Outcome:
        """Ask a question in an arm. If the failure is temporary, try again after each pause."""
        outcome = await self._ask_with_known_limit(arm, question)
        for pause in self.pauses:
            if isinstance(outcome, Answer) or outcome.status not in _RETRIED:
                break
            if not self.is_answering and outcome.status != _RATE_LIMITED:
                break
            await asyncio.sleep(min(outcome.retry_after or pause, _MAX_RETRY_AFTER))
            outcome = await self._ask_once(arm, question)
        self.is_answering = isinstance(outcome, Answer) or not outcome.is_temporary
        return outcome

    async def _ask_with_known_limit(self, arm: Arm, question: Question) -> Outcome:
        """Ask once. If the server does not know `max_tokens`, ask again with `max_completion_tokens`."""
        used, other = self.limit_field, _LIMIT_FIELDS[1]
        outcome = await self._ask_once(arm, question)
        if isinstance(outcome, Failure) and used != other and other in outcome.reason:
            self.limit_field = other
            return await self._ask_once(arm, question)
        return outcome

    async def _ask_once(self, arm: Arm, question: Question) -> Outcome:
        body = orjson.dumps(self._body(arm, question))
        headers = {"Content-Type": "application/json", VARIANT_HEADER: arm.variant}
        started = perf_counter()
        try:
            url = f"{self.urls[arm.name]}/chat/completions"
            async with self.session.post(url, data=body, headers=headers) as response:
                if response.status != 200:
                    return _failure(response.status, await response.read(), response.headers.get("Retry-After"))
                reader = _ReplyReader(started)
                async for data in response.content.iter_any():
                    reader.feed(data)
                return reader.outcome(response.content_type, _failed_retrieval(response.headers))
        except (aiohttp.ClientError, ConnectionError, TimeoutError, ProxyError) as error:
            return Failure(None, f"the reply broke off ({str(error) or type(error).__name__})"[:_MAX_REASON_CHARACTERS])

    def _body(self, arm: Arm, question: Question) -> Mapping[str, object]:
        body = {
            "model": self.model,
            "messages": wire_messages(question),
            self.limit_field: MAX_ANSWER_TOKENS,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        salt = self.salts.get(arm.name)
        return {**body, "cache_salt": salt} if salt else body


def _failed_retrieval(headers: Mapping[str, str]) -> str | None:
    """Return why retrieval failed for this reply; None if it did not fail."""
    reasons = headers.get("x-drpo-reduced", "").split(", ")
    return next((reason for reason in RETRIEVAL_FAILURES if reason in reasons), None)


def _failure(status: int, data: bytes, retry_after: str | None) -> Failure:
    payload = parse_object(data)
    seconds = float(retry_after) if retry_after and retry_after.isdecimal() else None
    return Failure(status, _reason(payload.get("error", payload)), seconds)


def _reason(error: object) -> str:
    """Return the message of an error in OpenAI's format, on one line."""
    message = error.get("message") if isinstance(error, dict) else error
    text = message if isinstance(message, str) and message else "no reason given"
    return " ".join(text.split())[:_MAX_REASON_CHARACTERS]


class _ReplyReader:
    """Collects the text, the end and the token counts of one reply: of a stream, or of a single JSON object."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._splitter = EventSplitter()
        self._raw = b""
        self._pieces: list[str] = []
        self._finish_reason = ""
        self._usage: Mapping[str, Any] = {}
        self._first: float | None = None
        self._error: Failure | None = None
        self._is_done = False

    def feed(self, data: bytes) -> None:
        """Read a part of the reply."""
        self._raw = self._raw + data if len(self._raw) < 1024 * 1024 else self._raw
        for event in split_events(self._splitter.feed(data)):
            self._is_done = self._is_done or is_done(event)
            self._read(parse_object(event_data(event)))

    def outcome(self, content_type: str, degraded: str | None) -> Outcome:
        """Return the answer, or why there is none."""
        if content_type != "text/event-stream":
            self._read(parse_object(self._raw))
        if self._error is not None:
            return self._error
        if not self._finish_reason and not self._is_done:
            return Failure(None, "the reply ended before the answer was complete")
        first = self._first if self._first is not None else perf_counter() - self._started
        details = self._usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        prompt = token_count(self._usage.get("prompt_tokens"))
        return Answer("".join(self._pieces), self._finish_reason, prompt, token_count(cached), first, degraded)

    def _read(self, payload: Mapping[str, Any]) -> None:
        if payload.get("error"):
            self._error = Failure(None, _reason(payload["error"]))
        if isinstance(payload.get("usage"), dict):
            self._usage = payload["usage"]
        choices = payload.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                self._read_choice(choice)

    def _read_choice(self, choice: Mapping[str, Any]) -> None:
        message = choice.get("delta") or choice.get("message")
        text = message.get("content") if isinstance(message, dict) else None
        if isinstance(text, str) and text:
            self._first = self._first if self._first is not None else perf_counter() - self._started
            self._pieces.append(text)
        if isinstance(choice.get("finish_reason"), str):
            self._finish_reason = choice["finish_reason"]
