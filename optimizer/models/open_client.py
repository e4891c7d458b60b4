"""Opens a client for the endpoint that a table `[models.ROLE]` of run.toml names. It sends no request."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from optimizer.core.errors import ConfigError
from optimizer.core.model_tables import ModelTable
from optimizer.models.http_client import Client, Endpoint, RetryPolicy
from optimizer.models.paid_replies import PricedClient


@asynccontextmanager
async def open_client(table: ModelTable) -> AsyncIterator[PricedClient]:
    """Yield a client of the endpoint, with the prices and the request form of the table.

    Raises:
        ConfigError: The environment variable with the API key is not set.
    """
    endpoint = Endpoint(table.base_url, table.model, api_key(table))
    async with Client(endpoint, table.concurrency, RetryPolicy(reply_timeout=table.timeout)) as client:
        yield PricedClient(client, table.prices, table.request)


def api_key(table: ModelTable) -> str | None:
    """Return the API key of an endpoint, from the environment variable that `api_key_env` of run.toml names.

    Return None if the table has no `api_key_env`.

    Raises:
        ConfigError: The environment variable is not set.
    """
    if table.api_key_env is None:
        return None
    if table.api_key_env not in os.environ:
        # A variable in capitals is named. Another text may be the key itself.
        named = table.api_key_env if table.api_key_env.isupper() else "a variable"
        raise ConfigError(f"api_key_env names {named}, which is not set. Set it to the API key.")
    return os.environ[table.api_key_env]
