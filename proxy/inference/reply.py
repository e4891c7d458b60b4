"""Sends the backend's reply to the client. If the plan says so, it first converts the reply to the client's API.

The module handles streams and replies that are not streams. It does not depend on how a plan is made.
"""

from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from proxy.backends.response import BackendResponse
from proxy.core.errors import BackendProtocolError, BackendUnavailableError, ProxyError
from proxy.inference.plan import RESPONSES, Plan
from proxy.inference.relay import (
    Client,
    EventTransform,
    StreamRules,
    passes_untouched,
    relay_stream,
    reply_headers,
    usage_filter,
)
from proxy.inference.reply_progress import ReplyProgress
from proxy.openai.chat_completion import ChatChunks, ChatShape, chat_completion
from proxy.openai.chunk_cache import ChunkCache
from proxy.openai.responses import ResponseEvents, ResponseShape, response_object
from proxy.openai.sse import event_data, is_done, parse_object
from proxy.openai.stop_strings import StopCutter, cut_completion


async def send_reply(
    client: Client, upstream: BackendResponse, plan: Plan, headers: Mapping[str, str], progress: ReplyProgress
) -> web.StreamResponse:
    """Send the backend's reply to the client.

    Args:
        client: The client.
        upstream: The backend's reply.
        plan: The plan, which says how the reply is converted.
        headers: Headers that the proxy adds to the headers of the backend.
        progress: Records the token counts of the reply, and whether it was truncated.

    Raises:
        BackendProtocolError: The reply must be converted, but is not a completion.
        ConnectionError: The client has disconnected.
    """
    headers = {**reply_headers(upstream.headers), **headers}
    if upstream.status == 200 and upstream.content_type == "text/event-stream":
        headers |= {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers=headers)
        await client.begin(response)
        await relay_stream(upstream, client, stream_rules(plan, progress), progress)
        await client.end()
        return response
    data = await upstream.read()
    if upstream.status == 200:
        data = whole_reply(data, plan, progress)
    elif upstream.status >= ProxyError.status and not parse_object(data):
        # A router between proxy and backend may answer with a page that names an internal address. Clients must not
        # see this address, so the proxy sends its own error instead of the page.
        data = BackendUnavailableError(f"The backend answered {upstream.status}, and gave no reason in JSON.").json
        headers["content-type"] = "application/json"
    whole = web.Response(status=upstream.status, body=data, headers=headers)
    await client.send(whole, data)
    return whole


def whole_reply(data: bytes, plan: Plan, progress: ReplyProgress) -> bytes:
    """Convert the body of a successful reply that is not a stream, and record its token counts in `progress`.

    Raises:
        BackendProtocolError: The reply must be converted, but is not a completion.
    """
    payload = parse_object(data)
    _record_usage(payload, progress)
    if plan.cut_at is not None:
        cut = cut_completion(payload, plan.cut_at)
        data, payload = (data, payload) if cut == payload else (orjson.dumps(cut), cut)
    if plan.shape is None:
        return data
    if "choices" not in payload:
        raise BackendProtocolError("The backend's reply is not a completion.")
    if isinstance(plan.shape, ResponseShape):
        return orjson.dumps(response_object(plan.shape, payload))
    return orjson.dumps(chat_completion(payload, plan.shape))


def stream_rules(plan: Plan, progress: ReplyProgress) -> StreamRules:
    """Return the rules by which the relay converts the stream of a plan."""
    if isinstance(plan.shape, ResponseShape):
        return _with_cutting(_response_rules(ResponseEvents(plan.shape), progress), plan)
    if isinstance(plan.shape, ChatShape):
        return _with_cutting(StreamRules(_chat_translation(plan, ChatChunks(plan.shape), progress)), plan)
    untouched = usage_filter(progress, wanted=not plan.strip_usage)
    if plan.path == RESPONSES:
        return _with_cutting(StreamRules(untouched, is_end=_ends_response), plan)
    return _with_cutting(StreamRules(untouched, passes=passes_untouched), plan)


def _with_cutting(rules: StreamRules, plan: Plan) -> StreamRules:
    if plan.cut_at is None:
        return rules
    return StreamRules(_cut_first(StopCutter(plan.cut_at), rules.transform), rules.is_end, rules.failure)


def _cut_first(cutter: StopCutter, then: EventTransform) -> EventTransform:
    """Return a transform that cuts completion events at stop strings, and then applies the transform `then`.

    If an event has neither choices nor token counts after the cut, it is dropped.
    """

    def transform(event: bytes) -> bytes:
        if cutter.passes(event) or is_done(event):
            return then(event)
        payload = parse_object(event_data(event))
        if not payload.get("choices"):
            return then(event)
        cut = cutter.cut(payload)
        return then(_event(cut)) if cut["choices"] or cut.get("usage") else b""

    return transform


def _chat_translation(plan: Plan, chunks: ChatChunks, progress: ReplyProgress) -> EventTransform:
    """Return a transform from completion events to chat events.

    The transform returns an event without the key `choices`, such as an error or a comment, unchanged.
    """
    cache = ChunkCache()

    def transform(event: bytes) -> bytes:
        if translated_event := cache.translate(event):
            return translated_event
        if is_done(event):
            return b"".join(_event(chunk) for chunk in chunks.finish()) + event
        payload = parse_object(event_data(event))
        if "choices" not in payload:
            return event
        _record_usage(payload, progress)
        if plan.strip_usage:
            payload.pop("usage", None)
        text = chunks.plain_text(payload)
        translated = chunks.translate(payload)
        if text is not None:
            cache.store(event, text, translated[0])
        return b"".join([_event(chunk) for chunk in translated])

    return transform


def _response_rules(events: ResponseEvents, progress: ReplyProgress) -> StreamRules:
    """Return the rules for converting completion events to events of the Responses API.

    In the Responses API, an event such as `response.completed` ends a complete stream. The event `response.failed`
    reports that a stream was truncated.
    """

    def transform(event: bytes) -> bytes:
        if is_done(event):
            return b"".join(_named_event(payload) for payload in events.finish())
        payload = parse_object(event_data(event))
        if "choices" not in payload:
            return event
        _record_usage(payload, progress)
        return b"".join(_named_event(payload) for payload in events.translate(payload))

    return StreamRules(transform, failure=lambda error: _named_event(events.fail(error.code, str(error))))


def _ends_response(event: bytes) -> bool:
    kind = parse_object(event_data(event)).get("type")
    return kind in {"response.completed", "response.incomplete", "response.failed"}


def _record_usage(payload: Mapping[str, Any], progress: ReplyProgress) -> None:
    usage = payload.get("usage")
    if isinstance(usage, dict):
        progress.usage = usage


def _event(chunk: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def _named_event(payload: Mapping[str, Any]) -> bytes:
    return b"event: " + str(payload["type"]).encode() + b"\n" + _event(payload)
