"""Decides which form of answer a request asks for: plain text, tool calls, or text in a given structure.

The functions judge what a field means, not whether it is present. For example, `tools` with `tool_choice: "none"` asks
for plain text. All functions are pure.
"""

from typing import Final

from proxy.core.json_types import Json, JsonDict

_TOOL_FIELDS: Final = (("tools", "tool_choice"), ("functions", "function_call"))
# The fields for the same purpose as `structured_outputs` in older versions of vLLM, and `grammar` of llama.cpp.
_GUIDED_FIELDS: Final = ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "grammar")
# The fields of `structured_outputs` that constrain nothing by themselves.
_STRUCTURE_OPTIONS: Final = frozenset({"whitespace_pattern", "backend", "_backend"})
_FORM_FIELDS: Final = frozenset(
    {"tools", "functions", "response_format", "text", "structured_outputs", *_GUIDED_FIELDS}
)
_OPTIONAL_FIELDS: Final = _FORM_FIELDS | {"stream_options"}


def requested_form(body: Json) -> str | None:
    """Return `tools`, `response_format` or `structured_outputs` if a request asks for it; None for plain text."""
    if _FORM_FIELDS.isdisjoint(body):
        return None
    if requested_tools(body):
        return "tools"
    return "response_format" if _asks_for_format(body) else structure_reason(body)


def requested_tools(body: Json) -> str | None:
    """Return the field whose tools the model may call, `tools` or `functions`; None if it may call no tools."""
    for name, choice in _TOOL_FIELDS:
        if body.get(name) and _may_call(body.get(choice)):
            return name
    return None


def _may_call(choice: object) -> bool:
    """Whether a `tool_choice` allows a call. It is a word, or an object such as `{"type": "none"}`."""
    if not isinstance(choice, dict):
        return choice != "none"
    allowed = choice.get("allowed_tools", choice)
    return choice.get("type") != "none" and not (isinstance(allowed, dict) and allowed.get("tools") == [])


def structure_reason(body: Json) -> str | None:
    """Return `structured_outputs` if this field, or a similar field of older vLLM versions, constrains the answer."""
    constrains = _constrains(body.get("structured_outputs")) or any(is_set(body.get(name)) for name in _GUIDED_FIELDS)
    return "structured_outputs" if constrains else None


def without_empty_form_fields(body: JsonDict) -> JsonDict:
    """Return a body without the fields of _FORM_FIELDS that ask for nothing, because some servers reject them.

    Without `stream`, the field `stream_options` also asks for nothing.
    """
    if _OPTIONAL_FIELDS.isdisjoint(body):
        return body
    unused = {"structured_outputs"} if not _constrains(body.get("structured_outputs")) else set()
    unused |= {name for name in _GUIDED_FIELDS if not is_set(body.get(name))}
    if _is_empty_format(body.get("response_format")):
        unused.add("response_format")
    if not body.get("stream"):
        unused.add("stream_options")
    return {name: value for name, value in body.items() if name not in unused}


def is_set(value: object) -> bool:
    """Whether the value of a field constrains the answer. An empty JSON schema does, because it allows only JSON."""
    return value is not None and value is not False and value not in ("", [])


def _asks_for_format(body: Json) -> bool:
    text = body.get("text")
    return _is_format(body.get("response_format")) or (isinstance(text, dict) and _is_format(text.get("format")))


def _is_format(value: object) -> bool:
    return isinstance(value, dict) and value.get("type") not in (None, "text")


def _is_empty_format(value: object) -> bool:
    return value is None or (isinstance(value, dict) and (not value or value.get("type") == "text"))


def _constrains(structured_outputs: object) -> bool:
    if not isinstance(structured_outputs, dict):
        return bool(structured_outputs)
    return any(is_set(value) for name, value in structured_outputs.items() if not _is_option(name))


def _is_option(name: str) -> bool:
    return name in _STRUCTURE_OPTIONS or name.startswith("disable_")
