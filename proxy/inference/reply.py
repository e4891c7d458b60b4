"""A plan's reply to the client: relayed as it is, or translated to chat; streamed or whole. Knows no planning."""

from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from proxy.backends.response import BackendResponse
from proxy.core.errors import BackendProtocolError, BackendUnavailableError, ProxyError
from proxy.inference.planner import RESPONSES, Plan
from proxy.inference.relay import (
    Client,
    EventTransform,
    ReplyFacts,
    StreamRules,
    passes_untouched,
    relay_stream,
    reply_headers,
    usage_filter,
)
from proxy.openai.chat_completion import ChatChunks, ChatShape, chat_completion
from proxy.openai.chunk_cache import ChunkCache
from proxy.openai.responses import ResponseEvents, ResponseShape, response_object
from proxy.openai.sse import event_data, is_done, parse_object
from proxy.openai.stop_strings import StopCutter, cut_completion


async def send_reply(
    client: Client, upstream: BackendResponse, plan: Plan, headers: Mapping[str, str], facts: ReplyFacts
) -> web.StreamResponse:
    """Pass the backend's reply on; `headers` are ours, `facts` is filled on the way."""
    headers = {**reply_headers(upstream.headers), **headers}
    if upstream.status == 200 and upstream.content_type == "text/event-stream":
        headers |= {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers=headers)
        await client.begin(response)
        await relay_stream(upstream, client, stream_rules(plan, facts), facts)
        await client.end()
        return response
    data = await upstream.read()
    if upstream.status == 200:
        data = whole_reply(data, plan, facts)
    elif upstream.status >= ProxyError.status and not parse_object(data):
        # A router in between may say which address it could not reach: that is its log's business.
        data = BackendUnavailableError(f"The backend answered {upstream.status}, and gave no reason in JSON.").json
        headers["content-type"] = "application/json"
    whole = web.Response(status=upstream.status, body=data, headers=headers)
    await client.send(whole, data)
    return whole


def whole_reply(data: bytes, plan: Plan, facts: ReplyFacts) -> bytes:
    """What the client gets of a reply that came whole; `facts` is filled. Raises BackendProtocolError."""
    payload = parse_object(data)
    _note_usage(payload, facts)
    if plan.cut_at:
        payload = cut_completion(payload, plan.cut_at)
    if plan.shape is None:
        return orjson.dumps(payload) if plan.cut_at else data
    if "choices" not in payload:
        raise BackendProtocolError("The backend's reply is not a completion.")
    if isinstance(plan.shape, ResponseShape):
        return orjson.dumps(response_object(plan.shape, payload))
    return orjson.dumps(chat_completion(payload, plan.shape))


def stream_rules(plan: Plan, facts: ReplyFacts) -> StreamRules:
    """How the plan's stream passes: chat and responses translated from completions, or the backend's own events."""
    if isinstance(plan.shape, ResponseShape):
        return _cutting(_response_rules(ResponseEvents(plan.shape), facts), plan)
    if isinstance(plan.shape, ChatShape):
        return _cutting(StreamRules(_chat_translation(plan, ChatChunks(plan.shape), facts)), plan)
    untouched = usage_filter(facts, wanted=not plan.strip_usage)
    if plan.path == RESPONSES:
        return _cutting(StreamRules(untouched, is_end=_ends_response), plan)
    return _cutting(StreamRules(untouched, passes=passes_untouched), plan)


def _cutting(rules: StreamRules, plan: Plan) -> StreamRules:
    if not plan.cut_at:
        return rules
    return StreamRules(_cut_first(StopCutter(plan.cut_at), rules.transform), rules.is_end, rules.failure)


def _cut_first(cutter: StopCutter, then: EventTransform) -> EventTransform:
    """Completion events cut at stop strings before `then` sees them; an event with nothing left to show is dropped."""

    def transform(event: bytes) -> bytes:
        if is_done(event):
            return then(event)
        payload = parse_object(event_data(event))
        if not payload.get("choices"):
            return then(event)
        shown = cutter.cut(payload)
        return then(_event(shown)) if shown["choices"] or shown.get("usage") else b""

    return transform


def _chat_translation(plan: Plan, chunks: ChatChunks, facts: ReplyFacts) -> EventTransform:
    """Completion events to chat events; what is no completion chunk (an error, a comment) passes as it is."""
    cache = ChunkCache()

    def transform(event: bytes) -> bytes:
        if known := cache.translate(event):
            return known
        if is_done(event):
            return b"".join(_event(chunk) for chunk in chunks.finish()) + event
        payload = parse_object(event_data(event))
        if "choices" not in payload:
            return event
        _note_usage(payload, facts)
        if plan.strip_usage:
            payload.pop("usage", None)
        text = chunks.plain_text(payload)
        translated = chunks.translate(payload)
        if text is not None:
            cache.store(event, text, translated[0])
        return b"".join([_event(chunk) for chunk in translated])

    return transform


def _response_rules(events: ResponseEvents, facts: ReplyFacts) -> StreamRules:
    """Completion events to the events of a response; the end is told by its own event, not by [DONE]."""

    def transform(event: bytes) -> bytes:
        if is_done(event):
            return b"".join(_named_event(payload) for payload in events.finish())
        payload = parse_object(event_data(event))
        if "choices" not in payload:
            return event
        _note_usage(payload, facts)
        return b"".join(_named_event(payload) for payload in events.translate(payload))

    return StreamRules(transform, failure=lambda error: _named_event(events.fail(error.code, str(error))))


def _ends_response(event: bytes) -> bool:
    kind = parse_object(event_data(event)).get("type")
    return kind in {"response.completed", "response.incomplete", "response.failed"}


def _note_usage(payload: Mapping[str, Any], facts: ReplyFacts) -> None:
    usage = payload.get("usage")
    if isinstance(usage, dict):
        facts.usage = usage


def _event(chunk: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def _named_event(payload: Mapping[str, Any]) -> bytes:
    return b"event: " + str(payload["type"]).encode() + b"\n" + _event(payload)
