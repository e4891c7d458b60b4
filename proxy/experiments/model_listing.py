"""Asks backends which models they list, for the command `experiment check`. It sends no other requests."""

import asyncio
from collections.abc import Sequence
from typing import Final

import orjson

from proxy.backends.backend import Backend
from proxy.backends.discovery import listed_cards
from proxy.backends.load_balancing import RetryBudget
from proxy.backends.transport import NoConnectionError, Transport
from proxy.core.errors import ProxyError
from proxy.core.metrics import create_metrics

_TIMEOUT: Final = 5.0  # seconds for the connection, and then for the reply
_STATUS_OK: Final = 200


async def list_models(backends: Sequence[Backend]) -> tuple[frozenset[str] | None, list[str]]:
    """Return the models that the backends list.

    Returns:
        The names of the models, and one sentence for each backend that does not list its models. The names are None
        if there is such a backend, since it may have other models.
    """
    transport = Transport(_TIMEOUT, _TIMEOUT, RetryBudget(), create_metrics())
    try:
        listings = await asyncio.gather(*(_list(transport, backend) for backend in backends))
    finally:
        await transport.close()
    problems = [listing for listing in listings if isinstance(listing, str)]
    found = [listing for listing in listings if not isinstance(listing, str)]
    return frozenset().union(*found) if not problems else None, problems


async def _list(transport: Transport, backend: Backend) -> frozenset[str] | str:
    request = backend.request("GET", "/v1/models", b"", {})
    try:
        async with asyncio.timeout(2 * _TIMEOUT), await transport.exchange(request) as reply:
            cards = listed_cards(orjson.loads(await reply.read())) if reply.status == _STATUS_OK else None
    except NoConnectionError as error:
        return f"{backend.url} does not answer: {error.client_error}"
    except (ProxyError, TimeoutError, orjson.JSONDecodeError) as error:
        return f"{backend.url} does not list its models ({type(error).__name__})."
    return f"{backend.url} does not list its models." if cards is None else frozenset(card["id"] for card in cards)
