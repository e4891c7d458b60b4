"""Reads one answer of a model, and finds the signs of a base model that continues the text of a chat template.

A chat model ends its answer. A base model behind a chat template writes on: template tokens, another turn, another
question, or the same words again. The module only reads answers: it sends no requests, and does not depend on the
questions.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from index.control_tokens import find_possible_control_token

_MAX_READ: Final = 4_000  # characters; the rest of a longer answer is not searched for signs
_MAX_QUOTED: Final = 40  # characters of a sign that a message quotes
# A text repeats itself if it contains the same _WORDS_IN_LOOP words in a row at least _MIN_REPEATS times.
_WORDS_IN_LOOP: Final = 4
_MIN_REPEATS: Final = 3

_OPENS_REASONING: Final = re.compile(
    r"\s*(?:<\|?(?:[a-z]+[:_])?(?:begin_of_)?(?:think|thinking|thought|reason|reasoning|reflection|scratchpad)\w*\|?>"
    r"|\[THINK\]|◁think▷)"
)
_CLOSES_REASONING: Final = re.compile(
    r"</(?:[a-z]+[:_])?(?:think|thinking|thought|reason|reasoning|reflection|scratchpad)\w*>|<\|end_of_think\w*\|>"
    r"|\[/THINK\]|◁/think▷"
)
_HARMONY: Final = "<|channel|>"  # the format of gpt-oss, if the server does not parse it
_HARMONY_FINAL: Final = "<|channel|>final<|message|>"
_USER_ROLES: Final = "user|human|question|query|instruction|instructions|input|customer|student|q"
_OTHER_ROLES: Final = "assistant|system|ai|bot|model|gpt|chatbot"
# A line that begins another turn: "User:", "### Instruction:", "**Human**:", or a bare "user" that a template left
# behind when its tokens were removed.
_OTHER_TURN: Final = re.compile(
    rf"(?:\n|(?<=[.!?]))[ \t]*(?:[#*\[(<]{{1,5}}[ \t]*)?"
    rf"(?:(?:{_USER_ROLES}|{_OTHER_ROLES})[ \t]*\d{{0,3}}[*\])>]{{0,3}}[ \t]*[:：]"
    rf"|(?:user|human|assistant|system|model)[ \t]*(?=\n|\Z))",
    re.IGNORECASE,
)
_QUESTION_AND_MORE: Final = re.compile(r"\n[^\n]{3,200}[?？]\s*\n\s*\S")
_REPEATED_PART: Final = re.compile(r"(?s)(\S.{0,79}?)\1{2,}")
_MIN_REPEATED: Final = 20  # characters; a shorter repetition may be emphasis (`!!!`) or a drawn line (`-----`)
_MAX_TAIL: Final = 400  # characters at the end of an answer in which repeated parts are sought
# The values of finish_reason for an answer that reached the maximum number of tokens.
_CUT_REASONS: Final = ("length", "max_tokens", "max_length", "max_new_tokens", "token_limit")
_REASONING_FIELD: Final = re.compile(r"reason|think", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one answer shows.

    Attributes:
        ended: Whether the model ended the answer by itself, before the maximum number of tokens.
        has_text: Whether the answer has any text besides reasoning.
        reasoned: Whether the model reasoned before it answered, which only a chat model does.
        sign: A sign of a base model, as a phrase that completes the sentence "an answer ..."; empty if there is no
            sign.
        opening: The first characters of the text, in lower case.
    """

    ended: bool
    has_text: bool = True
    reasoned: bool = False
    sign: str = ""
    opening: str = ""

    @property
    def is_chat(self) -> bool:
        """Whether the answer indicates a chat model: no sign, but reasoning, or a text that ended by itself."""
        return not self.sign and (self.reasoned or (self.ended and self.has_text))


def read_chat(reply: Any) -> Answer | None:
    """Return what the reply to a chat request shows; None if the reply is not a chat completion."""
    choice = _first_choice(reply)
    message = choice.get("message") if choice else None
    if choice is None or not isinstance(message, Mapping):
        return None
    content, reasoning = _content(message), _reasoning(message)
    hidden = _used_reasoning_tokens(reply)
    return _read(content, reasoning, ended=_ended(choice), hidden=hidden)


def read_completion(reply: Any) -> Answer | None:
    """Return what the reply to a completion request shows; None if the reply is not a text completion."""
    choice = _first_choice(reply)
    text = choice.get("text") if choice else None
    if choice is None or not isinstance(text, str):
        return None
    return Answer(ended=_ended(choice), has_text=bool(text.strip()))


def find_sign(text: str, *, ended: bool) -> str:
    """Return a sign of a base model in a text, as a phrase that completes "an answer ..."; empty if there is no sign.

    Args:
        text: The answer, without reasoning.
        ended: Whether the model ended the answer by itself. If it did, repetition and further questions are no signs.
    """
    text = text[:_MAX_READ]
    if token := _find_token(text):
        return token
    if found := _OTHER_TURN.search(text.lstrip()):
        return f"begins another turn with {_quoted(found[0])}"
    if ended:
        return ""
    if _QUESTION_AND_MORE.search(text.lstrip()):
        return "goes on with another question"
    return "repeats itself" if _repeats(text) else ""


def _read(content: str, reasoning: str, *, ended: bool, hidden: bool) -> Answer:
    text, thoughts = _split_reasoning(content)
    thoughts += reasoning
    sign = find_sign(text, ended=ended) or _find_token(thoughts)
    return Answer(ended, bool(text.strip()), bool(thoughts.strip()) or hidden, sign, _opening(text))


def _split_reasoning(content: str) -> tuple[str, str]:
    """Return the text after the reasoning, and the reasoning.

    If the reasoning does not end, there is no text after it. The templates of some models already open the reasoning,
    so the answer contains only the mark that ends it. Reasoning without text is returned as the word `empty`, so that
    it counts as reasoning.
    """
    if content.lstrip().startswith(_HARMONY):
        return content.partition(_HARMONY_FINAL)[2], "in the channels of gpt-oss"
    opened, closed = _OPENS_REASONING.match(content), _CLOSES_REASONING.search(content)
    start = opened.end() if opened else 0
    if closed:
        return content[closed.end() :], content[start : closed.start()] or "empty"
    return ("", content[start:] or "empty") if opened else (content, "")


def _first_choice(reply: Any) -> Mapping[str, Any] | None:
    choices = reply.get("choices") if isinstance(reply, Mapping) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice if isinstance(choice, Mapping) else None


def _ended(choice: Mapping[str, Any]) -> bool:
    """Return whether the model ended the answer. Servers name this differently: `stop`, `eos_token`, `end_turn`."""
    return str(choice.get("finish_reason")).lower() not in _CUT_REASONS


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def _reasoning(message: Mapping[str, Any]) -> str:
    """Return the reasoning, which servers send as `reasoning_content`, `reasoning` or `thinking`."""
    return "".join(value for name, value in message.items() if isinstance(value, str) and _REASONING_FIELD.search(name))


def _used_reasoning_tokens(reply: Mapping[str, Any]) -> bool:
    usage = reply.get("usage")
    details = usage.get("completion_tokens_details") if isinstance(usage, Mapping) else None
    count = details.get("reasoning_tokens") if isinstance(details, Mapping) else None
    return isinstance(count, int) and count > 0


def _find_token(text: str) -> str:
    found = find_possible_control_token(text[:_MAX_READ])
    return f"has the template token {_quoted(found)}" if found else ""


def _repeats(text: str) -> bool:
    words = text.lower().split()
    runs = [tuple(words[n : n + _WORDS_IN_LOOP]) for n in range(len(words) - _WORDS_IN_LOOP + 1)]
    often = any(runs.count(run) >= _MIN_REPEATS for run in set(runs))
    found = _REPEATED_PART.finditer(text[-_MAX_TAIL:])
    return often or any(part.end() - part.start() >= _MIN_REPEATED and re.search(r"\w", part[1]) for part in found)


def _opening(text: str) -> str:
    return text.lstrip()[:_MAX_QUOTED].lower()


def _quoted(sign: str) -> str:
    return repr(sign.strip()[:_MAX_QUOTED])
