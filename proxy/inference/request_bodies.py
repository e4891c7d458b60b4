"""Builds the bodies of requests to a backend from the client's body, the bundle and the injection.

All functions are pure. They do not depend on token budgets.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from index.rendering import render_chat, render_chat_turns, render_preamble
from proxy.backends.discovery import Model
from proxy.core.json_types import Json
from proxy.inference.injection.injection import Injection
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.inference.plan import CHAT, COMPLETIONS
from proxy.openai.chat_completion import client_max_tokens
from proxy.openai.conversation import Conversation, read_chat
from proxy.openai.json_fields import text_field

# Some chat templates render the last assistant message in another way than earlier ones. In a client's request, a user
# message follows the examples. In a PrefixRequest, this short message follows them, so that they are rendered in the
# same way.
_SHORT_CHAT: Final = read_chat({"messages": [{"role": "user", "content": "Hello"}]})


@dataclass(frozen=True, slots=True)
class PrefixRequest:
    """A request whose prompt is an injection, without a client's text.

    Attributes:
        path: The path below the root URL of the backend.
        body: The body.
    """

    path: str
    body: Json = field(repr=False)


def bundle_sampling(served: ServedBundle) -> Json:
    """Return the bundle's sampling parameters without max_tokens, which is computed for each request."""
    return {name: value for name, value in served.bundle.manifest.sampling.items() if name != "max_tokens"}


def with_sampling(body: Json, served: ServedBundle) -> dict[str, Any]:
    """Return the body with the bundle's value for each sampling parameter that the client did not set."""
    missing = {name: value for name, value in served.bundle.manifest.sampling.items() if body.get(name) is None}
    if client_max_tokens(body) is not None:
        missing.pop("max_tokens", None)
    return {**body, **missing}


def with_response_sampling(body: Json, served: ServedBundle) -> dict[str, Any]:
    """Return a body for the Responses API, with the bundle's values for parameters that the client did not set.

    Only temperature, top_p and max_tokens are added, because the API has no penalties. The API's name for max_tokens is
    max_output_tokens.
    """
    sampling = served.bundle.manifest.sampling
    renamed = {name: sampling[name] for name in ("temperature", "top_p") if name in sampling}
    if "max_tokens" in sampling:
        renamed["max_output_tokens"] = sampling["max_tokens"]
    return {**body, **{name: value for name, value in renamed.items() if body.get(name) is None}}


def injected_messages(conversation: Conversation, injection: Injection) -> dict[str, Any]:
    """Return the field `messages` of a chat request with the bundle's prompt and the examples.

    The messages of the examples are encoded already, so that they are not encoded for each request.
    """
    messages = render_chat(injection.prompt, (), conversation.turns)
    first = 1 if messages[0].get("role") == "system" else 0  # only a system message can precede the examples
    return {"messages": [*messages[:first], *injection.turns, *messages[first:]]}


def injected_input(conversation: Conversation, injection: Injection) -> dict[str, Any]:
    """Return the fields `instructions` and `input` with the bundle's prompt and the examples.

    The prompt comes before the client's instructions. The examples are inserted into the input as turns: after the
    system and developer items at its beginning, and before all other items. If the request has no input items, the
    field `input` is left out.
    """
    items = conversation.turns
    leading = next((n for n, item in enumerate(items) if item.get("role") not in ("system", "developer")), len(items))
    turns = [turn for example in injection.examples for turn in render_chat_turns(example)]
    instructions = [text for text in (injection.prompt, text_field(conversation.body, "instructions")) if text]
    injected: dict[str, Any] = {"instructions": "\n\n".join(instructions)}
    return {**injected, "input": [*items[:leading], *turns, *items[leading:]]} if items else injected


def chat_request(body: Json) -> Json:
    """Return a chat request whose prompt has as many tokens as the prompt of `body`.

    The result is `body` itself, unless it is a request to the Responses API.
    """
    if "messages" in body:
        return body
    items = body.get("input")
    messages = [{"role": "user", "content": items}] if isinstance(items, str) else list(items or ())
    instructions = body.get("instructions")
    opening = [{"role": "system", "content": instructions}] if instructions else []
    return {"messages": [*opening, *messages]}


def prefix_request(served: ServedBundle, model: Model, injection: Injection) -> PrefixRequest | None:
    """Return a request for one token that makes the backend cache an injection; None if the injection is empty."""
    if not injection.prompt and not injection.examples:
        return None
    base = {"model": model.id, "max_tokens": 1}
    if model.kind == "chat":
        return PrefixRequest(CHAT, {**base, **injected_messages(_SHORT_CHAT, injection)})
    text = render_preamble(served.layout, injection.prompt, injection.examples)
    return PrefixRequest(COMPLETIONS, model.dialect.completion_request({**base, "prompt": text}))
