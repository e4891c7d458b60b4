"""Sends the backend's reply to the client. If the plan says so, it first converts the reply to the client's API.

The module handles streams and replies that are not streams. A reply of a backend is untrusted: it may have any status,
media type and JSON shape. In any case, the proxy sends either a valid answer or an error in OpenAI's format. The module
does not depend on how a plan is made.
"""

from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from proxy.backends.response import BackendResponse
from proxy.core.errors import BackendNotReadyError, BackendProtocolError, BadRequestError
from proxy.core.json_types import BYTE_ORDER_MARK, JsonDict
from proxy.inference.plan import CHAT, COMPLETIONS, JSON_TYPE, RESPONSES, Plan
from proxy.inference.relay import Client, relay_stream, reply_headers
from proxy.inference.reply_progress import ReplyProgress
from proxy.inference.stream import StreamConverter
from proxy.inference.stream_formats import stream_format
from proxy.openai.backend_reply import (
    ChoiceForm,
    as_stream,
    checked_choices,
    encode_reply,
    parse_reply,
    parse_reply_object,
    starts_stream,
)
from proxy.openai.chat_completion import chat_completion
from proxy.openai.reported_error import find_error, refused_reply
from proxy.openai.responses import ResponseShape, response_object
from proxy.openai.stop_strings import cut_completion

_STREAM_TYPE: Final = "text/event-stream"
_GENERATING: Final = (CHAT, COMPLETIONS, RESPONSES)  # the paths at which a model generates text
# A relayed reply with one of these media types, or without a media type, must be JSON. A web page is an error.
_JSON_OR_PAGE: Final = ("", "text/html", "application/xhtml+xml", "application/xml", "text/xml")
_PATIENCE: Final = 0.5  # seconds to wait for the end of a backend's stream after its last event


async def send_reply(
    client: Client, upstream: BackendResponse, plan: Plan, headers: Mapping[str, str], progress: ReplyProgress
) -> web.StreamResponse:
    """Send the backend's reply to the client.

    Args:
        client: The client.
        upstream: The backend's reply.
        plan: The plan, which says how the reply is converted.
        headers: Headers that the proxy adds to the headers of the backend.
        progress: Records the token counts of the reply, and how it ended.

    Raises:
        BackendReportedError: The reply has the status 200 and reports an error.
        BackendProtocolError: The reply is malformed.
        ConnectionError: The client has disconnected.
    """
    headers = {**reply_headers(upstream.headers), **headers}
    if upstream.status >= BadRequestError.status:
        return await _send_error(client, upstream, headers)
    if await _is_stream(upstream, plan):
        return await _send_stream(client, upstream, plan, headers, progress)
    data = await upstream.read()
    if plan.stream and plan.path in (CHAT, COMPLETIONS):
        return await _send_as_stream(client, data, plan, headers, progress)
    data = whole_reply(data, plan, progress, upstream.content_type)
    if plan.path in _GENERATING and upstream.content_type != JSON_TYPE:
        headers["content-type"] = JSON_TYPE
    whole = web.Response(body=data, headers=headers)
    await client.send(whole, data)
    return whole


async def _is_stream(upstream: BackendResponse, plan: Plan) -> bool:
    """Return whether the reply is a stream of events. Some servers send a stream with another media type.

    Raises BackendProtocolError if the reply is a stream that the client did not request.
    """
    has_stream_type = upstream.content_type == _STREAM_TYPE
    if plan.path not in _GENERATING or has_stream_type == plan.stream:
        return has_stream_type
    is_stream = starts_stream(await upstream.peek())
    if is_stream and not plan.stream:
        raise BackendProtocolError("The backend's reply is a stream of events, which was not requested.")
    return is_stream


async def _send_stream(
    client: Client, upstream: BackendResponse, plan: Plan, headers: dict[str, str], progress: ReplyProgress
) -> web.StreamResponse:
    headers |= {"content-type": _STREAM_TYPE} if upstream.content_type != _STREAM_TYPE else {}
    response = web.StreamResponse(headers={**headers, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
    await client.begin(response)
    await relay_stream(upstream, client, StreamConverter(stream_format(plan, progress), progress))
    await client.end()
    upstream.answered = not progress.truncated
    if upstream.answered:
        await upstream.skip_rest(_PATIENCE)
    return response


async def _send_as_stream(
    client: Client, data: bytes, plan: Plan, headers: dict[str, str], progress: ReplyProgress
) -> web.StreamResponse:
    """Send a reply that is not a stream as a stream, because the client asked for one. Some servers cannot stream."""
    payload, form = _checked_completion(parse_reply_object(data), plan, progress), _form(plan)
    converter = StreamConverter(stream_format(plan, progress), progress)
    events = converter.convert(as_stream(payload, form))
    events += converter.finish()
    whole = web.Response(body=events, headers={**headers, "content-type": _STREAM_TYPE, "Cache-Control": "no-cache"})
    await client.send(whole, events)
    return whole


async def _send_error(client: Client, upstream: BackendResponse, headers: dict[str, str]) -> web.StreamResponse:
    """Send a reply with an error status: unchanged if it is OpenAI's error object, else converted to it."""
    status, data = upstream.status, await upstream.read()
    refused = refused_reply(status, upstream.content_type, data)
    if not isinstance(refused, bytes):
        status, data = refused.status, refused.json
    if refused is not data or upstream.content_type != JSON_TYPE:
        headers["content-type"] = JSON_TYPE
    if status == BackendNotReadyError.status:  # llama.cpp, for example, answers 503 while it loads the model
        headers.setdefault("retry-after", BackendNotReadyError("").headers["Retry-After"])
    whole = web.Response(status=status, body=data, headers=headers)
    await client.send(whole, data)
    return whole


def whole_reply(data: bytes, plan: Plan, progress: ReplyProgress, content_type: str = JSON_TYPE) -> bytes:
    """Convert the body of a successful reply that is not a stream, and record its token counts in `progress`.

    Raises:
        BackendReportedError: The reply reports an error.
        BackendProtocolError: The reply is malformed.
    """
    if plan.path not in _GENERATING:
        return _relayed_reply(data, progress, content_type)
    payload = parse_reply_object(data)
    data = data.removeprefix(BYTE_ORDER_MARK)
    if plan.path == RESPONSES:
        progress.record_usage(payload)
        return _relayed_response(data, payload, progress)
    payload = _checked_completion(payload, plan, progress)
    if plan.cut_at is not None:
        cut = cut_completion(payload, plan.cut_at)
        data, payload = (data, payload) if cut == payload else (encode_reply(cut), cut)
    if plan.shape is None:
        return data
    if isinstance(plan.shape, ResponseShape):
        return encode_reply(response_object(plan.shape, payload))
    return encode_reply(chat_completion(payload, plan.shape))


def _checked_completion(payload: JsonDict, plan: Plan, progress: ReplyProgress) -> JsonDict:
    """Return a chat completion or a text completion, and record its token counts. Raises errors as `whole_reply`."""
    progress.record_usage(payload)
    _raise_error(payload)
    if payload.get("choices") is None:
        raise BackendProtocolError("The backend's reply is not a completion: it has no `choices`.")
    if not checked_choices(payload, _form(plan)):
        raise BackendProtocolError("The backend's reply has no answer: `choices` is empty.")
    return payload


def _form(plan: Plan) -> ChoiceForm:
    return "message" if plan.path == CHAT else "text"


def _relayed_response(data: bytes, payload: Mapping[str, Any], progress: ReplyProgress) -> bytes:
    """Return a reply of the Responses API unchanged, even if it is a response that failed."""
    if payload.get("object") == "response":
        progress.reported = payload.get("status") == "failed"
    else:
        _raise_error(payload)
    return data


def _relayed_reply(data: bytes, progress: ReplyProgress, content_type: str) -> bytes:
    """Return the reply of a relayed endpoint, unchanged. It may be JSON, text or audio.

    Raises BackendProtocolError if it is empty, if it should be JSON but is not, if it is only a number, a text or null,
    or if it is a web page.
    """
    if data and content_type not in _JSON_OR_PAGE and not content_type.endswith("json"):
        return data
    payload = parse_reply(data)
    if not isinstance(payload, dict | list):
        raise BackendProtocolError("The backend's reply is JSON, but neither an object nor a list.")
    if isinstance(payload, dict):
        _raise_error(payload)
        progress.record_usage(payload)
    return data.removeprefix(BYTE_ORDER_MARK)


def _raise_error(payload: Mapping[str, Any]) -> None:
    if error := find_error(payload):
        raise error
