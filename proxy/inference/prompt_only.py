"""When examples are left out: requests for a form of answer that the examples do not have. Pure functions."""

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


def prompt_only_reason(body: Json, messages: Sequence[Json]) -> str | None:
    """Why a request gets the prompt without examples; None if it gets examples."""
    reason = None if _FORM_FIELDS.isdisjoint(body) else _requested_form(body)
    if reason is None and messages and messages[-1].get("role") == "assistant":
        return "prefill"
    return reason


def response_prompt_only_reason(body: Json, items: Sequence[Json]) -> str | None:
    """The same for the Responses API, where the backend may store the earlier turns, which examples must precede."""
    if not items:
        return "no_input"
    return "previous_response" if body.get("previous_response_id") else prompt_only_reason(body, items)


def _requested_form(body: Json) -> str | None:
    if body.get("tools") or body.get("functions"):
        return "tools"
    text = body.get("text")
    for wanted in (body.get("response_format"), text.get("format") if isinstance(text, dict) else None):
        if isinstance(wanted, dict) and wanted.get("type", "text") != "text":
            return "response_format"
    return "structured_outputs" if any(body.get(name) for name in _STRUCTURED_FIELDS) else None
