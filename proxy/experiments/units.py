"""Who a request counts for, and which conversation it asks, as digests: nothing of either can be read from them. Pure.

A digest is the same on every worker and replica. It never leaves the process as it is: the store keys it once more.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

import orjson

from proxy.core.json_types import Json
from proxy.openai.conversation import first_user_text

_BYTES: Final = 16
_QUESTION: Final = frozenset({"role", "content"})


def named_unit(name: str) -> bytes:
    """The unit of a name that a client gave, by the header x-drpo-unit or the field `user`."""
    return _digest(b"name", name.encode("utf-8", "surrogatepass"))


def unit_of(header: str | None, body: Json, key: str, opening: bytes) -> bytes:
    """The unit of a request: the header's, else the `user` field's, else one for this key and conversation.

    key: the name of the client's key, or what it sent as one; opening: see opening_digest.
    """
    user = body.get("user")
    name = header or (user if isinstance(user, str) else "")
    if name:
        return named_unit(name)
    return _digest(b"conversation", key.encode("utf-8", "surrogatepass"), opening)


def opening_digest(messages: Sequence[Json]) -> bytes:
    """The same for all turns of a conversation: of its first user text, or where it has none, of what else it has."""
    if text := first_user_text(messages):
        return _digest(b"opening", text.encode("utf-8", "surrogatepass"))
    return _digest(b"messages", orjson.dumps(messages[:1]))


def conversation_digest(messages: Sequence[Json], opening: bytes) -> bytes:
    """The same for the same messages alone. A question by itself, the usual case, is not read a second time."""
    if len(messages) == 1 and messages[0].keys() == _QUESTION and messages[0]["content"].__class__ is str:
        return opening
    return _digest(b"messages", orjson.dumps(messages))


def _digest(kind: bytes, *parts: bytes) -> bytes:
    """Each part is set apart by its length, so that no two lists of parts meet."""
    digest = blake2b(kind, digest_size=_BYTES)
    for part in parts:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.digest()
