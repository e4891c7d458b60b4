"""What of a request's body is conversation: its messages or input items, and their text. Knows no model.

Strict only where the proxy itself builds on the form; for the rest the backend judges.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, ParamSpec, TypeVar
from zlib import crc32

from index.retrieval.retriever import MAX_QUERY_CHARACTERS
from proxy.core.errors import BadRequestError
from proxy.core.json_types import Json

_AROUND: Final = "\n<|start|>assistant\n\n"  # of the length of a template's marks, for counting alone

_MANY: Final = 200  # messages
_LONG: Final = 100_000  # characters of one
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def is_long(messages: Sequence[Json]) -> bool:
    """Whether a conversation is so long that all others would wait for what is done with it."""
    return len(messages) > _MANY or max(map(len, map(_loose_text, messages)), default=0) > _LONG


async def aside(
    long: bool,
    function: Callable[_Arguments, _Result],
    *arguments: _Arguments.args,
    **named: _Arguments.kwargs,
) -> _Result:
    """The function's result; worked out on a thread where that is for a long conversation."""
    return await asyncio.to_thread(function, *arguments, **named) if long else function(*arguments, **named)


def chat_messages(body: Json) -> list[Json]:
    """The messages of a chat request. Raises BadRequestError."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequestError("`messages` must be a list of at least one message.", param="messages")
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            raise BadRequestError(f"messages[{number}] must be an object with `role` and `content`.", param="messages")
    return messages


def first_user_text(messages: Sequence[Json]) -> str:
    """The text of the first user turn; empty if there is none."""
    for message in messages:
        if message.get("role") == "user":
            return _loose_text(message)
    return ""


def joined_text(messages: Sequence[Json]) -> str:
    """All text of a conversation, with about as much around each message as a chat template puts there."""
    return "".join(f"{_AROUND}{_loose_text(message)}" for message in messages)


def _loose_text(message: Json) -> str:
    """The text of a message, whatever else it holds: retrieval looks at words, the backend judges the rest."""
    content = message.get("content")
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def conversation_key(first: str) -> str | None:
    """What a conversation is known by in all its turns, from the text of its first user turn; None if there is none.

    A checksum, and short: those that share one share a server, no more, and it is kept while an answer streams.
    """
    if not first:
        return None
    return f"{crc32(first[:MAX_QUERY_CHARACTERS].encode('utf-8', 'surrogatepass')):08x}"


def loose_messages(body: Json) -> list[Json]:
    """The conversation of either kind of request, as far as it is one; what is wrong with it is said elsewhere."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        return loose_items(body)
    return [message for message in messages if isinstance(message, dict)]


def loose_items(body: Json) -> list[Json]:
    """The input as far as it is a conversation; what is wrong with it the backend says."""
    given = body.get("input")
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    return [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []


def input_items(body: Json) -> list[Json]:
    """The input as a list of items; none where there is none (a stored prompt may have it: the backend judges)."""
    given = body.get("input")
    if given is None:
        return []
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        raise BadRequestError("`input` must be a string or a list of at least one item.", param="input")
    return items
