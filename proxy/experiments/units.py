"""Digests of units and of conversations. Pure: nothing here depends on HTTP requests or on the store.

A unit is the user or the conversation that gets an arm as a whole. The digest of a unit does not reveal who the unit
is, and the digest of a conversation does not reveal the messages. All workers and replicas compute the same digest. The
store does not contain these digests, but a keyed digest of each.
"""

from hashlib import blake2b
from typing import Final

import orjson

from proxy.core.json_types import Json
from proxy.openai.conversation import Conversation

_DIGEST_BYTES: Final = 16
_PLAIN_MESSAGE_KEYS: Final = frozenset({"role", "content"})


def named_unit(name: str) -> bytes:
    """Return the digest of a unit that a client named in the header x-drpo-unit or in the field `user`."""
    return _digest(b"name", name.encode("utf-8", "surrogatepass"))


def unit_of(header: str | None, body: Json, key: str, opening: bytes) -> bytes:
    """Return the digest of a request's unit.

    The unit is named by the header x-drpo-unit, or else by the field `user` of the body. If both are missing or empty,
    each conversation of each client key is a unit.

    Args:
        header: Value of the header x-drpo-unit. None if the client did not send it.
        body: Body of the request.
        key: Name of the client's key, or the credentials that the client sent.
        opening: Digest of the conversation's opening (see `opening_digest`).
    """
    user = body.get("user")
    name = header or (user if isinstance(user, str) else "")
    if name:
        return named_unit(name)
    return _digest(b"conversation", key.encode("utf-8", "surrogatepass"), opening)


def opening_digest(conversation: Conversation) -> bytes:
    """Return a digest of a conversation's opening, which is the same for all turns of the conversation.

    The opening is the text of the first user message. A conversation without user text has its first message instead.
    """
    if conversation.opening:
        return _digest(b"opening", conversation.opening.encode("utf-8", "surrogatepass"))
    return _digest(b"messages", orjson.dumps(conversation.messages[:1]))


def conversation_digest(conversation: Conversation, opening: bytes) -> bytes:
    """Return a digest of all messages of a conversation.

    A single message with nothing but a role and a text is the usual case. Its digest is that of the opening, which is
    already computed.
    """
    messages = conversation.messages
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
