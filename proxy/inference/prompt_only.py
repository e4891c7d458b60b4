"""Decides which requests get the bundle's prompt without examples. All functions are pure.

The answers in examples are plain text. They would mislead a model that must call a tool, write JSON or continue a given
text.
"""

from collections.abc import Sequence
from typing import Final

from proxy.core.json_types import Json

_STRUCTURED_FIELDS: Final = (
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "grammar",
)
_FORM_FIELDS: Final = frozenset({"tools", "functions", "response_format", "text", *_STRUCTURED_FIELDS})


def prompt_only_reason(body: Json, messages: Sequence[Json], *, is_background: bool = False) -> str | None:
    """Return why a chat request or text completion gets the prompt without examples; None if it may get examples.

    The reason is `tools`, `response_format` or `structured_outputs` if the request asks for such an answer. It is
    `background` if a chat client sent the request on its own. It is `prefill` if the last message is from the
    assistant, so that the model must continue it.
    """
    reason = None if _FORM_FIELDS.isdisjoint(body) else _requested_form(body)
    if reason is None and is_background:
        return "background"
    if reason is None and messages and messages[-1].get("role") == "assistant":
        return "prefill"
    return reason


def response_prompt_only_reason(body: Json, items: Sequence[Json], *, is_background: bool = False) -> str | None:
    """Return why a request to the Responses API gets the prompt without examples; None if it may get examples.

    The reason is `no_input` if the request has no input items. It is `previous_response` if the request continues a
    response that the backend has stored: examples belong before the first turn, and the proxy cannot insert them into a
    stored conversation. All other reasons are those of `prompt_only_reason`.
    """
    if not items:
        return "no_input"
    if body.get("previous_response_id"):
        return "previous_response"
    return prompt_only_reason(body, items, is_background=is_background)


def _requested_form(body: Json) -> str | None:
    if body.get("tools") or body.get("functions"):
        return "tools"
    text = body.get("text")
    for wanted in (body.get("response_format"), text.get("format") if isinstance(text, dict) else None):
        if isinstance(wanted, dict) and wanted.get("type", "text") != "text":
            return "response_format"
    return "structured_outputs" if any(body.get(name) for name in _STRUCTURED_FIELDS) else None
