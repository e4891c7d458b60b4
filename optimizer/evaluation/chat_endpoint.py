"""A chat endpoint as a function: messages in, one answer out. For `eval`, which measures whole endpoints. Knows how an
answer is asked for and read; the HTTP is in client.py.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import orjson

from index.types import Message
from optimizer.core.errors import UnparsableReplyError
from optimizer.models.http_client import Client, Endpoint, Patience, Sleep

VARIANT_HEADER = "x-drpo-variant"


@dataclass(frozen=True, slots=True)
class Decoding:
    """What the client states about decoding; everything else is left to the bundle or the server."""

    max_tokens: int = 256
    temperature: float = 0.0


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


class ChatEndpoint:
    """An open connection to one endpoint; at most `concurrency` requests at a time. Use as `async with`."""

    def __init__(
        self,
        endpoint: Endpoint,
        decoding: Decoding,
        concurrency: int,
        patience: Patience,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._decoding = decoding
        self._client = Client(endpoint, concurrency, patience, sleep)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    async def complete(self, messages: Sequence[Message], variant: str | None = None) -> Answer:
        """The answer to `messages`. `variant`: sent as x-drpo-variant, if any. ModelError."""
        body = {
            "model": self._client.endpoint.model,
            "messages": [{"role": message.role, "content": message.text} for message in messages],
            "max_tokens": self._decoding.max_tokens,
            "temperature": self._decoding.temperature,
        }
        headers = {VARIANT_HEADER: variant} if variant else {}
        raw, told = await self._client.post("chat/completions", orjson.dumps(body), headers)
        return parse_answer(raw, told.get("x-drpo-examples", ""))


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
