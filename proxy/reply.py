"""A plan's reply to the client: relayed as it is, or translated to chat; streamed or whole. Knows no planning."""

from collections.abc import Mapping
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from proxy.errors import BackendProtocolError
from proxy.plan import Plan
from proxy.relay import (
    EventTransform,
    ReplyFacts,
    event_data,
    is_done,
    parse_object,
    read_reply,
    relay_stream,
    reply_headers,
    usage_filter,
)
from proxy.translate import ChatChunks, ChatShape, chat_completion


async def send_reply(
    request: web.Request, upstream: aiohttp.ClientResponse, plan: Plan, headers: Mapping[str, str], facts: ReplyFacts
) -> web.StreamResponse:
    """Pass the backend's reply on; `headers` are ours, `facts` is filled on the way."""
    headers = {**reply_headers(upstream.headers), **headers}
    if upstream.status == 200 and upstream.content_type == "text/event-stream":
        return await _stream(request, upstream, plan, headers, facts)
    data = await read_reply(upstream)
    if upstream.status == 200:
        data = _whole(data, plan, facts)
    return web.Response(status=upstream.status, body=data, headers=headers)


async def _stream(
    request: web.Request, upstream: aiohttp.ClientResponse, plan: Plan, headers: Mapping[str, str], facts: ReplyFacts
) -> web.StreamResponse:
    response = web.StreamResponse(headers={**headers, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
    transform = translation(plan, plan.shape, facts) if plan.shape else usage_filter(facts, wanted=not plan.strip_usage)
    await response.prepare(request)
    await relay_stream(upstream, response, transform, facts)
    await response.write_eof()
    return response


def _whole(data: bytes, plan: Plan, facts: ReplyFacts) -> bytes:
    payload = parse_object(data)
    usage = payload.get("usage")
    facts.usage = usage if isinstance(usage, dict) else None
    if plan.shape is None:
        return data
    if "choices" not in payload:
        raise BackendProtocolError("The backend's reply is not a completion.")
    return orjson.dumps(chat_completion(payload, plan.shape))


def translation(plan: Plan, shape: ChatShape, facts: ReplyFacts) -> EventTransform:
    """Completion events to chat events; what is no completion chunk (an error, a comment) passes as it is."""
    chunks = ChatChunks(shape)

    def transform(event: bytes) -> bytes:
        if is_done(event):
            return event
        payload = parse_object(event_data(event))
        if "choices" not in payload:
            return event
        return b"".join(_event(chunk) for chunk in chunks.translate(_usage_noted(payload, plan, facts)))

    return transform


def _usage_noted(payload: dict[str, Any], plan: Plan, facts: ReplyFacts) -> dict[str, Any]:
    usage = payload.get("usage")
    if isinstance(usage, dict):
        facts.usage = usage
    if plan.strip_usage:
        return {name: value for name, value in payload.items() if name != "usage"}
    return payload


def _event(chunk: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"
