"""Renders prompt, examples and messages into the exact text or messages that a model receives, and cleans its answer.

The proxy and the optimizer use the same functions, which do not depend on files, vectors or servers. This module caches
the rendered preamble (system prompt and examples): `render_preamble` keeps the 128 preambles used last.

A layout writes a conversation as one text for a base model. In this scheme, `/` stands for a line break:

    {prompt} (blank line) # Query: / {query} (blank line) # Answer: / {response} (blank line) ... # Answer:

The system prompt comes first, then the examples, then the client's messages. Callers pass pinned examples before
retrieved examples. The parts that change least from request to request come first, and a new turn only appends to the
text that was rendered for the turns before it. The prefix cache of the model server can therefore be used. Each turn
begins with a marker at the beginning of a line. If a line of the prompt or of a turn's text begins with a marker,
U+200B is inserted after the line's first character. The text of a prompt or turn can therefore never look like a new
turn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from index.errors import LayoutError
from index.layouts import (
    LAYOUTS,
    SEPARATOR,
    TextLayout,
    answer_end,
    escape,
    fence_of,
    layout_stop,
    stop_strings,
    unescape,
)
from index.types import Example, Message, Role

_CLIENT_SYSTEM_ROLES = ("system", "developer")
_MAX_CACHED_PREAMBLES = 128


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """A rendered conversation for a base model, and the form of the answer that the model will write.

    Attributes:
        text: The exact prompt of the completion request.
        stop: The stop strings of the request. When the model writes one of them, the server should end the answer there
            and leave the stop string out.
        has_leading_gap: Whether the answer begins with the layout's gap (the text between a marker and the text of its
            turn), because the prompt ends without the gap.
    """

    text: str
    stop: tuple[str, ...]
    has_leading_gap: bool

    def clean(self, answer: str) -> str:
        """Return the answer up to the first stop string, without leading white space if `has_leading_gap` is true.

        If the model copied an escaped marker from the prompt, the U+200B in the marker is removed. In a layout that
        encloses each turn in a fence (such as ```), the fence that ends the answer is removed, too.

        Most servers already end the answer before a stop string. But some ignore stop strings, or return them with the
        answer.
        """
        ended = unescape(answer[: self._end(answer)], self.stop)
        return remove_leading_gap(ended) if self.has_leading_gap else ended

    def _end(self, answer: str) -> int | None:
        # A prompt with fences ends with a fence and a line break. With this line break in front of the answer, a fence
        # that ends the answer is found even if it is the answer's first line.
        before = "\n" if fence_of(self.stop) else ""
        text = before + answer
        end = answer_end(text, layout_stop(text, self.stop), self.stop)
        return None if end is None else max(0, end - len(before))


def render_prompt(layout: TextLayout, prompt: str) -> str:
    """Return the heading, the escaped system prompt and a blank line; an empty text if `prompt` is empty."""
    return f"{layout.heading}{escape(layout, prompt)}{SEPARATOR}" if prompt else ""


def render_example(layout: TextLayout, example: Example, *, is_first: bool = True) -> str:
    """Return one example as a complete pair of turns, with a blank line after each.

    Args:
        layout: The layout.
        example: The example.
        is_first: Whether the example is the first one of a prompt. A layout may have another marker for later examples.
    """
    user = layout.user if is_first else layout.later_example_user or layout.user
    end = _end(layout)
    query = f"{user}{layout.gap}{escape(layout, example.query)}{end}"
    answer = f"{layout.example_assistant or layout.assistant}{layout.gap}{escape(layout, example.response)}"
    return f"{query}{SEPARATOR}{answer}{end}{layout.end}{SEPARATOR}"


def render_conversation(layout: TextLayout, messages: Sequence[Message]) -> str:
    """Return the client's messages in their order, followed by the assistant marker that the model continues.

    If the last message is an assistant message (a prefill), the returned text ends with the text of this message, so
    that the model continues the message. An empty prefill is ignored.

    Raises:
        LayoutError: There are no messages, or the layout has no marker for the role of a message.
    """
    if not messages:
        raise LayoutError("there are no messages. Send at least one")
    last = messages[-1]
    if last.role != "assistant":
        return render_turns(layout, messages) + _opened_answer(layout)
    return render_turns(layout, messages[:-1]) + _prefilled_answer(layout, last.text)


def render_turns(layout: TextLayout, messages: Sequence[Message]) -> str:
    """Return the client's messages in their order, without a marker of an answer at the end."""
    return "".join([_turn(layout, message.role, message.text) for message in messages])


def render_text(layout: TextLayout, prompt: str, examples: Sequence[Example], messages: Sequence[Message]) -> str:
    """Return the exact prompt for a base model: the preamble (`prompt` and `examples`), then the conversation."""
    return text_prompt(layout, prompt, examples, messages).text


def text_prompt(
    layout: TextLayout,
    prompt: str,
    examples: Sequence[Example],
    messages: Sequence[Message],
    conversation: str | None = None,
) -> TextPrompt:
    """Render a conversation for a base model.

    Args:
        layout: The layout in which the text is written.
        prompt: The system prompt of the bundle.
        examples: The examples to put into the prompt, in this order.
        messages: The client's messages.
        conversation: The result of `render_conversation` for `messages`. If None, this function computes it.

    Raises:
        LayoutError: There are no messages, or the layout has no marker for the role of a message.
    """
    rendered = render_conversation(layout, messages) if conversation is None else conversation
    text = render_preamble(layout, prompt, examples) + rendered
    return TextPrompt(text, stop_strings(layout), layout.answer_begins_with_gap and not _continues_prefill(messages))


def remove_leading_gap(answer: str) -> str:
    """Return an answer, or the beginning of a streamed answer, without leading white space.

    A model writes the gap of the layout, one space, before its answer. Sometimes the model writes more white space, so
    all leading white space is removed.
    """
    return answer.lstrip()


def without_frame(answer: str) -> str:
    """Return an answer without the lines that a layout puts before and after it, such as <START> and <END>."""
    bare = answer.strip()
    for layout in LAYOUTS.values():
        begin, end = layout.assistant.rpartition("\n")[2], layout.end.strip()
        if end and bare.startswith(begin) and bare.endswith(end):
            return bare.removeprefix(begin).removesuffix(end).strip()
    return answer


def leading_gap(layout: TextLayout) -> str:
    """Return the gap that a model writes before its answer; an empty text if the prompt already ends with the gap."""
    return layout.gap if layout.answer_begins_with_gap else ""


def _continues_prefill(messages: Sequence[Message]) -> bool:
    return messages[-1].role == "assistant" and bool(messages[-1].text)


def render_preamble(layout: TextLayout, prompt: str, examples: Sequence[Example]) -> str:
    """Return the text before the client's messages: the system prompt and the examples. The result is cached."""
    return _preamble(layout, prompt, tuple(examples))


@lru_cache(maxsize=_MAX_CACHED_PREAMBLES)
def _preamble(layout: TextLayout, prompt: str, examples: tuple[Example, ...]) -> str:
    # Cached because all requests that get the same example set have the same preamble.
    rendered = [render_example(layout, example, is_first=not number) for number, example in enumerate(examples)]
    return render_prompt(layout, prompt) + "".join(rendered)


def render_raw(messages: Sequence[Message]) -> str:
    """Return the texts of the messages, joined by blank lines: the prompt for a base model without injection."""
    return SEPARATOR.join(message.text for message in messages)


def render_chat(
    prompt: str, examples: Sequence[Example], messages: Sequence[Mapping[str, object]]
) -> list[dict[str, object]]:
    """Return the messages for a chat model: one system message, the examples as turns, then the client's messages.

    The system message consists of `prompt` and the client's leading system and developer messages, joined by blank
    lines. An empty system message is left out. All other messages of the client stay unchanged.

    Raises:
        LayoutError: There are no messages, or a leading system or developer message has a part that is not text.
    """
    if not messages:
        raise LayoutError("there are no messages. Send at least one")
    leading = _count_leading_system(messages)
    texts = [prompt, *[text_of(message.get("content")) for message in messages[:leading]]]
    system = SEPARATOR.join(filter(None, texts))
    opening: list[dict[str, object]] = [{"role": "system", "content": system}] if system else []
    turns = [turn for example in examples for turn in render_chat_turns(example)]
    return opening + turns + [dict(message) for message in messages[leading:]]


def text_of(content: object) -> str:
    """Return the text of a message's field `content`: a string, None, or text parts joined by line breaks.

    Raises:
        LayoutError: The content has another type, or a part is not text.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(_text_of_part(part) for part in content)
    raise LayoutError("the content of a message is neither text nor a list of text parts. Send text")


def _text_of_part(part: object) -> str:
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
    if not isinstance(text, str):
        raise LayoutError("a message has a part that is not text. Send text parts only")
    return text


def _turn(layout: TextLayout, role: Role, text: str) -> str:
    end = layout.end if role == "assistant" else ""
    return f"{layout.marker(role)}{layout.gap}{escape(layout, text)}{_end(layout)}{end}{SEPARATOR}"


def _end(layout: TextLayout) -> str:
    """Return what closes a finished turn: a line break and the fence, or nothing if the layout has no fence."""
    return f"\n{layout.fence}" if layout.fence else ""


def _opened_answer(layout: TextLayout) -> str:
    return layout.assistant if layout.answer_begins_with_gap else layout.assistant + layout.gap


def _prefilled_answer(layout: TextLayout, prefill: str) -> str:
    return f"{layout.assistant}{layout.gap}{escape(layout, prefill)}" if prefill else _opened_answer(layout)


def _count_leading_system(messages: Sequence[Mapping[str, object]]) -> int:
    for count, message in enumerate(messages):
        if message.get("role") not in _CLIENT_SYSTEM_ROLES:
            return count
    return len(messages)


def render_chat_turns(example: Example) -> tuple[dict[str, object], dict[str, object]]:
    """Return one example as a user message and an assistant message."""
    return {"role": "user", "content": example.query}, {"role": "assistant", "content": example.response}
