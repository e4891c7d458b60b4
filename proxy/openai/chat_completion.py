"""Chat with a base model: translates chat requests to completion requests, and completions to chat replies.

The formats follow OpenAI's reference and vLLM's completions endpoint. Fields that only chat requests have, or that have
another meaning in completion requests, are translated or removed. All other fields are copied unchanged. The module
does no I/O.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import getrandbits
from typing import Any, Final

from index.rendering import remove_leading_gap
from index.types import Message, Role
from proxy.core.errors import BadRequestError
from proxy.core.json_types import JsonDict, shown
from proxy.openai.backend_reply import has_finished, usage_count
from proxy.openai.json_fields import list_field
from proxy.openai.logprobs import chat_logprobs
from proxy.openai.message_text import content_text, is_blank, message_text
from proxy.openai.requested_form import is_set, requested_tools, without_empty_form_fields

_ROLES: Final[Mapping[str, Role]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
# The fields of a chat request that are not copied to a completion request.
_CHAT_FIELDS: Final = frozenset(
    {"messages", "max_completion_tokens", "top_logprobs", "tools", "tool_choice", "functions", "function_call"}
    | {"parallel_tool_calls", "modalities", "audio", "add_generation_prompt", "continue_final_message"}
    | {"chat_template", "chat_template_kwargs", "prompt", "prompt_embeds", "suffix", "echo"}
)
_COMPLETION_FIELDS: Final = ("prompt", "prompt_embeds", "suffix", "echo")
_CHECKED_FIELDS: Final = frozenset({"tools", "functions", "modalities", *_COMPLETION_FIELDS})
_TRANSLATED: Final = frozenset({"index", "text", "logprobs", "finish_reason"})
_ALTERNATIVE: Final = "Use a chat model for this, or describe the output with `response_format`."
_WITHOUT_TOOLS: Final = (
    f"Send no tools (in Open WebUI, switch off the model's capability Builtin Tools). {_ALTERNATIVE}"
)


def text_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """Return the messages as text, without assistant messages that have no text.

    Messages without text would teach the model to give empty answers. A message that has only reasoning counts as a
    message without text.

    Raises BadRequestError for images, audio and tool calls, and for roles other than those in _ROLES.
    """
    turns = [_text_message(number, message) for number, message in enumerate(messages)]
    return tuple([turn for turn in turns if turn.role != "assistant" or not is_blank(turn.text)] or turns)


def _text_message(number: int, message: Mapping[str, Any]) -> Message:
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise BadRequestError(
            f"messages[{number}]: a base model completes text and has no role {shown(role)}. {_ALTERNATIVE}",
            param="messages",
        )
    if message.get("tool_calls") or message.get("function_call"):
        raise BadRequestError(
            f"messages[{number}]: a base model completes text and knows no tool calls. {_ALTERNATIVE}", param="messages"
        )
    content = message.get("content")
    if content is None or content in ("", []):
        return Message(_ROLES[role], message_text(message))
    text = content if isinstance(content, str) else content_text(content, f"messages[{number}].content")
    return Message(_ROLES[role], text)


def check_completable(body: Mapping[str, Any]) -> None:
    """Raise BadRequestError if a base model cannot serve the chat request."""
    if _CHECKED_FIELDS.isdisjoint(body):  # the usual case
        return
    if name := requested_tools(body):
        raise BadRequestError(f"A base model completes text and cannot call {name}. {_WITHOUT_TOOLS}", param=name)
    if "audio" in list_field(body, "modalities"):
        raise BadRequestError(
            "A base model completes text and cannot answer with audio. Use a chat model that can.", param="audio"
        )
    for name in _COMPLETION_FIELDS:
        if name in body and is_set(body[name]):
            raise BadRequestError(f"`{name}` belongs to /v1/completions. Leave it out of a chat request.", param=name)


def completion_body(
    body: Mapping[str, Any], prompt: str, stop: Sequence[str], sampling: Mapping[str, object], max_tokens: int
) -> JsonDict:
    """Return the body of the /v1/completions request that serves a chat request.

    Args:
        body: The chat request.
        prompt: The rendered prompt.
        stop: All stop strings that the backend gets, including the client's stop strings.
        sampling: The default values of sampling fields. A value of the client takes precedence.
        max_tokens: The maximum number of tokens of the answer. It applies only if the client set no maximum.
    """
    request = without_empty_form_fields({name: value for name, value in body.items() if name not in _CHAT_FIELDS})
    for name, value in sampling.items():
        if body.get(name) is None:
            request[name] = value
    client_limit = client_max_tokens(body)
    request["prompt"] = prompt
    request["max_tokens"] = max_tokens if client_limit is None else client_limit
    request.pop("stop", None)
    if stop:
        request["stop"] = stop
    request.pop("logprobs", None)
    if body.get("logprobs"):
        request["logprobs"] = body.get("top_logprobs") or 0
    return request


def client_max_tokens(body: Mapping[str, Any]) -> Any:
    """Return the client's `max_completion_tokens`, else its `max_tokens`, else None. The value is not checked."""
    limit = body.get("max_completion_tokens")
    return body.get("max_tokens") if limit is None else limit


def client_stop(body: Mapping[str, Any]) -> list[str]:
    """Return the client's stop strings as a list.

    Raises BadRequestError unless `stop` is absent, null, a string, or a list of strings.
    """
    stop = body.get("stop")
    strings = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(strings, list) or not all(isinstance(text, str) for text in strings):
        raise BadRequestError("`stop` must be a string or a list of strings.", param="stop")
    return [text for text in strings if text]


@dataclass(frozen=True, slots=True)
class ChatShape:
    """The options for the translation of a completion to a chat reply.

    Attributes:
        trim: Whether to remove white space at the beginning of the answer. With some layouts of the prompt, the model
            writes such white space.
        top_logprobs: The maximum number of likely tokens that the reply lists for each token of the answer. The client
            asked for this number. The backend may list one more: the token that the model chose.
        usage_on_last_choice: Whether the backend sends the token usage in the last chunk of each choice, not in a
            separate event.
    """

    trim: bool = False
    top_logprobs: int = 0
    usage_on_last_choice: bool = False


def chat_completion(completion: Mapping[str, Any], shape: ChatShape) -> JsonDict:
    """Translate a completion object to a chat completion object."""
    return {
        **completion,
        "id": _chat_id(completion.get("id")),
        "object": "chat.completion",
        "choices": [_chat_choice(choice, shape) for choice in completion.get("choices", ())],
    }


def _chat_choice(choice: Mapping[str, Any], shape: ChatShape) -> JsonDict:
    text = choice.get("text") or ""
    passed = {name: value for name, value in choice.items() if name not in {"text", "logprobs"}}
    return {
        **passed,
        "finish_reason": _finish_reason(choice),
        "message": {"role": "assistant", "content": remove_leading_gap(text) if shape.trim else text, "refusal": None},
        "logprobs": chat_logprobs(choice.get("logprobs"), shape.top_logprobs),
    }


def _finish_reason(choice: Mapping[str, Any]) -> Any:
    """Return the finish reason of a choice of a complete answer.

    If the backend sent none, the reason is `stop`: servers leave it out only if the model itself ended the answer.
    """
    return choice["finish_reason"] if has_finished(choice) else "stop"


def _chat_id(identifier: object, other: str = "") -> str:
    """Return the id of a chat reply. If the completion has no id, the id is made from `other`, or else at random."""
    name = identifier if isinstance(identifier, str) and identifier else other or f"{getrandbits(128):032x}"
    return "chatcmpl-" + name.removeprefix("cmpl-").removeprefix("chatcmpl-")


@dataclass(slots=True)
class ChatChunks:
    """Translates completion chunks to chat chunks.

    For each choice, the chat chunks contain first the role, then the text, then the finish reason.

    Attributes:
        shape: The options for the translation.
        begun: The indexes of the choices whose role has been sent.
        ended: The indexes of the choices whose finish reason has been sent.
        frame: The latest chunk that had choices. Chunks that the proxy adds repeat its fields, except `choices`.
        trimmed: The indexes of the choices whose text has begun. White space in their later text is kept.
        usage_chunk: A chunk with usage that is sent at the end; empty if there is none. If the last chunks of choices
            have usage, this chunk has the sum of their completion tokens. If the backend sent usage before the finish
            reasons, this chunk has that usage.
        other_id: The id that chunks get if the backend sent no id.
    """

    shape: ChatShape
    begun: set[int] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)
    frame: JsonDict = field(default_factory=dict)
    trimmed: set[int] = field(default_factory=set)
    usage_chunk: JsonDict = field(default_factory=dict)
    other_id: str = field(default_factory=lambda: f"{getrandbits(128):032x}")

    def translate(self, chunk: Mapping[str, Any]) -> list[JsonDict]:
        """Return the chat chunks for one completion chunk. The list may be empty."""
        frame = {**chunk, "id": _chat_id(chunk.get("id"), self.other_id), "object": "chat.completion.chunk"}
        if not chunk.get("choices"):
            return self._usage_now(frame) if chunk.get("usage") else []
        if self.shape.usage_on_last_choice:
            self._take_usage(frame)
        self.frame = frame
        deltas = [delta for choice in chunk["choices"] for delta in self._deltas(choice)]
        return [{**frame, "choices": [delta]} for delta in deltas]

    def plain_text(self, chunk: Mapping[str, Any]) -> str | None:
        """Return the text of a chunk that only adds text to one choice; None for other chunks, which are rare."""
        choices = chunk.get("choices") or []
        if len(choices) != 1 or chunk.get("usage"):
            return None
        choice = choices[0]
        index, text = choice.get("index", 0), choice.get("text")
        begun = index in self.begun and (index in self.trimmed or not self.shape.trim)
        continues = begun and not has_finished(choice) and not choice.get("logprobs")
        return text if continues and isinstance(text, str) and text else None

    def finish(self) -> list[JsonDict]:
        """Return the chunks that end a complete answer: missing finish reasons, and the usage of the choices."""
        return [*self._missing_ends(), *([self.usage_chunk] if self.usage_chunk else [])]

    def _missing_ends(self) -> Iterator[JsonDict]:
        """Yield a finish reason for each choice that began but got none from the backend."""
        for index in sorted(self.begun - self.ended):
            self.ended.add(index)
            yield {**self.frame, "choices": [{**_delta(index, {}), "finish_reason": _finish_reason({})}]}

    def _usage_now(self, frame: JsonDict) -> list[JsonDict]:
        """Return a chunk with usage, or keep it for the end if finish reasons have to be sent before it."""
        if self.begun == self.ended:
            return [frame]
        self.usage_chunk = frame
        return []

    def _take_usage(self, frame: JsonDict) -> None:
        """Move the usage of one choice to `usage_chunk`, which adds up the completion tokens of all choices."""
        usage = frame.pop("usage", None)
        if not isinstance(usage, dict) or not usage:
            return
        completion = usage_count(self.usage_chunk.get("usage", {}), "completion_tokens") + usage_count(
            usage, "completion_tokens"
        )
        total = usage_count(usage, "prompt_tokens") + completion
        usage = {**usage, "completion_tokens": completion, "total_tokens": total}
        self.usage_chunk = {**frame, "choices": [], "usage": usage}

    def _deltas(self, choice: Mapping[str, Any]) -> Iterator[JsonDict]:
        index = choice.get("index", 0)
        if index not in self.begun:
            self.begun.add(index)
            yield _delta(index, {"role": "assistant", "content": ""})
        text = self._trimmed(index, choice.get("text") or "")
        logprobs = chat_logprobs(choice.get("logprobs"), self.shape.top_logprobs)
        if text or logprobs:
            yield _delta(index, {"content": text}, logprobs=logprobs)
        if has_finished(choice):
            self.ended.add(index)
            extras = {name: value for name, value in choice.items() if name not in _TRANSLATED}
            yield {**_delta(index, {}), "finish_reason": choice["finish_reason"], **extras}

    def _trimmed(self, index: int, text: str) -> str:
        if not self.shape.trim or index in self.trimmed:
            return text
        text = remove_leading_gap(text)
        if text:
            self.trimmed.add(index)
        return text


def _delta(index: int, delta: JsonDict, logprobs: JsonDict | None = None) -> JsonDict:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}
