"""Translates the completions of a base model to responses of OpenAI's Responses API, whole or as streams of events.

The formats follow OpenAI's reference. The module response_request.py translates the requests. Responses are not stored.
The module does no I/O.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from index.rendering import remove_leading_gap
from proxy.core.json_types import JsonDict
from proxy.openai.backend_reply import usage_count
from proxy.openai.logprobs import chat_logprobs

# The fields of the request that a response repeats, with their defaults.
_ECHOED_DEFAULTS: Final[Mapping[str, Any]] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "temperature": None,
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}


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
        model: The id of the model, which the response names if the backend names none.
    """

    id: str
    echoed: Mapping[str, Any] = field(repr=False)
    trim: bool = False
    top_logprobs: int = 0
    model: str = ""


def echoed_fields(body: Mapping[str, Any]) -> JsonDict:
    """Return the fields that a response repeats from the request. A field that the client did not set gets its default.

    The fields about tools have fixed values, because a base model calls no tools. The field `store` is always false,
    because nothing is stored.
    """
    text = body.get("text") or {"format": {"type": "text"}}
    echoed = {name: default if body.get(name) is None else body[name] for name, default in _ECHOED_DEFAULTS.items()}
    fixed = {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "store": False}
    return {**echoed, "text": text, **fixed, "previous_response_id": None}


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
    created, model = completion.get("created"), completion.get("model")
    return {
        "id": f"resp_{shape.id}",
        "object": "response",
        "created_at": created if type(created) in (int, float) else 0,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "model": model if isinstance(model, str) and model else shape.model,
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
    details = usage.get("prompt_tokens_details")
    read, written = usage_count(usage, "prompt_tokens"), usage_count(usage, "completion_tokens")
    return {
        "input_tokens": read,
        "input_tokens_details": {
            "cached_tokens": usage_count(details, "cached_tokens") if isinstance(details, dict) else 0
        },
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage_count(usage, "total_tokens") or read + written,
    }


def failed_event(response: Mapping[str, Any], number: int, code: str | None, message: str) -> JsonDict:
    """Return the event that reports an error after a response has begun.

    Args:
        response: The response object of the latest event; empty if there is none.
        number: The sequence number of the event.
        code: The code of the error.
        message: The message of the error.
    """
    error = {"code": code or "server_error", "message": message}
    failed = {**response, "object": "response", "status": "failed", "error": error}
    return {"type": "response.failed", "sequence_number": number, "response": failed}


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
        opening = self._opening(chunk)
        self.last_values = {**self.last_values, **{name: value for name, value in chunk.items() if value is not None}}
        return [*opening, *(event for choice in chunk.get("choices") or () for event in self._deltas(choice))]

    def finish(self) -> list[JsonDict]:
        """Return the events that end a complete response."""
        opening = self._opening(self.last_values)
        part = _text_part(self.text, self.logprobs)
        response = _response(self.shape, self.last_values, self.finish_reason, part)
        return [
            *opening,
            self._event("response.output_text.done", **self._place, text=self.text, logprobs=self.logprobs),
            self._event("response.content_part.done", **self._place, part=part),
            self._event("response.output_item.done", output_index=0, item=response["output"][0]),
            self._event(f"response.{response['status']}", response=response),
        ]

    def fail(self, code: str | None, message: str) -> list[JsonDict]:
        """Return the events that report an error: `response.failed`, after the opening events if they are missing."""
        opening = self._opening(self.last_values)
        part = _text_part(self.text, self.logprobs)
        response = {
            **_frame(self.shape, self.last_values, "failed"),
            "output": [_item(self.shape, "incomplete", [part])],
            "usage": _usage(self.last_values.get("usage")),
        }
        return [*opening, failed_event(response, self.next_number, code, message)]

    @property
    def _place(self) -> JsonDict:
        """The fields that say which part of the response an event is about."""
        return {"item_id": f"msg_{self.shape.id}", "output_index": 0, "content_index": 0}

    def _opening(self, chunk: Mapping[str, Any]) -> list[JsonDict]:
        """Return the events that open the response; empty if they were returned before."""
        if self.next_number:
            return []
        frame = _frame(self.shape, chunk, "in_progress")
        return [
            self._event("response.created", response=frame),
            self._event("response.in_progress", response=frame),
            self._event("response.output_item.added", output_index=0, item=_item(self.shape, "in_progress", [])),
            self._event("response.content_part.added", **self._place, part=_text_part("", [])),
        ]

    def _deltas(self, choice: Mapping[str, Any]) -> Iterator[JsonDict]:
        text = choice.get("text") or ""
        delta = remove_leading_gap(text) if self.shape.trim and not self.text else text
        logprobs = _logprobs(choice, self.shape)
        self.text += delta
        self.logprobs += logprobs
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        if delta or logprobs:
            yield self._event("response.output_text.delta", **self._place, delta=delta, logprobs=logprobs)

    def _event(self, kind: str, **fields: object) -> JsonDict:
        event = {"type": kind, "sequence_number": self.next_number, **fields}
        self.next_number += 1
        return event
