"""Prepares the texts of requests and replies for the store, and reads the text of a reply. All functions are pure.

A streamed reply has about 250 bytes for each token, so a long stream is stored as one JSON object with the same text.
"""

from typing import Final

import orjson

from proxy.core.json_types import Json
from proxy.openai.conversation import read_chat, read_response
from proxy.openai.sse import event_data, is_done, parse_object, split_events

MAX_CONTENT_BYTES: Final = 64 * 1024  # maximum number of stored bytes of each body (request or reply)


def storable_text(data: bytes | bytearray) -> str:
    """Decode the first 64 KiB of a body. Replace the character NUL, which PostgreSQL does not accept in text."""
    return bytes(data[:MAX_CONTENT_BYTES]).decode("utf-8", "replace").replace("\0", "\ufffd")


def storable_reply(reply: bytes | bytearray) -> str:
    """Return the body of a reply as text. A stream of more than 64 KiB becomes one JSON object with the same text.

    Of any other body, and of a long stream that is not complete, only the first 64 KiB are kept.
    """
    is_long_stream = len(reply) > MAX_CONTENT_BYTES and not reply.lstrip().startswith(b"{")
    return storable_text((is_long_stream and _joined_stream(bytes(reply))) or reply)


def _joined_stream(stream: bytes) -> bytes:
    """Return a complete stream as one JSON object; empty bytes if it is not complete or has no single text."""
    events = split_events(stream)
    if not events:
        return b""
    response = parse_object(event_data(events[-1])).get("response")
    if isinstance(response, dict):  # the last event of a stream of the Responses API holds the whole response
        return orjson.dumps(response)
    text = answer_text(stream) if is_done(events[-1]) else ""
    message = {"role": "assistant", "content": text}
    return orjson.dumps({"object": "chat.completion", "choices": [{"index": 0, "message": message}]}) if text else b""


def last_question(request: str) -> str:
    """Return the last question of a stored request, or an empty text if the stored body is cut or has no question."""
    body = parse_object(request.encode("utf-8", "replace"))
    queries = (read_response(body) if "input" in body else read_chat(body)).queries
    return queries[-1] if queries else ""


def answer_text(reply: bytes) -> str:
    """Return the text of a chat reply with a single choice, or an empty text for any other reply.

    Args:
        reply: The body of the reply: a JSON object or a stream of events.
    """
    if reply.lstrip().startswith(b"{"):
        return _choice_text(parse_object(reply), "message")
    events = [event_data(event) for event in split_events(reply) if not is_done(event)]
    return "".join(_choice_text(parse_object(data), "delta") for data in events)


def _choice_text(payload: Json, part: str) -> str:
    choices = payload.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        return ""
    message = choices[0].get(part)
    text = message.get("content") if isinstance(message, dict) and not choices[0].get("index") else None
    return text if isinstance(text, str) else ""
