"""Renders the client's messages for a base model, and decides where the model begins to write.

The model writes a new answer, continues the last message, or writes a whole turn with its marker. The fields
`continue_final_message` and `add_generation_prompt` decide this as in vLLM.
"""

from collections.abc import Sequence
from typing import NamedTuple

from index.layouts import SEPARATOR, TextLayout
from index.rendering import render_conversation, render_turns
from index.types import Message
from proxy.core.errors import BadRequestError
from proxy.core.json_types import Json
from proxy.inference.reduction import ENDING_FIELDS, continues
from proxy.openai.json_fields import flag_field
from proxy.openai.message_text import is_blank


class AskedTurns(NamedTuple):
    """The turns of the client, and where the model begins to write.

    It is a named tuple, because that is faster to create than a frozen dataclass.

    Attributes:
        turns: The turns. If the model must write a new answer after an assistant message, an empty turn is added.
        opens_answer: Whether the prompt ends with an assistant turn that the model completes.
        continues: Whether the model continues the text of the last turn.
    """

    turns: tuple[Message, ...]
    opens_answer: bool
    continues: bool

    def rendered(self, layout: TextLayout) -> str:
        """Return the turns in a layout, up to the place where the model begins to write."""
        if self.opens_answer:
            return render_conversation(layout, self.turns)
        text = render_turns(layout, self.turns)
        return text.removesuffix(SEPARATOR) if self.continues else text


def asked_turns(body: Json, messages: Sequence[Json], turns: Sequence[Message]) -> AskedTurns:
    """Return the turns of a chat request for a base model.

    Args:
        body: The body of the request.
        messages: The messages of the request.
        turns: The same messages as text.

    Raises:
        BadRequestError: The request asks to continue the last message, and also for a new one.
    """
    if ENDING_FIELDS.isdisjoint(body) and turns[-1].role != "assistant":  # the usual case
        return AskedTurns(tuple(turns), True, False)  # positional arguments take half the time
    if flag_field(body, "continue_final_message") and flag_field(body, "add_generation_prompt"):
        raise BadRequestError(
            "Cannot set both `continue_final_message` and `add_generation_prompt` to true.",
            param="continue_final_message",
        )
    ends_with_answer = turns[-1].role == "assistant"
    if body.get("continue_final_message") and messages[-1].get("role") == "assistant" and not ends_with_answer:
        return AskedTurns(tuple(turns), opens_answer=True, continues=False)  # The message to continue has no text.
    if continues(body, is_answer=ends_with_answer, is_blank=is_blank(turns[-1].text)):
        return AskedTurns(tuple(turns), ends_with_answer, continues=True)
    if body.get("add_generation_prompt") is False:
        return AskedTurns(tuple(turns), opens_answer=False, continues=False)
    added = (Message("assistant", ""),) if ends_with_answer and turns[-1].text else ()
    return AskedTurns((*turns, *added), opens_answer=True, continues=False)
