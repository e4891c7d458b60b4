"""Reads the conversation in the body of a request: its messages, or the input items of the Responses API.

A body is read once, into a `Conversation`, even if the body is not valid. `check_messages` and `check_input` raise an
error if the proxy cannot use the messages or the items. The backend checks everything else in the body. The module does
not depend on models or bundles.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, ParamSpec, TypeVar
from zlib import crc32

from proxy.core.errors import BadRequestError
from proxy.core.json_types import Json
from proxy.openai.chat_applications import is_background, question
from proxy.openai.message_text import are_plain_texts, has_words, is_empty, message_text

_MAX_KEY_CHARACTERS: Final = 2_000  # Conversation.key depends on at most this many characters of the first user message
_TEMPLATE_MARKS: Final = "\n<|start|>assistant\n\n"
"""A filler for the marks that a chat template puts around a message, so that token counts include such marks.

Only the length of this text matters.
"""
_SYSTEM_ROLES: Final = ("system", "developer")
_FIRST_ROLES: Final = ("user", *_SYSTEM_ROLES)
_MAX_SHORT_MESSAGES: Final = 200
_MAX_SHORT_CHARACTERS: Final = 100_000
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Conversation:
    """The body of a request, and the conversation in it.

    Attributes:
        body: The JSON object.
        messages: The messages of a chat request, or the input items of a request to the Responses API. Values that are
            not objects are left out.
        opening: The text of the first user message, without documents that a chat application added; empty if there
            is none. All requests of a conversation have the same opening.
        is_background: Whether a chat client sent the request on its own, for a title or a suggestion for example.
    """

    body: Json = field(repr=False)
    messages: Sequence[Json] = field(repr=False)
    opening: str = field(repr=False)
    is_background: bool = False

    @property
    def key(self) -> str | None:
        """A checksum of the opening, which is the same in all requests of a conversation; None if the opening is empty.

        Requests with the same key go to the same backend where possible. If two conversations have the same key by
        chance, they share a backend, which does no harm. The key is short, because the proxy keeps it in memory
        until the answer ends.
        """
        if not self.opening:
            return None
        return f"{crc32(self.opening[:_MAX_KEY_CHARACTERS].encode('utf-8', 'surrogatepass')):08x}"

    @property
    def is_first_turn(self) -> bool:
        """Whether the model has not answered yet in this conversation: there are only user and system messages."""
        return _is_first_turn(self.turns)

    @property
    def turns(self) -> Sequence[Json]:
        """The messages without the empty assistant messages at the end, which count as if they were not there."""
        # With continue_final_message, the model continues the last message, so this message stays even if it is empty.
        return self.messages if self.body.get("continue_final_message") else _without_empty_end(self.messages)

    @property
    def queries(self) -> Sequence[str]:
        """The texts that choose the examples: those of the user messages that contain words, in their order.

        Documents that a chat application added are left out, so a message has the same text in all later requests of
        the conversation.
        """
        contents = [message.get("content") for message in self.messages if message.get("role") == "user"]
        if are_plain_texts(contents):  # the usual case: each text has words, and no documents were added to it
            return contents
        texts = [question(message_text(message)) for message in self.messages if message.get("role") == "user"]
        return [text for text in texts or (self.opening,) if has_words(text)]

    @property
    def is_long(self) -> bool:
        """Whether the conversation has more than 200 messages, or more than 100,000 characters.

        Work on all messages of such a conversation runs on a thread, because it would block the event loop for too
        long.
        """
        messages = self.messages
        if len(messages) > _MAX_SHORT_MESSAGES:
            return True
        return sum([len(message_text(message)) for message in messages]) > _MAX_SHORT_CHARACTERS


def read_chat(body: Json) -> Conversation:
    """Return the conversation of a chat request."""
    given = body.get("messages")
    return _read(body, given if isinstance(given, list) else ())


def read_response(body: Json) -> Conversation:
    """Return the conversation of a request to the Responses API."""
    given, instructions = body.get("input"), body.get("instructions")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    return _read(body, items if isinstance(items, list) else (), instructions if isinstance(instructions, str) else "")


def read_completion(body: Json) -> Conversation:
    """Return the conversation of a text completion request. It has no messages and no opening."""
    return Conversation(body, (), "")


def _read(body: Json, given: Sequence[object], instructions: str = "") -> Conversation:
    messages = [message for message in given if isinstance(message, dict)]
    return Conversation(body, messages, _opening(messages), _is_background(_without_empty_end(messages), instructions))


def _is_background(messages: Sequence[Json], instructions: str) -> bool:
    """Return whether the request is a background request of a chat client (see proxy/openai/chat_applications.py)."""
    if not messages or messages[-1].get("role") not in ("user", *_SYSTEM_ROLES):
        return False
    has_system = len(messages) > 1 and messages[0].get("role") in _SYSTEM_ROLES
    system = message_text(messages[0]) if has_system else instructions
    return is_background(
        system,
        message_text(messages[-1]),
        is_single=len(messages) == 1 + has_system,
        is_first_turn=_is_first_turn(messages),
    )


def _is_first_turn(messages: Sequence[Json]) -> bool:
    return all(message.get("role") in _FIRST_ROLES for message in messages)


def _without_empty_end(messages: Sequence[Json]) -> Sequence[Json]:
    """Return the messages without the empty assistant messages at the end, but at least one message.

    Some clients append an empty assistant message as a placeholder for the answer.
    """
    if not messages or messages[-1].get("role") != "assistant":  # the usual case
        return messages
    end = len(messages)
    while end > 1 and messages[end - 1].get("role") == "assistant" and is_empty(messages[end - 1]):
        end -= 1
    return messages if end == len(messages) else messages[:end]


def _opening(messages: Sequence[Json]) -> str:
    for message in messages:
        if message.get("role") == "user":
            return question(message_text(message))
    return ""


def check_messages(conversation: Conversation) -> None:
    """Raise BadRequestError unless `messages` of a chat request is a list of at least one object."""
    given = conversation.body.get("messages")
    if not isinstance(given, list) or not given:
        raise BadRequestError("`messages` must be a list of at least one message.", param="messages")
    if len(given) != len(conversation.messages):
        number = next(number for number, message in enumerate(given) if not isinstance(message, dict))
        raise BadRequestError(f"messages[{number}] must be an object with `role` and `content`.", param="messages")


def check_input(conversation: Conversation) -> None:
    """Raise BadRequestError unless `input` is absent, a string, or a list of at least one object.

    A request may have no `input`, because a prompt that is stored at the backend may contain the input.
    """
    given = conversation.body.get("input")
    if given is None or isinstance(given, str):
        return
    if not isinstance(given, list) or not given or len(given) != len(conversation.messages):
        raise BadRequestError("`input` must be a string or a list of at least one item.", param="input")


def joined_text(messages: Sequence[Json]) -> str:
    """Return the text of all messages. Each begins with _TEMPLATE_MARKS, a filler for what a chat template adds."""
    return "".join(f"{_TEMPLATE_MARKS}{message_text(message)}" for message in messages)


async def offload(
    is_long: bool,
    function: Callable[_Arguments, _Result],
    *arguments: _Arguments.args,
    **named: _Arguments.kwargs,
) -> _Result:
    """Call a function. If `is_long` is true, the function runs on a thread and does not block the event loop."""
    return await asyncio.to_thread(function, *arguments, **named) if is_long else function(*arguments, **named)
