"""Defines Dialect: everything in which one type of model server differs from the others.

The module does not depend on connections: the caller of a dialect passes a function that sends requests.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from proxy.core.json_types import Json
from proxy.core.settings import Kind


class Fetch(Protocol):
    """Sends one small request to a backend."""

    def __call__(self, path: str, body: Mapping[str, Any] | None = None) -> Awaitable[tuple[int, Any]]:
        """Return the status and the parsed JSON of the reply. The JSON is None if the reply is not valid JSON.

        Args:
            path: The path below the root URL of the backend.
            body: The JSON body of a POST; None sends a GET.

        Raises:
            ProxyError: The backend does not answer, or its reply is not valid HTTP.
        """
        ...


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The properties of one model that a backend reports.

    Attributes:
        kind: The kind of the model; None if the backend does not report it.
        context: The context length in tokens; None if the backend does not report it.
    """

    kind: Kind | None = None
    context: int | None = None


async def _detect_nothing(_model_id: str, _fetch: Fetch) -> None:
    return None


async def _count_nothing(_model_id: str, _text: str, _fetch: Fetch) -> None:
    return None


async def _count_no_chat(_model_id: str, _body: Json, _fetch: Fetch) -> None:
    return None


def _unchanged(request: Json) -> Json:
    return request


@dataclass(frozen=True, slots=True)
class Dialect:
    """Everything in which one type of model server differs from the others.

    The proxy builds each request in vLLM's format. The dialect translates the request to the format of its server, and
    describes the replies of the server. By default, a request stays as it is. The other defaults follow OpenAI's API
    reference.

    Attributes:
        name: The name that operators see, such as in the table that `check` prints.
        detect: A function that takes a model id, asks a backend about this model, and returns its ModelFacts. It
            returns None if the backend is another type of server.
        count_tokens: A function that takes a model id and a text, and returns how many tokens the text has for this
            model. The count includes the token that marks the beginning of a text. The function returns None if the
            backend cannot count tokens.
        count_chat_tokens: A function that takes a model id and the body of a chat request, and returns how many tokens
            the prompt has after the chat template was applied. It returns None if the backend cannot count them.
        completion_request: A function that translates a completion request. It raises BadRequestError if the server
            cannot serve the request.
        max_stop_strings: The maximum number of stop strings in one request; None if there is no limit.
        enforces_json: Whether the server enforces a JSON schema in text completions too.
        usage_on_last_choice: Whether the server sends the token usage in the last chunk of each choice, not in a
            separate event.
        cache_advice: What an operator can do if the prefix cache of the server does nothing: sentences without the last
            full stop.
        takes_cache_salt: Whether the server reads the field `cache_salt` of a request. Requests with different salts
            share no entry of the prefix cache.
    """

    name: str
    detect: Callable[[str, Fetch], Awaitable[ModelFacts | None]] = _detect_nothing
    count_tokens: Callable[[str, str, Fetch], Awaitable[int | None]] = _count_nothing
    count_chat_tokens: Callable[[str, Json, Fetch], Awaitable[int | None]] = _count_no_chat
    completion_request: Callable[[Json], Json] = _unchanged
    max_stop_strings: int | None = 4
    enforces_json: bool = False
    usage_on_last_choice: bool = False
    takes_cache_salt: bool = False
    cache_advice: str = (
        "Turn on its prefix cache: vLLM has --enable-prefix-caching, and llama.cpp keeps prompts unless it was started "
        "with --no-cache-prompt"
    )
