"""Digests of units and of conversations. Pure: nothing here depends on requests or on the store.

A unit is whom a request counts for. Neither a unit nor a conversation can be read from its digest. A digest is the same
on all workers and replicas, and never leaves the process as it is: the store replaces it with a keyed digest.
"""

from hashlib import blake2b
from typing import Final

import orjson

from proxy.core.json_types import Json
from proxy.openai.conversation import Conversation

_DIGEST_BYTES: Final = 16
_PLAIN_MESSAGE_KEYS: Final = frozenset({"role", "content"})


def named_unit(name: str) -> bytes:
    """Return the unit of a name that a client sent in the header x-drpo-unit or in the field `user`."""
    return _digest(b"name", name.encode("utf-8", "surrogatepass"))


def unit_of(header: str | None, body: Json, key: str, opening: bytes) -> bytes:
    """Return the unit of a request: the name in the header, else in the field `user`, else the key and conversation.

    Args:
        header: Value of the header x-drpo-unit, if it was sent.
        body: The request's body.
        key: Name of the client's key, or the credentials that it sent.
        opening: Digest of the conversation's opening (see `opening_digest`).
    """
    user = body.get("user")
    name = header or (user if isinstance(user, str) else "")
    if name:
        return named_unit(name)
    return _digest(b"conversation", key.encode("utf-8", "surrogatepass"), opening)


def opening_digest(conversation: Conversation) -> bytes:
    """Return a digest that is the same for all turns of a conversation.

    It covers the first user text, or the first message of a conversation without user text.
    """
    if conversation.opening:
        return _digest(b"opening", conversation.opening.encode("utf-8", "surrogatepass"))
    return _digest(b"messages", orjson.dumps(conversation.messages[:1]))


def conversation_digest(conversation: Conversation, opening: bytes) -> bytes:
    """Return a digest of all messages. For a single plain message, the usual case, it is the opening's digest."""
    messages = conversation.messages
    if len(messages) == 1 and messages[0].keys() == _PLAIN_MESSAGE_KEYS and messages[0]["content"].__class__ is str:
        return opening
    return _digest(b"messages", orjson.dumps(messages))


def _digest(kind: bytes, *parts: bytes) -> bytes:
    """Hash each part with its length, so that different lists of parts give different digests."""
    digest = blake2b(kind, digest_size=_DIGEST_BYTES)
    for part in parts:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.digest()
