"""The type of a dialect: everything in which one kind of model server differs from another.

It does not depend on connections: a dialect gets a function that sends requests.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from proxy.core.json_types import Json
from proxy.core.settings import Kind


class Fetch(Protocol):
    """Sends one small request to a backend."""

    def __call__(self, path: str, body: Mapping[str, Any] | None = None) -> Awaitable[tuple[int, Any]]:
        """Return the status and the parsed JSON of the reply; the JSON is None if the reply has none.

        Args:
            path: The path below the root URL of the backend.
            body: The JSON body of a POST; None sends a GET.

        Raises:
            ProxyError: The backend does not answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a backend reports about one model.

    Attributes:
        kind: None if the backend does not report it.
        context: The context length in tokens; None if the backend does not report it.
    """

    kind: Kind | None = None
    context: int | None = None


async def _detect_nothing(_model_id: str, _fetch: Fetch) -> None:
    return None


async def _count_nothing(_model_id: str, _text: str, _fetch: Fetch) -> None:
    return None


def _unchanged(request: Json) -> Json:
    return request


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of model server.

    The proxy builds requests as vLLM takes them. A dialect translates them and describes the replies. The defaults are
    what OpenAI's reference promises.

    Attributes:
        name: The name that operators see, such as in the table that `check` prints.
        detect: Asks a backend about the model of an id. Returns None if the backend is a server of another kind.
        count_tokens: Returns how many tokens a text has, for the model of an id. The count includes the token that
            marks the beginning of a text. None if the backend cannot tell.
        completion_request: Translates a completion request. Raises BadRequestError if the server cannot do it.
        max_stop_strings: The most stop strings in one request; None if there is no limit.
        usage_on_last_choice: Whether a stream carries its usage on the last choice instead of in its own event.
    """

    name: str
    detect: Callable[[str, Fetch], Awaitable[ModelFacts | None]] = _detect_nothing
    count_tokens: Callable[[str, str, Fetch], Awaitable[int | None]] = _count_nothing
    completion_request: Callable[[Json], Json] = _unchanged
    max_stop_strings: int | None = 4
    usage_on_last_choice: bool = False
