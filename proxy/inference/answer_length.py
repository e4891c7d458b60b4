"""Lowers max_tokens if the client's request fits into the context, but does not fit together with the injection.

A model server rejects a request whose prompt and max_tokens together exceed the model's context. If only the injection
causes this, max_tokens is lowered by as much as necessary. If the client's own request does not fit, its max_tokens
stays as it is, and the backend answers with its own error. The module does not depend on layouts.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from index.rendering import render_raw
from index.types import Message
from proxy.backends.discovery import Model
from proxy.core.json_types import Json, JsonDict
from proxy.inference.injection.injection import Injection
from proxy.inference.injection.injector import Injector, answer_tokens
from proxy.inference.injection.token_budget import max_token_count
from proxy.inference.request_bodies import chat_request
from proxy.inference.setting import Setting
from proxy.openai.conversation import Conversation
from proxy.openai.json_fields import encode, whole_number
from proxy.openai.message_text import other_parts

TOKENS_PER_MARK: Final = 8
"""An upper bound of the tokens that a layout or a chat template writes around one message."""
_MAX_PART_TOKENS: Final = 2_000
"""The number of tokens that an image, or another part that is not text, seldom exceeds."""
_LIMIT_FIELDS: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens")

Count = Callable[[], Awaitable[int | None]]
"""A function that lets the backend count the tokens of a prompt. It returns None if the backend cannot count."""


@dataclass(frozen=True, slots=True)
class PromptSize:
    """The size of a rendered request in tokens.

    Attributes:
        injected: The number of tokens of the injected prompt and examples.
        marks: An upper bound of the tokens of the marks that separate messages.
        bound: An upper bound of all tokens of the prompt.
        reserved: The number of tokens that the choice of examples has kept free for the answer.
        count: Counts the tokens of the prompt.
        count_raw: Counts the tokens of the prompt without the parts that the proxy added.
    """

    injected: int
    marks: int
    bound: int
    reserved: int
    count: Count
    count_raw: Count

    async def total(self) -> int | None:
        """Return the exact number of tokens; None if the backend cannot count.

        The result is also None if the count is less than half of the injected tokens, because it then misses a part of
        the prompt.
        """
        total = await self.count()
        return None if total is None or total < self.injected // 2 else total


async def lowered_limit(asked: int, context: int | None, size: PromptSize) -> int:
    """Return the max_tokens for the backend: the client's, or a smaller number if the prompt fits only then.

    Args:
        asked: The client's max_tokens.
        context: The length of the model's context in tokens. If it is None (unknown), nothing is lowered.
        size: The size of the prompt.
    """
    if context is None or size.bound + asked <= context:
        return asked
    total = await size.total()
    if total is None:  # Lower the limit by the whole injection: the request then fits if the client's own request fits.
        return min(asked, max(asked - size.injected - size.marks, size.reserved, 1))
    excess = total + asked - context
    if excess <= 0 or total >= context:
        return asked
    if excess > size.injected:  # The client's request may be too long even without the injection.
        raw = await size.count_raw()
        if raw is None or raw + asked > context:
            return asked
    return context - total


async def fitted_default(default: int, context: int | None, size: PromptSize) -> int | None:
    """Return the max_tokens for a chat request of a client that sets none; None if the server must choose it.

    A server chooses the number of tokens that remain in the context.

    Args:
        default: The bundle's max_tokens.
        context: The length of the model's context in tokens; None if unknown.
        size: The size of the prompt.
    """
    if context is None or size.bound + default <= context:
        return default
    total = await size.total()
    return default if total is not None and total + default <= context else None


def with_limit(body: Mapping[str, Any], limit: int) -> JsonDict:
    """Return the body of a request with at most `limit` in each field that limits the length of the answer.

    `min_tokens` is lowered too, because servers reject a minimum that is larger than the maximum.
    """
    lowered = {name: limit for name in (*_LIMIT_FIELDS, "min_tokens") if _count_of(body.get(name)) > limit}
    return {**body, **lowered}


def asked_limit(body: Json) -> int | None:
    """Return the client's limit of the answer in tokens; None if it sets no limit that is a positive integer."""
    for name in _LIMIT_FIELDS:
        if (limit := body.get(name)) is not None:
            return _count_of(limit) or None
    return None


def _count_of(value: object) -> int:
    """Return a positive whole number as an integer, and 0 for any other value."""
    return max(0, whole_number(value) or 0)


@dataclass(frozen=True, slots=True)
class AnswerLimiter:
    """Sets the limit of the answer in the body of a request to a backend. Each method returns the changed body.

    Attributes:
        injector: Counts tokens.
    """

    injector: Injector

    async def limit_text(
        self, sent: JsonDict, body: Json, setting: Setting, injection: Injection, turns: Sequence[Message], client: str
    ) -> JsonDict:
        """Lower the client's max_tokens in a request for a text completion, if necessary.

        Args:
            sent: The body for the backend, with the prompt.
            body: The client's body.
            setting: The model and the bundle.
            injection: The injection.
            turns: The client's messages.
            client: The client's part of the prompt.
        """
        asked, model, served = asked_limit(body), setting.model, setting.served
        bound = injection.tokens + max_token_count(client)
        if asked is None or served is None or model.context is None or bound + asked <= model.context:
            return sent
        size = PromptSize(
            injected=injection.tokens,
            marks=TOKENS_PER_MARK * (len(turns) + 1),
            bound=bound,
            reserved=answer_tokens(body, served),
            count=partial(self.injector.count, model, sent["prompt"]),
            count_raw=partial(self.injector.count, model, render_raw(turns)),
        )
        return with_limit(sent, await lowered_limit(asked, model.context, size))

    async def limit_chat(
        self, sent: JsonDict, conversation: Conversation, setting: Setting, injection: Injection | None, client: str
    ) -> JsonDict:
        """Lower max_tokens in a request to a chat model, if necessary.

        The max_tokens that is lowered is the client's. If the client sets none, it is the bundle's.

        Args:
            sent: The body for the backend, a chat request or a request to the Responses API.
            conversation: The client's body and messages.
            setting: The model and the bundle.
            injection: The injection; None if nothing is injected.
            client: The text of the client's messages, as `joined_text` returns it: before each message stands a filler,
                which is about as long as the marks that a chat template adds to a message.
        """
        body, served, model = conversation.body, setting.served, setting.model
        asked = asked_limit(body)
        limit = asked_limit(sent) if asked is None else asked
        if served is None or limit is None or model.context is None:
            return sent
        tokens, shown = (injection.tokens, len(injection.examples)) if injection else (0, 0)
        marks = TOKENS_PER_MARK * (2 * shown + 1)
        bound = tokens + marks + max_token_count(client) + _other_tokens(conversation)
        if bound + limit <= model.context:
            return sent
        counts = [self._chat_count(request, conversation, model, bound) for request in (sent, body)]
        size = PromptSize(tokens, marks, bound, answer_tokens(body, served), *counts)
        if asked is not None:
            return with_limit(sent, await lowered_limit(asked, model.context, size)) if injection else sent
        fitted = await fitted_default(limit, model.context, size)
        return sent if fitted is not None else {name: sent[name] for name in sent if name not in _LIMIT_FIELDS}

    def _chat_count(self, request: Json, conversation: Conversation, model: Model, bound: int) -> Count:
        """Return a function that counts the tokens of a request's prompt. Parts that are not text cannot be counted."""

        async def count() -> int | None:
            if other_parts(conversation.messages):
                return None
            return await self.injector.count_chat(model, chat_request(request), bound)

        return count


def _other_tokens(conversation: Conversation) -> int:
    """Return an upper bound of the tokens of tools, plus _MAX_PART_TOKENS for each part that is not text."""
    tools = conversation.body.get("tools")
    return _MAX_PART_TOKENS * other_parts(conversation.messages) + (len(encode({"tools": tools})) if tools else 0)
