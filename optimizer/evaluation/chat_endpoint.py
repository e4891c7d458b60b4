"""A client of a chat endpoint, for the command `eval`. It sends a conversation and returns one answer.

This module builds the requests and reads the replies. optimizer.models.http_client sends the requests.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import orjson

from index.model_names import VARIANT_HEADER
from index.types import Message
from optimizer.core.errors import UnparsableReplyError
from optimizer.models.http_client import Client, Endpoint, RetryPolicy, Sleep
from optimizer.models.reply_text import message_text
from optimizer.models.token_count import token_usage


@dataclass(frozen=True, slots=True)
class Decoding:
    """The decoding parameters that a request contains. The bundle or the server decides all other parameters."""

    max_tokens: int = 256
    temperature: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of an endpoint.

    Attributes:
        text: The text of the answer.
        finish_reason: The finish reason that the server gives; empty if it gives none.
        prompt_tokens: Tokens of the prompt; 0 if the server does not count them.
        completion_tokens: Tokens of the answer; 0 if the server does not count them.
        examples: Ids of the examples that the proxy injected; empty for other servers.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    examples: tuple[str, ...] = ()


class ChatEndpoint:
    """A client of one chat endpoint, with a limit on concurrent requests. Use it as an async context manager."""

    def __init__(
        self,
        endpoint: Endpoint,
        decoding: Decoding,
        concurrency: int,
        patience: RetryPolicy,
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
        """Send a conversation, and return the answer to it.

        Args:
            messages: The conversation.
            variant: The value of the header x-drpo-variant; None sends no header.

        Raises:
            ModelError: The endpoint gives no usable answer.
        """
        body = {
            "model": self._client.endpoint.model,
            "messages": [{"role": message.role, "content": message.text} for message in messages],
            "max_tokens": self._decoding.max_tokens,
            "temperature": self._decoding.temperature,
        }
        headers = {VARIANT_HEADER: variant} if variant else {}
        raw, reply_headers = await self._client.post("chat/completions", orjson.dumps(body), headers)
        return parse_answer(raw, reply_headers.get("x-drpo-examples", ""))


def parse_answer(raw: bytes, examples: str) -> Answer:
    """Read the first choice of a chat completion.

    Args:
        raw: The body of the reply.
        examples: The header x-drpo-examples: ids, separated by commas.

    Raises:
        UnparsableReplyError: The body is not a chat completion.
    """
    try:
        reply = orjson.loads(raw)
        choice = reply["choices"][0]
        prompt_tokens, completion_tokens = token_usage(reply)
        return Answer(
            text=message_text(choice["message"]),
            finish_reason=str(choice.get("finish_reason") or ""),
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            examples=tuple(name for name in (part.strip() for part in examples.split(",")) if name),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        reason = "the reply is not a chat completion. Check that the base URL is that of an OpenAI-compatible server"
        raise UnparsableReplyError(reason) from None
