"""The formats of streams: how the chunks of a backend are checked and converted for each API.

If the backend replies in the API of the client, its stream is relayed: each event stays as it is. Only token counts
that the client did not ask for are removed. The stream of a base model is translated from text completions to chat
completions or to a response. The module does no I/O.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Final

from proxy.core.errors import BackendProtocolError, ProxyError
from proxy.core.json_types import JsonDict
from proxy.inference.plan import CHAT, COMPLETIONS, RESPONSES, Plan
from proxy.inference.reply_progress import ReplyProgress
from proxy.inference.stream import StreamFormat
from proxy.openai.backend_reply import (
    ChoiceForm,
    checked_choices,
    encode_reply,
    has_finished,
    is_extension,
    is_only_usage,
    only_text,
)
from proxy.openai.chat_completion import ChatChunks, ChatShape
from proxy.openai.chunk_cache import ChunkCache
from proxy.openai.responses import ResponseEvents, ResponseShape, failed_event
from proxy.openai.sse import DONE_EVENT, error_event
from proxy.openai.stop_strings import StopCutter

_NULL_USAGE: Final = re.compile(rb',\s*"usage"\s*:\s*null')
_RESPONSE_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})
_LAST_EVENTS: Final = frozenset({"transcript.text.done", "speech.audio.done"})  # of audio endpoints


def stream_format(plan: Plan, progress: ReplyProgress) -> StreamFormat:
    """Return the format of the stream of a plan. It records the token counts of the stream in `progress`."""
    if isinstance(plan.shape, ResponseShape):
        return ResponseTranslation(plan, progress, plan.shape)
    if isinstance(plan.shape, ChatShape):
        return ChatTranslation(plan, progress, plan.shape)
    if plan.path in (CHAT, COMPLETIONS):
        return RelayedChunks(plan, progress)
    return RelayedResponse(progress) if plan.path == RESPONSES else RelayedEvents()


class _ChunkFormat(ABC):
    """Checks chunks with choices, cuts them at stop strings, and records which choices have finished.

    Attributes:
        finished: Whether all choices that the request asks for, and all choices that began, have finished.
        closed: Whether nothing can follow in the stream. Always False, because token counts or `[DONE]` may follow the
            last choice.
    """

    closed = False

    def __init__(self, plan: Plan, progress: ReplyProgress, form: ChoiceForm) -> None:
        self.finished = False
        self.cache = ChunkCache()
        self._form = form
        self._progress = progress
        self._strips_usage = plan.strip_usage
        self._cutter = StopCutter(plan.cut_at) if plan.cut_at is not None else None
        self._answers = plan.answers
        self._begun: set[int] = set()
        self._last_cut: JsonDict = {}
        self._ended: set[int] = set()

    def quick(self, events: bytes) -> bytes | None:
        """Return the conversion of chunks that differ from an earlier one only in their texts; None for others."""
        return self.cache.translate(events) if self._cutter is None or self._cutter.passes(events) else None

    def convert(self, event: bytes, payload: JsonDict) -> bytes:
        """Return the conversion of a chunk. Raises BackendProtocolError if the chunk is malformed."""
        self._progress.record_usage(payload)
        if not payload.get("choices"):
            return self._without_choices(event, payload)
        self._record_ends(checked_choices(payload, self._form))
        if self._cutter is None or (self._cutter.passes(event) and self._cutter.has_begun(payload["choices"])):
            return self._converted(event, payload)
        cut = self._last_cut = self._cutter.cut(payload)
        self._record_ends(cut["choices"])
        if cut["choices"]:
            return self._converted(b"", cut)
        return self._without_choices(b"", cut) if payload.get("usage") else b""

    def failure(self, error: ProxyError) -> bytes:
        """Return the error event."""
        return error_event(error)

    def _released(self) -> bytes:
        """Return the conversion of the text that is still held back. Raises BackendProtocolError if no choice began."""
        if not self._begun:
            raise BackendProtocolError("The backend's stream ended without an answer.")
        parts = self._cutter.release() if self._cutter is not None else []
        return self._converted(b"", {**self._last_cut, "choices": parts}) if parts else b""

    @abstractmethod
    def end(self, done: bytes = DONE_EVENT) -> bytes:
        """Return the closing events."""

    @abstractmethod
    def _converted(self, event: bytes, payload: JsonDict) -> bytes:
        """Return the conversion of a chunk with choices. `event` is empty if the chunk was cut."""

    @abstractmethod
    def _converted_usage(self, event: bytes, payload: JsonDict) -> bytes:
        """Return the conversion of a chunk that has token counts and an empty list of choices."""

    @abstractmethod
    def _converted_other(self, event: bytes, payload: JsonDict) -> bytes:
        """Return the conversion of an event that is no chunk, or of a chunk that has no choices and no token counts."""

    def _without_choices(self, event: bytes, payload: JsonDict) -> bytes:
        choices = payload.get("choices")
        if choices is None and payload.get("usage") is not None:  # some servers leave `choices` out
            return self._converted_usage(b"", {**payload, "choices": []})
        if choices == []:
            has_usage = payload.get("usage") is not None
            return self._converted_usage(event, payload) if has_usage else self._converted_other(event, payload)
        if is_extension(payload):
            return self._converted_other(event, payload)
        checked_choices(payload, self._form)
        return b""

    def _record_ends(self, choices: Sequence[Mapping[str, Any]]) -> None:
        self._begun.update(choice.get("index", 0) for choice in choices)
        self._ended.update(choice.get("index", 0) for choice in choices if has_finished(choice))
        self.finished = self._begun == self._ended and len(self._ended) >= self._answers


class RelayedChunks(_ChunkFormat):
    """Relays chunks of chat or text completions unchanged, except for token counts that the client did not request."""

    def __init__(self, plan: Plan, progress: ReplyProgress) -> None:
        super().__init__(plan, progress, "delta" if plan.path == CHAT else "text")

    def end(self, done: bytes = DONE_EVENT) -> bytes:
        """Return the text that the client did not get yet, and `[DONE]`."""
        return self._released() + done

    def _converted(self, event: bytes, payload: JsonDict) -> bytes:
        relayed = self._without_usage(event or _event(payload), payload)
        if event and (found := only_text(payload, self._form)):
            name, text = found
            self.cache.store(event, name, text, relayed, name)
        return relayed

    def _without_usage(self, event: bytes, payload: JsonDict) -> bytes:
        if not self._strips_usage or "usage" not in payload:
            return event
        if payload["usage"] is None:
            return _NULL_USAGE.sub(b"", event, count=1)
        payload.pop("usage")  # llama.cpp sends usage with the last choice
        return _event(payload)

    def _converted_usage(self, event: bytes, payload: JsonDict) -> bytes:
        return b"" if self._strips_usage else event or _event(payload)

    def _converted_other(self, event: bytes, payload: JsonDict) -> bytes:
        return b"" if self._strips_usage and is_only_usage(payload) else self._without_usage(event, payload)


class ChatTranslation(_ChunkFormat):
    """Translates chunks of text completions to chunks of chat completions."""

    def __init__(self, plan: Plan, progress: ReplyProgress, shape: ChatShape) -> None:
        super().__init__(plan, progress, "text")
        self._chunks = ChatChunks(shape)

    def end(self, done: bytes = DONE_EVENT) -> bytes:
        """Return the text, the finish reasons and the token counts that were not sent yet, and then `[DONE]`."""
        return self._released() + b"".join(map(_event, self._chunks.finish())) + done

    def _converted(self, event: bytes, payload: JsonDict) -> bytes:
        if self._strips_usage:
            payload.pop("usage", None)
        text = self._chunks.plain_text(payload) if event else None
        translated = b"".join(map(_event, self._chunks.translate(payload)))
        if text is not None:
            self.cache.store(event, "text", text, translated, "content")
        return translated

    def _converted_usage(self, event: bytes, payload: JsonDict) -> bytes:  # noqa: ARG002 - the interface
        return b"" if self._strips_usage else b"".join(map(_event, self._chunks.translate(payload)))

    def _converted_other(self, event: bytes, payload: JsonDict) -> bytes:
        return event if is_extension(payload) else b""


class ResponseTranslation(_ChunkFormat):
    """Translates chunks of text completions to the events of a response."""

    def __init__(self, plan: Plan, progress: ReplyProgress, shape: ResponseShape) -> None:
        super().__init__(plan, progress, "text")
        self._events = ResponseEvents(shape)

    def end(self, done: bytes = DONE_EVENT) -> bytes:  # noqa: ARG002 - the interface
        """Return the events that end a complete response."""
        return self._released() + b"".join(map(_named_event, self._events.finish()))

    def failure(self, error: ProxyError) -> bytes:
        """Return the event `response.failed`. The events that open a response precede it if they were not sent yet."""
        return b"".join(map(_named_event, self._events.fail(error.code, str(error))))

    def _converted(self, event: bytes, payload: JsonDict) -> bytes:  # noqa: ARG002 - the interface
        return b"".join(map(_named_event, self._events.translate(payload)))

    def _converted_usage(self, event: bytes, payload: JsonDict) -> bytes:
        return self._converted(event, payload)

    def _converted_other(self, event: bytes, payload: JsonDict) -> bytes:  # noqa: ARG002 - the interface
        return b""


class RelayedResponse:
    """Relays the events of a response unchanged.

    Attributes:
        finished: Whether the last event of the response was relayed.
        closed: Equal to `finished`, because nothing follows the last event of a response.
    """

    def __init__(self, progress: ReplyProgress) -> None:
        self.finished = self.closed = False
        self._progress = progress
        self._response: Mapping[str, Any] = {}
        self._number = 0

    def quick(self, events: bytes) -> bytes | None:  # noqa: ARG002 - the interface
        """Return None: the last event must be recognized, so each event is parsed."""
        return None

    def convert(self, event: bytes, payload: JsonDict) -> bytes:
        """Return the event unchanged."""
        response, number = payload.get("response"), payload.get("sequence_number")
        if isinstance(response, dict):
            self._response = response
            self._progress.record_usage(response)
        self._number = number if type(number) is int else self._number
        if str(payload.get("type")) in _RESPONSE_ENDS:
            self.finished = self.closed = True
            self._progress.reported = payload["type"] == "response.failed"
        return event

    def end(self, done: bytes = DONE_EVENT) -> bytes:  # noqa: ARG002 - the interface
        """Return nothing. Raise BackendProtocolError if the last event of the response was not relayed."""
        if not self.finished:
            raise BackendProtocolError("The backend's stream ended before the response was complete.")
        return b""

    def failure(self, error: ProxyError) -> bytes:
        """Return the event `response.failed`."""
        return _named_event(failed_event(self._response, self._number + 1, error.code, str(error)))


class RelayedEvents:
    """Relays the events of any other endpoint unchanged, such as the parts of a transcription.

    Attributes:
        finished: Whether an event that is known as the last one was relayed.
        closed: False, because `[DONE]` may follow.
    """

    closed = False

    def __init__(self) -> None:
        self.finished = False

    def quick(self, events: bytes) -> bytes | None:  # noqa: ARG002 - the interface
        """Return None: the last event must be recognized, so each event is parsed."""
        return None

    def convert(self, event: bytes, payload: JsonDict) -> bytes:
        """Return the event unchanged."""
        self.finished = self.finished or str(payload.get("type")) in _LAST_EVENTS
        return event

    def end(self, done: bytes = DONE_EVENT) -> bytes:
        """Return `[DONE]`, or nothing if the last event was relayed."""
        return b"" if self.finished else done

    def failure(self, error: ProxyError) -> bytes:
        """Return the error event."""
        return error_event(error)


def _event(chunk: Mapping[str, Any]) -> bytes:
    return b"data: " + encode_reply(chunk) + b"\n\n"


def _named_event(payload: Mapping[str, Any]) -> bytes:
    return b"event: " + str(payload["type"]).encode() + b"\n" + _event(payload)
