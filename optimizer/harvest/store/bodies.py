"""Reads the turns of a logged request and the text of a logged reply. All functions are pure.

The store keeps at most 64 KiB of each body, as the client sent or received it: JSON, or a stream of events. A body that
is cut, or whose content is not only text, cannot be read, and gives None.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, cast

import orjson

from index.types import Message, Role
from optimizer.models.reply_text import without_reasoning

_ROLES: Final = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TEXT_PARTS: Final = frozenset({"text", "input_text", "output_text", "refusal"})
_EVENT_END: Final = re.compile(r"\r\n\r\n|\n\n|\r\r")
_LINE_END: Final = re.compile(r"\r\n|\n|\r")
"""The line ends of a stream. A text may contain other characters that `str.splitlines` would treat as line ends, such
as U+2028."""
_DONE: Final = "[DONE]"


def request_turns(body: str) -> tuple[Message, ...] | None:
    """Return the turns of a request to Chat Completions or Responses.

    The result is None if a turn cannot be read, or if the last turn is not a user turn.
    """
    fields = _json_object(body)
    if fields is None:
        return None
    items = fields.get("messages", fields.get("input"))
    opening = fields.get("instructions")
    raw = [{"role": "user", "content": items}] if isinstance(items, str) else items
    raw = [{"role": "system", "content": opening}, *raw] if isinstance(opening, str) and isinstance(raw, list) else raw
    turns = [_turn(one) for one in raw] if isinstance(raw, list) else []
    known = [turn for turn in turns if turn is not None]
    is_whole = bool(turns) and len(known) == len(turns) and known[-1].role == "user" and known[-1].text.strip()
    return tuple(known) if is_whole else None


def reply_text(body: str) -> str | None:
    """Return the text of a complete reply with a single choice, without reasoning; None for any other body."""
    text = _object_text(_json_object(body)) if body.lstrip().startswith("{") else _stream_text(body)
    return without_reasoning(text).strip() or None if text else None


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _turn(item: object) -> Message | None:
    role = _ROLES.get(str(item.get("role"))) if isinstance(item, dict) else None
    text = _content_text(item.get("content")) if isinstance(item, dict) and not item.get("tool_calls") else None
    return None if role is None or text is None else Message(cast("Role", role), text)


def _content_text(content: object) -> str | None:
    """Return the text of a message's content; None if it has a part that is not text, such as an image."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = [_part_text(part) for part in content]
    return None if None in texts else "\n".join(cast("Sequence[str]", texts))


def _part_text(part: object) -> str | None:
    if not isinstance(part, dict) or part.get("type", "text") not in _TEXT_PARTS:
        return part if isinstance(part, str) else None
    text = part.get("text", part.get("refusal"))
    return text if isinstance(text, str) else None


def _object_text(fields: dict[str, Any] | None) -> str | None:
    """Return the text of a whole reply: a chat completion or a response."""
    output = fields.get("output") if fields else None
    if isinstance(output, list):
        messages = [item for item in output if isinstance(item, dict) and item.get("type") == "message"]
        return _content_text(messages[0].get("content")) if len(messages) == 1 else None
    return _choice_text(fields, "message")


def _choice_text(fields: dict[str, Any] | None, part: str) -> str | None:
    choices = fields.get("choices") if fields else None
    if (
        not isinstance(choices, list)
        or len(choices) != 1
        or not isinstance(choices[0], dict)
        or choices[0].get("index")
    ):
        return None
    message = choices[0].get(part)
    if not isinstance(message, dict) or message.get("tool_calls"):
        return None
    return _content_text(message.get("content")) or _content_text(message.get("refusal"))


def _stream_text(body: str) -> str | None:
    """Return the text of a stream; None if its end is missing."""
    payloads = list(_event_payloads(body))
    if payloads and payloads[-1] == _DONE:
        return "".join(_choice_text(_json_object(one), "delta") or "" for one in payloads[:-1])
    last = _json_object(payloads[-1]) if payloads else None
    response = last.get("response") if last and last.get("type") == "response.completed" else None
    return _object_text(response) if isinstance(response, dict) else None


def _event_payloads(body: str) -> Iterator[str]:
    for event in _EVENT_END.split(body):
        lines = [line.removeprefix("data:").strip() for line in _LINE_END.split(event) if line.startswith("data:")]
        if lines:
            yield "\n".join(lines)
