"""Requests to the models of a run, and the readers of their replies. This module does not send requests."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from optimizer.core.model_tables import MAX_ATTEMPTS

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """A request to the model of a role.

    Attributes:
        role: The role, which is the name of the model's table under [models] in run.toml.
        path: The path of the endpoint, relative to the base URL of the server, for example `chat/completions`.
        body: The JSON body without the field `model`.
        replicate: A number that distinguishes requests with the same body. If two requests differ only in this number,
            both are sent, and their replies are independent.
        reminder: A text that is appended to the last message if the reply cannot be read and the request is repeated.
        attempts: How often the request is sent, at most, if the reply cannot be read. A reply that was cut does not
            count: the request is then repeated with a higher maximum number of tokens.
    """

    role: str
    path: str
    body: Json
    replicate: int = 0
    reminder: str = ""
    attempts: int = MAX_ATTEMPTS


@dataclass(frozen=True, slots=True)
class ReplyReader:
    """Extracts one part from a reply. The journal stores this part, and the caller gets it.

    Attributes:
        name: The name of the reader, which is part of the cache key. Do not change the name of an existing reader:
            otherwise a resumed run does not find its replies in the journal, and pays for them again.
        read: The function that extracts the part from the parsed JSON of a reply. It raises UnparsableReplyError if
            the reply does not contain what was requested.
    """

    name: str
    read: Callable[[Any], Json]

    def __call__(self, reply: Any) -> Json:
        return self.read(reply)


def reply_reader(name: str) -> Callable[[Callable[[Any], Json]], ReplyReader]:
    """Return a decorator that turns a function into a ReplyReader with this name."""
    return lambda read: ReplyReader(name, read)
