"""Computes digests of units and of conversations. The functions do not depend on HTTP requests or on the store.

A unit is a user or a conversation. The digest of a unit does not contain its name, and the digest of a conversation
does not contain its messages. All workers and replicas compute the same digests. The store hashes each digest once
more, with a random key of the store, and saves only the result.
"""

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Final

import orjson

from proxy.core.json_types import Json
from proxy.openai.conversation import Conversation

UNIT_HEADER: Final = "x-drpo-unit"
USER_HEADERS: Final = ("X-OpenWebUI-User-Id",)
"""The headers in which chat applications send the id of their user. They are read only if the operator trusts them."""
_MAX_NAME_LENGTH: Final = 200  # characters of a user's id
_PLACEHOLDER: Final = re.compile(r"\$?\{.*\}")
_DIGEST_BYTES: Final = 16
_PLAIN_MESSAGE_KEYS: Final = frozenset({"role", "content"})


def unit_name(headers: Mapping[str, str], *, trusts_user_headers: bool) -> str | None:
    """Return the unit that the headers of a request name; None if they name none.

    The header x-drpo-unit takes precedence. A value that is a placeholder, such as `{{USER_ID}}`, names nobody: a chat
    application sends it if it has no value for the placeholder.

    Args:
        headers: The headers of the request.
        trusts_user_headers: Whether the headers in USER_HEADERS are read. A value counts only if it is printable and
            has at most 200 characters.
    """
    named = headers.get(UNIT_HEADER)
    if named and not _PLACEHOLDER.fullmatch(named):
        return named
    if not trusts_user_headers:
        return None
    return next((user for name in USER_HEADERS if _is_user_id(user := headers.get(name, ""))), None)


def _is_user_id(value: str) -> bool:
    return 0 < len(value) <= _MAX_NAME_LENGTH and value.isprintable() and not _PLACEHOLDER.fullmatch(value)


def named_unit(name: str) -> bytes:
    """Return the digest of a unit that a client named in a header or in the field `user`."""
    return _digest(b"name", name.encode("utf-8", "surrogatepass"))


def user_name(header: str | None, body: Json) -> str:
    """Return the user that a request names in a header, or else in the field `user` of its body; empty if none.

    Args:
        header: The unit that the headers name (see `unit_name`). None if they name none.
        body: Body of the request.
    """
    user = body.get("user")
    return header or (user if isinstance(user, str) else "")


def unit_of(user: str, key: str, opening: bytes) -> bytes:
    """Return the digest of a request's unit: the user, or else the conversation.

    Equal conversations of two client keys are two units. Conversations of one key that begin with the same question are
    one unit, because nothing shows whether one person sent them.

    Args:
        user: The user that the request names (see `user_name`).
        key: Name of the client's key, or the credentials that the client sent.
        opening: Digest of the conversation's opening (see `opening_digest`).
    """
    if user:
        return named_unit(user)
    return _digest(b"conversation", key.encode("utf-8", "surrogatepass"), opening)


def opening_digest(conversation: Conversation) -> bytes:
    """Return a digest of a conversation's opening, which is the same for all turns of the conversation.

    The opening is the text of the first user message. If this text is empty, the digest of the first message is used.
    """
    if conversation.opening:
        return _digest(b"opening", conversation.opening.encode("utf-8", "surrogatepass"))
    return _digest(b"messages", orjson.dumps(conversation.messages[:1]))


def conversation_digest(conversation: Conversation, opening: bytes, *, knows_user: bool) -> bytes | None:
    """Return a digest of all messages of a conversation; None if other people may have sent equal messages.

    Many people ask the same first question. So if the request names no user, only a conversation that contains an
    answer gets a digest.

    If the conversation is a single message with only a role and a text, which is the usual case, `opening` is returned.
    This saves the computation of a second digest.

    Args:
        conversation: The conversation.
        opening: Digest of the conversation's opening (see `opening_digest`).
        knows_user: Whether the request names its user.
    """
    messages = conversation.messages
    if not knows_user and not any(message.get("role") == "assistant" for message in messages):
        return None
    if len(messages) == 1 and messages[0].keys() == _PLAIN_MESSAGE_KEYS and messages[0]["content"].__class__ is str:
        return opening
    return _digest(b"messages", orjson.dumps(messages))


def _digest(kind: bytes, *parts: bytes) -> bytes:
    """Hash each part together with its length, so that different lists of parts give different digests."""
    digest = blake2b(kind, digest_size=_DIGEST_BYTES)
    for part in parts:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.digest()
