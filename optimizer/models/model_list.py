"""Asks an endpoint for the list of its models, and returns all names or the first one."""

from typing import Final

import aiohttp
import orjson

from index.model_names import plain_names
from optimizer.core.errors import UnparsableReplyError
from optimizer.models.error_replies import server_explanation
from optimizer.models.http_client import join_url, open_session, refusal_error, unreachable_error

_FIRST_ERROR: Final = 400


async def first_model(base_url: str, api_key: str | None, reply_timeout: float) -> str:
    """Return the first name in the endpoint's list of models that is not the name of a variant, such as `lm@raw`.

    Raises:
        UnparsableReplyError: The list is empty.
        ModelError: The endpoint gave no complete reply, or answered with an error status.
    """
    url = join_url(base_url, "models")
    names = plain_names(await listed_models(base_url, api_key, reply_timeout))
    if not names:
        raise UnparsableReplyError(f"{url} lists no model. Name one with --model")
    return names[0]


async def listed_models(base_url: str, api_key: str | None, reply_timeout: float) -> list[str]:
    """Return the names of the models that the endpoint lists. The result is empty if the list cannot be parsed.

    If the endpoint is drpo's proxy, it lists each model several times: under its own name, and as `model@variant`.

    Raises:
        ModelError: The endpoint gave no complete reply, or answered with an error status.
    """
    url = join_url(base_url, "models")
    try:
        async with open_session(api_key, reply_timeout) as session, session.get(url) as reply:
            raw = await reply.read()
    except (TimeoutError, aiohttp.ClientError) as error:
        raise unreachable_error(url, error) from None
    if reply.status >= _FIRST_ERROR:
        raise refusal_error(url, reply.status, server_explanation(raw, api_key))
    return _model_names(raw)


def _model_names(raw: bytes) -> list[str]:
    try:
        listed = [model["id"] for model in orjson.loads(raw)["data"]]
    except (ValueError, KeyError, TypeError):
        return []
    return [name for name in listed if isinstance(name, str)]
