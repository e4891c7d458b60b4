"""Serves OpenAI's Responses API with a base model: translates requests to chat requests, and completions to responses.

The formats are those of OpenAI's reference. Responses are not stored, so a request cannot continue an earlier response
by its id. The module does no I/O.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from index.rendering import remove_leading_gap
from proxy.core.errors import BadRequestError
from proxy.core.json_types import JsonDict
from proxy.openai.chat_completion import chat_logprobs
from proxy.openai.json_fields import list_field, text_field

_RESPONSE_FIELDS: Final = frozenset(
    {"input", "instructions", "max_output_tokens", "text", "include", "store", "truncation", "reasoning", "metadata"}
    | {"previous_response_id", "conversation", "prompt", "background", "max_tool_calls", "service_tier", "messages"}
)
_UNSUPPORTED: Final[Mapping[str, str]] = {
    "previous_response_id": "nothing is stored for a base model: send the whole conversation as `input`",
    "conversation": "nothing is stored for a base model: send the whole conversation as `input`",
    "prompt": "stored prompts are not served: send `instructions` and `input`",
    "background": "background responses are not served: leave it out",
}
_LOGPROBS: Final = "message.output_text.logprobs"
_ECHOED_DEFAULTS: Final[Mapping[str, Any]] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "temperature": None,
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}


def chat_body(body: Mapping[str, Any]) -> JsonDict:
    """Translate a request to the Responses API to a chat request. Raises BadRequestError for unsupported fields."""
    for name, reason in _UNSUPPORTED.items():
        if body.get(name):
            raise BadRequestError(f"`{name}`: {reason}.", param=name)
    if body.get("n") not in (None, 1):
        raise BadRequestError("`n`: a response has one answer.", param="n")
    passed = {name: value for name, value in body.items() if name not in _RESPONSE_FIELDS}
    chat: JsonDict = {**passed, "messages": response_messages(body)}
    if body.get("max_output_tokens") is not None:
        chat["max_completion_tokens"] = body["max_output_tokens"]
    if _LOGPROBS in list_field(body, "include"):
        chat["logprobs"] = True
    response_format = _response_format(body.get("text"))
    return {**chat, "response_format": response_format} if response_format else chat


def response_messages(body: Mapping[str, Any]) -> list[JsonDict]:
    """Return the instructions and the input as chat messages. Raises BadRequestError if one of them is not valid."""
    instructions, items = text_field(body, "instructions"), body.get("input")
    opening = [{"role": "system", "content": instructions}] if instructions else []
    if isinstance(items, str):
        return [*opening, {"role": "user", "content": items}]
    if not isinstance(items, list) or not items:
        raise BadRequestError("`input` must be a string or a list of at least one item.", param="input")
    return [*opening, *(_message(number, item) for number, item in enumerate(items))]


def _message(number: int, item: object) -> JsonDict:
    if not isinstance(item, dict) or item.get("type", "message") != "message" or "role" not in item:
        kind = item.get("type") if isinstance(item, dict) else type(item).__name__
        raise BadRequestError(f"input[{number}]: a base model reads messages, no item of type {kind!r}.", param="input")
    content = item.get("content")
    if isinstance(content, list):
        content = [_part(part) for part in content]
    return {"role": item["role"], "content": content}


def _part(part: object) -> object:
    if isinstance(part, dict) and part.get("type") in ("input_text", "output_text"):
        return {"type": "text", "text": part.get("text")}
    return part


def _response_format(text: object) -> JsonDict | None:
    """Translate the `format` in the request's field `text` to the `response_format` of a chat request.

    A chat request nests the schema one level deeper. The result is None if the client asked for plain text.
    """
    text_format = text.get("format") if isinstance(text, dict) else None
    if not isinstance(text_format, dict) or text_format.get("type", "text") == "text":
        return None
    if text_format["type"] != "json_schema":
        return dict(text_format)
    schema = {name: value for name, value in text_format.items() if name != "type"}
    return {"type": "json_schema", "json_schema": schema}


@dataclass(frozen=True, slots=True)
class ResponseShape:
    """The options for the translation of a completion to a response.

    Attributes:
        id: The random part of two ids: the id of the response and the id of its message.
        echoed: The fields of the request that the response repeats.
        trim: Whether to remove white space at the beginning of the answer. With some layouts of the prompt, the model
            writes such white space.
        top_logprobs: The maximum number of likely tokens that the response lists for each token of the answer. The
            client asked for this number.
    """

    id: str
    echoed: Mapping[str, Any] = field(repr=False)
    trim: bool = False
    top_logprobs: int = 0


def echoed_fields(body: Mapping[str, Any]) -> JsonDict:
    """Return the fields that a response repeats from the request. A field that the client did not set gets its default.

    The fields about tools have fixed values, because a base model calls no tools.
    """
    text = body.get("text") or {"format": {"type": "text"}}
    echoed = {name: default if body.get(name) is None else body[name] for name, default in _ECHOED_DEFAULTS.items()}
    return {**echoed, "text": text, "tools": [], "tool_choice": "auto", "parallel_tool_calls": True}


def response_object(shape: ResponseShape, completion: Mapping[str, Any]) -> JsonDict:
    """Translate a completion object to a response object."""
    choice = (completion.get("choices") or [{}])[0]
    text = choice.get("text") or ""
    part = _text_part(remove_leading_gap(text) if shape.trim else text, _logprobs(choice, shape))
    return _response(shape, completion, choice.get("finish_reason"), part)


def _response(shape: ResponseShape, completion: Mapping[str, Any], finish_reason: object, part: JsonDict) -> JsonDict:
    status = "incomplete" if finish_reason == "length" else "completed"
    details = {"reason": "max_output_tokens"} if status == "incomplete" else None
    return {
        **_frame(shape, completion, status),
        "incomplete_details": details,
        "output": [_item(shape, status, [part])],
        "usage": _usage(completion.get("usage")),
    }


def _frame(shape: ResponseShape, completion: Mapping[str, Any], status: str) -> JsonDict:
    return {
        "id": f"resp_{shape.id}",
        "object": "response",
        "created_at": completion.get("created", 0),
        "status": status,
        "error": None,
        "incomplete_details": None,
        "model": completion.get("model"),
        "output": [],
        "usage": None,
        **shape.echoed,
    }


def _item(shape: ResponseShape, status: str, content: Sequence[JsonDict]) -> JsonDict:
    return {"id": f"msg_{shape.id}", "type": "message", "role": "assistant", "status": status, "content": list(content)}


def _text_part(text: str, logprobs: Sequence[JsonDict]) -> JsonDict:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def _logprobs(choice: Mapping[str, Any], shape: ResponseShape) -> list[JsonDict]:
    translated = chat_logprobs(choice.get("logprobs"), shape.top_logprobs)
    return translated["content"] if translated else []


def _usage(usage: object) -> JsonDict | None:
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details") or {}
    return {
        "input_tokens": usage.get("prompt_tokens", 0),
        "input_tokens_details": {"cached_tokens": details.get("cached_tokens") or 0},
        "output_tokens": usage.get("completion_tokens", 0),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.get("total_tokens", 0),
    }


@dataclass(slots=True)
class ResponseEvents:
    """Translates completion chunks to the events of a response.

    Attributes:
        shape: The options for the translation.
        next_number: The sequence number of the next event.
        text: The text of the answer so far.
        logprobs: The logprobs of the answer so far.
        last_values: For each top-level field of the chunks, its latest value that is not null.
        finish_reason: The finish reason; None until a chunk contains one.
    """

    shape: ResponseShape
    next_number: int = 0
    text: str = ""
    logprobs: list[JsonDict] = field(default_factory=list)
    last_values: JsonDict = field(default_factory=dict)
    finish_reason: object = None

    def translate(self, chunk: Mapping[str, Any]) -> list[JsonDict]:
        """Return the events for one completion chunk. The list may be empty."""
        opening = [] if self.next_number else list(self._open(chunk))
        self.last_values = {**self.last_values, **{name: value for name, value in chunk.items() if value is not None}}
        return [*opening, *(event for choice in chunk.get("choices") or () for event in self._deltas(choice))]

    def finish(self) -> list[JsonDict]:
        """Return the events that end a complete response."""
        part = _text_part(self.text, self.logprobs)
        response = _response(self.shape, self.last_values, self.finish_reason, part)
        location = {"item_id": f"msg_{self.shape.id}", "output_index": 0, "content_index": 0}
        return [
            self._event("response.output_text.done", **location, text=self.text, logprobs=self.logprobs),
            self._event("response.content_part.done", **location, part=part),
            self._event("response.output_item.done", output_index=0, item=response["output"][0]),
            self._event(f"response.{response['status']}", response=response),
        ]

    def fail(self, code: str | None, message: str) -> JsonDict:
        """Return the event that reports an error after the response has begun."""
        return self._event("error", code=code, message=message, param=None)

    def _open(self, chunk: Mapping[str, Any]) -> Iterator[JsonDict]:
        frame = _frame(self.shape, chunk, "in_progress")
        yield self._event("response.created", response=frame)
        yield self._event("response.in_progress", response=frame)
        yield self._event("response.output_item.added", output_index=0, item=_item(self.shape, "in_progress", []))
        location = {"item_id": f"msg_{self.shape.id}", "output_index": 0, "content_index": 0}
        yield self._event("response.content_part.added", **location, part=_text_part("", []))

    def _deltas(self, choice: Mapping[str, Any]) -> Iterator[JsonDict]:
        text = choice.get("text") or ""
        delta = remove_leading_gap(text) if self.shape.trim and not self.text else text
        logprobs = _logprobs(choice, self.shape)
        self.text += delta
        self.logprobs += logprobs
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        if delta or logprobs:
            location = {"item_id": f"msg_{self.shape.id}", "output_index": 0, "content_index": 0}
            yield self._event("response.output_text.delta", **location, delta=delta, logprobs=logprobs)

    def _event(self, kind: str, **fields: object) -> JsonDict:
        event = {"type": kind, "sequence_number": self.next_number, **fields}
        self.next_number += 1
        return event
