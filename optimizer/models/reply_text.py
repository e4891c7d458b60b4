"""Reads the text of a model's reply, and the JSON objects in the text. All functions are pure.

A model may reason before it answers. A server may return the reasoning as a part of the text, between the tags <think>
and </think>, or in a field of its own. The answer is what follows the reasoning.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from index.measures.answer_form import repeated_share
from optimizer.core.errors import UnparsableReplyError
from optimizer.core.relaxed_json import relaxed_object

_DECODER: Final = json.JSONDecoder(strict=False)
"""It also accepts line breaks inside of JSON strings, which models often write."""
_REASONING: Final = (
    r"(?:(?:inner|internal)_)?(?:think|thinking|thoughts?|reason|reasoning|reflection|scratch_?pad|analysis|cot|monologue"
    r"|deliberation|rationale|chain_of_thought)(?:_process)?|seed:think"
)
_THINK_TAG: Final = re.compile(
    rf"[<\u25c1]\s*(?P<slash>/?)\s*(?:{_REASONING})(?:\s[^<>]*)?[>\u25b7]"
    r"|\[(?P<bracket>/?)THINK\]"
    r"|<\|(?P<bar>/?)(?:think|thinking)\|>"
    r"|<\|(?P<edge>begin|start|end)_(?:of_)?(?:thought|thinking)\|>"
    r"|<\|channel\|>(?P<channel>\w+)(?:(?!<\|message\|>).){0,200}<\|message\|>"
    r"|<\|channel>thought\b|(?P<gemma><channel\|>)"
    r"|<unused94>thought\b|(?P<medgemma><unused95>)",
    re.IGNORECASE | re.DOTALL,
)
"""The tags of DeepSeek, Qwen and many others, of Kimi, of Magistral, of OLMo, of OpenThinker and Cohere, the channels
of gpt-oss, and the tokens of Gemma."""
_PLAIN_CHANNELS: Final = re.compile(r"\s*analysis.*assistantfinal", re.DOTALL)
"""The channels of gpt-oss as a server returns them that leaves out all special tokens."""
_ANSWER_TAG: Final = re.compile(r"<(?:answer|response|final_answer)>", re.IGNORECASE)
_END_TOKENS: Final = re.compile(r"(?:\s*(?:<\|\w{2,40}\|>|</s>|<eos>|<end_of_turn>))+\s*\Z")
"""Tokens that end a turn. Some servers return them as a part of the text."""
_MAX_RELAXED: Final = 50
"""So many objects of a text that are no JSON are read nevertheless, at most. Each of them takes a search."""
_OPENING: Final = re.compile(r"[{\[]")
_REASONING_FIELDS: Final = ("reasoning_content", "reasoning")
_CUT: Final = "length"
_LOOP_SHARE: Final = 0.5
"""A cut reply loops if a larger share of its sequences of four words repeats an earlier one."""
_MAX_CHARACTERS: Final = 200_000
"""Only this many characters at the end of a text are read. Longer replies would take long to search for JSON."""


@dataclass(frozen=True, slots=True)
class FoundObject:
    """A JSON object in a text, or a list.

    Attributes:
        value: The parsed object.
        start: The position of its first character in the text.
        end: The position after its last character.
    """

    value: Any
    start: int
    end: int


def answer_text(choice: Any) -> str:
    """Return the text of one choice of a chat completion, with the reasoning that the text may contain.

    If the text is empty although the model stopped by itself, the result is the text of the field for reasoning: some
    servers put the whole reply there if the model does not mark the end of its reasoning.

    Raises:
        UnparsableReplyError: The choice has no text.
    """
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise UnparsableReplyError("a choice without a message")
    text = _content_text(message.get("content"))
    if not text.strip() and choice.get("finish_reason") != _CUT:
        text = next((_content_text(message.get(name)) for name in _REASONING_FIELDS if message.get(name)), "")
    text = _END_TOKENS.sub("", text)
    if not text.strip():
        raise UnparsableReplyError("the reply has no text")
    return text


def is_cut(reply: Any) -> bool:
    """Return whether a choice of the reply was cut at the maximum number of tokens, and may end with more tokens.

    A reply that repeats itself, or consists mostly of white space, would not end with more tokens either.
    """
    choices = reply.get("choices") if isinstance(reply, dict) else None
    found = choices if isinstance(choices, list) else []
    return any(isinstance(one, dict) and one.get("finish_reason") == _CUT and not _loops(one) for one in found)


def _loops(choice: Mapping[str, Any]) -> bool:
    """Whether the text of a choice repeats itself, as weak models do until they are cut."""
    message = choice.get("message")
    fields = message if isinstance(message, dict) else {}
    text = "".join(_content_text(fields.get(name)) for name in ("content", *_REASONING_FIELDS))
    words = text.split()
    is_blank = 2 * sum(map(len, words)) + len(words) < len(text) / 2
    return is_blank or repeated_share(text) > _LOOP_SHARE


def without_reasoning(text: str) -> str:
    """Return what follows the reasoning in a text; empty if the reasoning has no end."""
    return text[_reasoning_end(text, list(_values(text))) :]


def json_objects(text: str) -> list[FoundObject]:
    """Return the whole JSON objects of a text that follow its reasoning, the last one first.

    An object inside of another object does not count, even if the outer object is cut at the end of the text. Text
    between the objects is ignored, such as code fences.
    """
    return [found for one in reversed(_after_reasoning(text)) if (found := _as_object(one)) is not None]


def nested_objects(text: str) -> list[Mapping[str, Any]]:
    """Return the objects of a text that follow its reasoning, from left to right, also those inside of others.

    Only objects in the first level of a list, of an object, or of a list in an object are returned.
    """
    return [found for one in _after_reasoning(text) for found in _unfolded(one.value)]


def _unfolded(value: Any) -> list[Mapping[str, Any]]:
    if isinstance(value, list):
        return [one for one in value if isinstance(one, dict)]
    lists = [one for inner in value.values() if isinstance(inner, list) for one in inner if isinstance(one, dict)]
    return [value, *lists]


def _after_reasoning(text: str) -> list[FoundObject]:
    text = text[-_MAX_CHARACTERS:]
    found = list(_values(text))
    end = _reasoning_end(text, found)
    return [one for one in found if one.start >= end]


def _as_object(found: FoundObject) -> FoundObject | None:
    """Return an object, or the only object of a list. None for a list of several values."""
    value = found.value
    if isinstance(value, list):
        return replace(found, value=value[0]) if len(value) == 1 and isinstance(value[0], dict) else None
    return found


def find_object(text: str, is_wanted: Callable[[Mapping[str, Any]], bool]) -> FoundObject | None:
    """Return the last whole JSON object after the reasoning for which `is_wanted` is true; None if there is none.

    A model may put the object that it was asked for into another one, such as {"verdict": {...}}. The values of an
    object are therefore tried after the object itself, also those that are JSON in a text, as in a call of a tool. Such
    a value is returned with the positions of the outer object.
    """
    for found in json_objects(text):
        inner = (one for value in found.value.values() for one in _inner_objects(value))
        wanted = next((value for value in (found.value, *inner) if is_wanted(value)), None)
        if wanted is not None:
            return replace(found, value=wanted)
    return None


def _inner_objects(value: Any) -> list[Mapping[str, Any]]:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        return [found.value for found in json_objects(value)][-1:]
    return [value] if isinstance(value, dict) else []


def _content_text(content: Any) -> str:
    """Return the text of a message's content, which is a text or a list of parts. Parts of reasoning are left out."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type", "text") == "text"]
    return "".join(text for text in texts if isinstance(text, str))


def message_text(message: Mapping[str, Any]) -> str:
    """Return the text of a model's answer. A refusal that the server returns in a field of its own is the answer.

    Raises:
        UnparsableReplyError: The message holds no text.
    """
    content, refusal = message.get("content"), message.get("refusal")
    if content is None and isinstance(refusal, str) and refusal:
        return text_field(message, "refusal")
    text = _content_text(content) if isinstance(content, list) else ""
    return text or text_field(message, "content")


def text_field(fields: Any, name: str) -> str:
    """Return the text under a key of a JSON object that a model wrote.

    Raises:
        UnparsableReplyError: There is no object, the key is missing, or its value is not a text that UTF-8 can encode:
            null, a number, a list, an object, or a text with half of a surrogate pair.
    """
    value = fields.get(name) if isinstance(fields, dict) else None
    if not isinstance(value, str):
        raise UnparsableReplyError(f'"{name}" is not a text')
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UnparsableReplyError(f'"{name}" holds half of a surrogate pair') from None
    return value


def _reasoning_end(text: str, objects: Sequence[FoundObject]) -> int:
    """Return the position at which the reasoning in a text ends: 0 if there is none.

    A tag inside of an object does not end the reasoning. If the last tag opens a reasoning, the reasoning ends at a tag
    that opens an answer. If there is no such tag, the result is the length of the text.
    """
    tags = [tag for tag in _THINK_TAG.finditer(text) if not any(one.start < tag.start() < one.end for one in objects)]
    if not tags:
        found = _PLAIN_CHANNELS.match(text)
        return found.end() if found else 0
    if _ends_reasoning(tags[-1]):
        return tags[-1].end()
    answers = list(_ANSWER_TAG.finditer(text, tags[-1].end()))
    return answers[-1].end() if answers else len(text)


def _ends_reasoning(tag: re.Match[str]) -> bool:
    ends = any(tag[name] for name in ("slash", "bracket", "bar", "gemma", "medgemma"))
    return ends or (tag["edge"] or "").lower() == "end" or (tag["channel"] or "").lower() == "final"


def _values(text: str) -> Iterator[FoundObject]:
    """Yield the whole JSON objects and lists of a text from left to right, also objects that are only nearly JSON."""
    position, end, relaxed = 0, len(text.rstrip()), 0
    while opening := _OPENING.search(text, position):
        start = opening.start()
        try:
            value, position = _DECODER.raw_decode(text, start)
        except json.JSONDecodeError as error:
            if opening[0] == "{" and (error.pos >= end or error.msg.startswith("Unterminated")):
                return  # the object is cut: what it contains is no verdict
            relaxed += opening[0] == "{"
            found = relaxed_object(text, start) if opening[0] == "{" and relaxed <= _MAX_RELAXED else None
            value, position = found or (None, start + 1)
        except (ValueError, RecursionError):
            return  # no model writes such deep objects or such long numbers on purpose
        if isinstance(value, dict | list):
            yield FoundObject(value, start, position)
