"""Decides which requests get fewer examples than usual, and names the reasons. All functions are pure.

The answers in examples are plain text. They would mislead a model that must call a tool, write JSON or continue a given
text. Requests with tools or a prefill get only the pinned refusals, which keep the model safe. Requests for JSON get no
examples. A request also gets fewer examples if its examples cannot be retrieved or do not fit into the model's context.
"""

from collections.abc import Sequence
from typing import Final

from proxy.core.json_types import Json
from proxy.openai.json_fields import flag_field
from proxy.openai.message_text import is_empty
from proxy.openai.requested_form import requested_form

PREFILL: Final = "prefill"
BACKGROUND: Final = "background"
"""A chat client sent the request on its own, for a title for example."""
NO_QUERY: Final = "no_query"
"""No user message contains words, so there is nothing to retrieve examples for."""
NO_INPUT: Final = "no_input"
PREVIOUS_RESPONSE: Final = "previous_response"
CONTEXT: Final = "context"
"""The model's context has no room for some examples."""
CONTEXT_PROMPT: Final = "context_prompt"
"""The model's context has no room even for the system prompt."""
RETRIEVAL_FAILURES: Final = ("timeout", "embedder")
"""Retrieval took too long, or the query could not be embedded."""
ENDING_FIELDS: Final = frozenset({"continue_final_message", "add_generation_prompt"})
"""The fields that decide whether the model continues the last message."""
WITHOUT_EXAMPLES: Final = frozenset({NO_INPUT, PREVIOUS_RESPONSE, BACKGROUND, "response_format", "structured_outputs"})
"""The reasons for which a request gets no examples at all, not even pinned refusals.

If the backend has stored the conversation, the proxy cannot insert examples. A background request does not need them.
If the prompt of a request for JSON contains a pinned refusal, which is prose, the model often writes no JSON. With the
pinned refusal, the embedded model wrote complete JSON in 5 of 24 answers for which a JSON schema was given, and refused
1 of 18 harmful questions. Without it, 18 of these answers were complete, and none of these questions was refused.
"""


def reduction_reason(body: Json, *, continues: bool, is_background: bool = False) -> str | None:
    """Return why a chat request or text completion gets no retrieved examples; None if it may get them.

    The reason is `tools`, `response_format` or `structured_outputs` if the request asks for tool calls or JSON with the
    field of this name. It is `background` if a chat client sent the request on its own. It is `prefill` if the model
    must continue the last message (`continues`).
    """
    if reason := requested_form(body):
        return reason
    if is_background:
        return BACKGROUND
    return PREFILL if continues else None


def response_reduction_reason(body: Json, items: Sequence[Json], *, is_background: bool = False) -> str | None:
    """Return why a request to the Responses API gets no retrieved examples; None if it may get them.

    The reason is `no_input` if the request has no input items. It is `previous_response` if the request continues a
    response or a conversation that the backend has stored: examples belong before the first turn, and the proxy cannot
    insert them into a stored conversation. `reduction_reason` gives all other reasons.
    """
    if not items:
        return NO_INPUT
    if body.get("previous_response_id") or body.get("conversation"):
        return PREVIOUS_RESPONSE
    return reduction_reason(body, continues=continues_last_message(body, items), is_background=is_background)


def continues_last_message(body: Json, messages: Sequence[Json]) -> bool:
    """Return whether a chat model must continue the last message, instead of writing a new one (see `continues`)."""
    if not messages:
        return False
    last = messages[-1]
    return continues(body, is_answer=last.get("role") == "assistant", is_blank=is_empty(last))


def continues(body: Json, *, is_answer: bool, is_blank: bool) -> bool:
    """Return whether the model must continue the last message, instead of writing a new one.

    By default, the model continues an assistant message that is not empty. The fields `continue_final_message` and
    `add_generation_prompt` have the same meaning as in vLLM. They take precedence over the default.

    Args:
        body: The body of the request.
        is_answer: Whether the last message is an assistant message.
        is_blank: Whether the last message is empty.
    """
    if not ENDING_FIELDS.isdisjoint(body):
        if flag_field(body, "continue_final_message"):
            return not is_blank
        if body.get("continue_final_message") is False or flag_field(body, "add_generation_prompt"):
            return False
    return is_answer and not is_blank
