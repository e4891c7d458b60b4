"""Sends small requests to one backend: for its list of models, for token counts, and for questions to a model."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from proxy.backends.backend import Backend
from proxy.backends.dialects.base import Fetch
from proxy.backends.transport import NoConnectionError, Transport
from proxy.core.errors import BackendTimeoutError, BackendUnavailableError
from proxy.core.json_types import Json

_STATUS_OK: Final = 200
_SMALL_REQUEST_TIMEOUT: Final = 10.0  # seconds for a request such as /v1/models or /tokenize


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Sends small requests to one backend; implements dialects.base.Fetch.

    Attributes:
        transport: Sends the bytes.
        backend: The backend.
        timeout: A request fails if its whole reply does not arrive within this many seconds.
    """

    transport: Transport
    backend: Backend
    timeout: float = _SMALL_REQUEST_TIMEOUT

    async def __call__(self, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        """Return the status and the JSON value of the reply; the value is None if the reply is not JSON."""
        method, data = ("GET", b"") if body is None else ("POST", orjson.dumps(body))
        request = self.backend.request(method, path, data, {"Content-Type": "application/json"})
        try:
            async with asyncio.timeout(self.timeout):
                async with await self.transport.exchange(request) as response:
                    return response.status, _parse_json(await response.read())
        except NoConnectionError as error:
            raise error.client_error from error
        except TimeoutError as error:
            raise BackendTimeoutError(f"{path} was not answered within {self.timeout:g} s.") from error


async def fetch_reply(fetch: Fetch, path: str, body: Json) -> Any:
    """Send a small request, and return the JSON value of the reply.

    Raises:
        BackendUnavailableError: The status of the reply is not 200. The message contains no text of the reply.
        ProxyError: The backend does not answer.
    """
    status, reply = await fetch(path, body)
    if status != _STATUS_OK:
        raise BackendUnavailableError(f"{path} answered {status}")
    return reply


def _parse_json(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
