"""Lets a model server count the tokens of a text. Such requests are free of charge."""

import orjson

from optimizer.core.errors import RefusedRequestError
from optimizer.models.http_client import Client


async def server_token_count(client: Client, text: str) -> int | None:
    """Request a token count at the path /tokenize, first in vLLM's format, then in llama.cpp's format.

    Return None if the server supports neither format.
    """
    model = {"model": client.endpoint.model}
    for body in ({"prompt": text, "add_special_tokens": True}, {"content": text, "add_special": True}):
        try:
            raw, _ = await client.post("/tokenize", orjson.dumps({**model, **body}))
            reply = orjson.loads(raw)
        except (RefusedRequestError, orjson.JSONDecodeError):
            continue
        if isinstance(reply, dict) and isinstance(reply.get("count"), int):
            return int(reply["count"])
        if isinstance(reply, dict) and isinstance(reply.get("tokens"), list) and reply["tokens"]:
            return len(reply["tokens"])
    return None
