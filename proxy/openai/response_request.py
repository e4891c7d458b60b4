"""Translates requests to OpenAI's Responses API to chat requests, so that a base model can serve them.

A base model reads messages of text. Nothing is stored, so a request must contain the whole conversation. A request that
refers to stored items gets an error, which names the setting that the client must change. The module does no I/O.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from proxy.core.errors import BadRequestError
from proxy.core.json_types import JsonDict, shown
from proxy.openai.json_fields import list_field, text_field

# The fields of a request that are not copied to the chat request.
_RESPONSE_FIELDS: Final = frozenset(
    {"input", "instructions", "max_output_tokens", "text", "include", "store", "truncation", "reasoning", "metadata"}
    | {"previous_response_id", "conversation", "prompt", "background", "max_tool_calls", "service_tier", "messages"}
)
_UNSUPPORTED: Final[Mapping[str, str]] = {
    "previous_response_id": "nothing is stored for a base model. Send the whole conversation as `input`",
    "conversation": "nothing is stored for a base model. Send the whole conversation as `input`",
    "prompt": "stored prompts are not served. Send `instructions` and `input`",
    "background": "background responses are not served. Leave this field out",
}
_LOGPROBS: Final = "message.output_text.logprobs"
_TEXT_PARTS: Final[Mapping[str, str]] = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "summary_text": "text",
    "refusal": "refusal",
}
"""Maps each type of text part of a message to the name of the field that has the text."""
_UNREAD_ITEMS: Final = frozenset({"reasoning"})
"""Items that are left out: a base model does not need the reasoning behind an earlier answer."""
_STORE_ADVICE: Final = (
    "nothing is stored for a base model, so a reference to an item cannot be resolved. Set `store: false` in the "
    "client, so that it sends the items themselves (AI SDK: providerOptions: { openai: { store: false } }), or use its "
    "Chat Completions API"
)


def chat_body(body: Mapping[str, Any]) -> JsonDict:
    """Translate a request to the Responses API to a chat request. Raises BadRequestError for unsupported fields."""
    for name, reason in _UNSUPPORTED.items():
        if body.get(name):
            raise BadRequestError(f"`{name}`: {reason}.", param=name)
    if body.get("n") not in (None, 1):
        raise BadRequestError("`n` must be 1, because a response has one answer.", param="n")
    passed = {name: value for name, value in body.items() if name not in _RESPONSE_FIELDS}
    chat: JsonDict = {**passed, "messages": response_messages(body)}
    if body.get("max_output_tokens") is not None:
        chat["max_completion_tokens"] = body["max_output_tokens"]
    if _LOGPROBS in list_field(body, "include"):
        chat["logprobs"] = True
    response_format = _response_format(body.get("text"))
    return {**chat, "response_format": response_format} if response_format else chat


def response_messages(body: Mapping[str, Any]) -> list[JsonDict]:
    """Return the instructions and the input as chat messages. Raises BadRequestError if one of them is not valid."""
    instructions, items = text_field(body, "instructions"), body.get("input")
    opening = [{"role": "system", "content": instructions}] if instructions else []
    if isinstance(items, str):
        return [*opening, {"role": "user", "content": items}]
    read = list(_read_items(items)) if isinstance(items, list) else []
    if not read:
        raise BadRequestError("`input` must be a string or a list of at least one item.", param="input")
    return [*opening, *(_message(number, item) for number, item in read)]


def _read_items(items: Sequence[object]) -> Iterator[tuple[int, object]]:
    """Yield the items that a base model reads, each with its position in the input."""
    for number, item in enumerate(items):
        kind = _type_of(item)
        if not isinstance(kind, str) or kind not in _UNREAD_ITEMS:
            yield number, item


def _message(number: int, item: object) -> JsonDict:
    if not isinstance(item, dict) or _type_of(item) != "message" or "role" not in item:
        raise BadRequestError(f"input[{number}]: {_why_no_message(item)}.", param="input")
    content = item.get("content")
    if isinstance(content, list):
        content = [_part(part, f"input[{number}].content") for part in content]
    elif content is not None and not isinstance(content, str):
        raise BadRequestError(f"input[{number}].content must be a string or a list of parts.", param="input")
    return {"role": item["role"], "content": content}


def _type_of(item: object) -> object:
    """Return the type of an input item: of an item without a type, a message, or a reference if it has only an id."""
    if not isinstance(item, dict):
        return None
    implied = "item_reference" if item.keys() <= {"id", "type"} and "id" in item else "message"
    kind = item.get("type")
    return implied if kind is None else kind


def _why_no_message(item: object) -> str:
    if not isinstance(item, dict):
        found = "a text" if isinstance(item, str) else shown(item)  # a text may be a user's, so it is not repeated
        return f"a base model reads only messages, not {found}. Send an object with `role` and `content`"
    kind = _type_of(item)
    if kind == "item_reference":
        return _STORE_ADVICE
    if kind == "message":
        return "a message needs a `role`"
    reads = "knows no tool calls" if isinstance(kind, str) and "call" in kind else "reads only messages"
    return f"a base model {reads}, not an item of type {shown(kind)}. Leave the item out, or use a chat model"


def _part(part: object, field_name: str) -> JsonDict:
    """Return a text part of a message as a part of a chat message. Raises BadRequestError for all other parts."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type", "text") if isinstance(part, dict) else None
    name = _TEXT_PARTS.get(kind) if isinstance(part, dict) and isinstance(kind, str) else None
    text = part.get(name) if isinstance(part, dict) and name else None
    if not isinstance(text, str):
        raise BadRequestError(
            f"{field_name}: a base model reads text, not {_described(part)}. Leave the part out, or use a chat model "
            "that accepts it.",
            param="input",
        )
    return {"type": "text", "text": text}


def _described(part: object) -> str:
    return f"a part of type {shown(part.get('type'))}" if isinstance(part, dict) else shown(part)


def _response_format(text: object) -> JsonDict | None:
    """Translate the `format` in the request's field `text` to the `response_format` of a chat request.

    A chat request nests the schema one level deeper. The result is None if the client asked for plain text.
    """
    text_format = text.get("format") if isinstance(text, dict) else None
    if not isinstance(text_format, dict) or text_format.get("type") in (None, "text"):
        return None
    if text_format["type"] != "json_schema":
        return dict(text_format)
    schema = {name: value for name, value in text_format.items() if name != "type"}
    return {"type": "json_schema", "json_schema": schema}
