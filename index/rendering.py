"""From prompt, examples and messages to exactly what a model sees. Pure: knows no file, no vector and no server.

The same functions serve and train. A text layout writes a conversation as one text for a base model:

    {prompt} (blank line) # Query: / {query} (blank line) # Answer: / {response} (blank line) ... # Answer:

always in the order prompt, pinned examples, retrieved examples, the client's own messages, so that what is fixed comes
first and turn n + 1 extends the text of turn n. A turn begins with a marker at the beginning of a line, and nowhere
else does a line begin with one: in every text, such a line gets U+200B after its first character.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from types import MappingProxyType

from index.errors import LayoutError
from index.types import Example, Message, Role

ZERO_WIDTH_SPACE = "\u200b"
SEPARATOR = "\n\n"
# Everything that str.splitlines takes for the end of a line: a model may take it for one too.
_LINE_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
# What chat templates write around turns. In a bundle's texts, such a token would forge a turn on a chat model.
_CONTROL_TOKEN = re.compile(
    r"<\|[A-Za-z0-9_]+\|>|</?(?:start_of_turn|end_of_turn|bos|eos)>|\[/?(?:INST|SYSTEM_PROMPT)\]|<</?SYS>>"
)
# One of these ends every control token.
_CONTROL_ENDS = ("|>", "_of_turn>", "bos>", "eos>", "INST]", "SYSTEM_PROMPT]", "SYS>>")
_CLIENT_SYSTEM_ROLES = ("system", "developer")
_PREAMBLES = 128


@dataclass(frozen=True, slots=True)
class TextLayout:
    """How a conversation is written as one text.

    system, user, assistant: the marker that opens a turn of this role, at the beginning of a line.
    gap: what stands between a marker and its text: a line break or one space.
    answer_begins_with_gap: the text given to the model ends with the bare assistant marker and the model writes the
    gap itself, because a base model's tokens carry their leading space. Whoever reads the answer then removes one
    leading gap, unless the answer continues a prefill that is not empty.
    """

    name: str
    system: str
    user: str
    assistant: str
    gap: str
    answer_begins_with_gap: bool

    def marker(self, role: Role) -> str:
        """The marker that opens a turn of `role`; LayoutError for a role that a text cannot express."""
        markers: Mapping[str, str] = {"system": self.system, "user": self.user, "assistant": self.assistant}
        if role not in markers:
            raise LayoutError(f"the layout {self.name} knows the roles system, user and assistant: use one of these")
        return markers[role]


LAYOUTS: Mapping[str, TextLayout] = MappingProxyType(
    {
        layout.name: layout
        for layout in (
            TextLayout("query-answer", "# Instructions:", "# Query:", "# Answer:", "\n", answer_begins_with_gap=False),
            TextLayout("user-assistant", "System:", "User:", "Assistant:", " ", answer_begins_with_gap=True),
        )
    }
)


_MARKER_PIECES = (*_CONTROL_ENDS, *(m for one in LAYOUTS.values() for m in (one.system, one.user, one.assistant)))


@cache
def _markers(layout: TextLayout) -> tuple[str, ...]:
    return layout.system, layout.user, layout.assistant


@cache
def _marker_at_line_start(layout: TextLayout) -> re.Pattern[str]:
    choices = "|".join(re.escape(marker) for marker in _markers(layout))
    return re.compile(rf"(?:\A|(?<=[{_LINE_BREAKS}]))(?:{choices})")


def escape(layout: TextLayout, text: str) -> str:
    """`text` with U+200B after the first character of every line that begins with a marker; else unchanged."""
    if not any(marker in text for marker in _markers(layout)):
        return text  # nearly always; the pattern takes twenty times as long to say so
    return _marker_at_line_start(layout).sub(lambda found: found[0][0] + ZERO_WIDTH_SPACE + found[0][1:], text)


def find_marker(text: str) -> str | None:
    """The first role marker of any layout, or control token of a chat template, that `text` holds; None is good."""
    if not any(piece in text for piece in _MARKER_PIECES):
        return None  # nearly always; the patterns take ten times as long to say so
    for pattern in (*map(_marker_at_line_start, LAYOUTS.values()), _CONTROL_TOKEN):
        if found := pattern.search(text):
            return found[0]
    return None


def stop_strings(layout: TextLayout) -> tuple[str, ...]:
    """What ends an answer: a line that begins with the user's or the assistant's marker, as the next turn would.

    The second one because a small base model, its answer finished, sometimes answers again. With the blank line before
    it each marker comes first, so that no blank line remains.
    """
    return tuple(f"{gap}{marker}" for marker in (layout.user, layout.assistant) for gap in (SEPARATOR, "\n"))


def render_prompt(layout: TextLayout, prompt: str) -> str:
    """The prompt as the model sees it, with the blank line after it; nothing for an empty prompt."""
    return f"{escape(layout, prompt)}{SEPARATOR}" if prompt else ""


def render_example(layout: TextLayout, example: Example) -> str:
    """One example as a finished pair of turns, with the blank line after it."""
    return _turn(layout, "user", example.query) + _turn(layout, "assistant", example.response)


def render_conversation(layout: TextLayout, messages: Sequence[Message]) -> str:
    """The client's messages in their order, and then the opened answer; a final assistant message is left open.

    An empty final assistant message is the same as none. LayoutError: no messages, or a role without a marker.
    """
    if not messages:
        raise LayoutError("there are no messages: send at least one")
    *earlier, last = messages
    if last.role != "assistant":
        return "".join(_turn(layout, message.role, message.text) for message in messages) + _opened_answer(layout)
    history = "".join(_turn(layout, message.role, message.text) for message in earlier)
    return history + _prefilled_answer(layout, last.text)


def render_text(layout: TextLayout, prompt: str, examples: Sequence[Example], messages: Sequence[Message]) -> str:
    """The exact text for a base model: prompt, then `examples` as they are ordered, then the conversation.

    It is the concatenation of render_preamble and render_conversation.
    """
    return render_preamble(layout, prompt, examples) + render_conversation(layout, messages)


def render_preamble(layout: TextLayout, prompt: str, examples: Sequence[Example]) -> str:
    """What stands before the client's words: the concatenation of render_prompt and render_example of each."""
    return _preamble(layout, prompt, tuple(examples))


@lru_cache(maxsize=_PREAMBLES)
def _preamble(layout: TextLayout, prompt: str, examples: tuple[Example, ...]) -> str:
    """Kept: a bundle in sets has few of them."""
    return render_prompt(layout, prompt) + "".join(render_example(layout, example) for example in examples)


def render_raw(messages: Sequence[Message]) -> str:
    """The texts alone, joined by a blank line: what a base model gets when nothing is injected."""
    return SEPARATOR.join(message.text for message in messages)


def render_chat(
    prompt: str, examples: Sequence[Example], messages: Sequence[Mapping[str, object]]
) -> list[dict[str, object]]:
    """Messages for a model with a chat template: one system message, the examples as turns, the client's messages.

    The client's leading system and developer messages are merged into the one system message, after `prompt`, each
    after a blank line; all other messages are passed on as they are. LayoutError: no messages, or a leading system
    message that holds something else than text.
    """
    if not messages:
        raise LayoutError("there are no messages: send at least one")
    leading = _count_leading_system(messages)
    texts = [prompt, *[text_of(message.get("content")) for message in messages[:leading]]]
    system = SEPARATOR.join(filter(None, texts))
    opening: list[dict[str, object]] = [{"role": "system", "content": system}] if system else []
    turns = [turn for example in examples for turn in render_chat_turns(example)]
    return opening + turns + [dict(message) for message in messages[leading:]]


def text_of(content: object) -> str:
    """The text of an OpenAI message's `content`: a string, nothing (None), or text parts, joined by line breaks.

    LayoutError: a part that is not text.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(_text_of_part(part) for part in content)
    raise LayoutError("the content of a message is neither text nor a list of text parts: send text")


def _text_of_part(part: object) -> str:
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
    if not isinstance(text, str):
        raise LayoutError("a message has a part that is not text: send text parts only")
    return text


def _turn(layout: TextLayout, role: Role, text: str) -> str:
    return f"{layout.marker(role)}{layout.gap}{escape(layout, text)}{SEPARATOR}"


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
    """One example as a pair of chat messages."""
    return {"role": "user", "content": example.query}, {"role": "assistant", "content": example.response}
