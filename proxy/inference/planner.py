"""What will be sent for a request: variant, bundle, examples, budget, body. Knows no sockets.

Everything that a request depends on is read once, here, and frozen into a Plan.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from uuid import uuid4

from index.rendering import (
    render_chat,
    render_chat_turns,
    render_conversation,
    render_raw,
    text_prompt,
)
from index.types import Message
from proxy.backends.discovery import Model
from proxy.core.errors import BadRequestError
from proxy.core.json_types import Json
from proxy.core.variant_names import ALIGNED, RAW
from proxy.inference.injection.injector import LENGTH_CAP, Injection, Injector
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.inference.variants import Choice
from proxy.openai.chat_completion import (
    ChatShape,
    check_completable,
    client_max_tokens,
    client_stop,
    completion_body,
    text_messages,
)
from proxy.openai.conversation import (
    aside,
    chat_messages,
    conversation_key,
    first_user_text,
    input_items,
    is_long,
    joined_text,
    loose_items,
)
from proxy.openai.json_fields import encode, flag_field, object_field, text_field
from proxy.openai.responses import ResponseShape, chat_body, echoed_fields
from proxy.openai.stop_strings import split_stop_strings

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
RESPONSES: Final = "/v1/responses"
_STRUCTURED: Final = ("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "grammar")
_FORMS: Final = frozenset({"tools", "functions", "response_format", "text", *_STRUCTURED})
_CAPS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_COMPLETION_ONLY: Final = ("echo", "suffix", "prompt_logprobs")


@dataclass(slots=True)
class Plan:
    """One request, decided. `body`: until it is taken to be sent. `shape`: how the reply, a completion, becomes chat;
    None: it passes as it is. `strip_usage`: the stream carries a usage event that the client did not ask for. `cut_at`:
    stop strings that the backend was not told. `reserve`: about as many tokens as it may take, prompt and answer.
    `conversation`: what all its turns are known by; None for what is no conversation."""

    choice: Choice
    path: str
    body: bytes = field(repr=False)
    injection: Injection | None = None
    stream: bool = False
    shape: ChatShape | ResponseShape | None = None
    strip_usage: bool = False
    cut_at: tuple[str, ...] = ()
    reserve: int = 0
    conversation: str | None = None

    def take_body(self) -> bytes:
        """The body, which the plan does not keep: while an answer streams, nobody needs what was asked."""
        body, self.body = self.body, b""
        return body

    @property
    def headers(self) -> dict[str, str]:
        """What the client is told of it."""
        headers = {"x-drpo-variant": self.choice.variant}
        if self.injection is None:
            return headers
        headers["x-drpo-bundle"] = self.injection.bundle
        headers["x-drpo-examples"] = ",".join(example.id for example in self.injection.examples)
        if self.injection.prompt_only:
            headers["x-drpo-prompt-only"] = self.injection.prompt_only
        if self.injection.degraded:
            headers["x-drpo-degraded"] = self.injection.degraded
        return headers


class Planner:
    """Makes the plan of a request; the injector chooses its examples."""

    def __init__(self, injector: Injector) -> None:
        self._injector = injector

    async def chat(self, body: Json, choice: Choice, model: Model, served: ServedBundle | None) -> Plan:
        """The plan of a chat request. Raises BadRequestError for what the model cannot do."""
        messages = chat_messages(body)
        return await self._chat(body, messages, choice, model, served)

    async def _chat(
        self, body: Json, messages: Sequence[Json], choice: Choice, model: Model, served: ServedBundle | None
    ) -> Plan:
        if model.kind == "completion":
            return await self._chat_as_text(body, messages, choice, model, served)
        first = first_user_text(messages)
        began = conversation_key(first)
        if choice.variant == RAW or served is None:
            return _relayed(body, choice, CHAT, conversation=began)
        if choice.variant != ALIGNED:
            sampled = _with_sampling(body, served)
            return _relayed(sampled, choice, CHAT, conversation=began)
        long, only = is_long(messages), _prompt_only(body, messages)
        client = await aside(long, joined_text, messages)
        injection = await self._injector.inject(served, model, (Message("user", first),), only, client, body)
        rendered = await aside(long, render_chat, served.bundle.prompt, injection.examples, messages)
        sampled = {**_with_sampling(body, served), "messages": rendered}
        return _relayed(sampled, choice, CHAT, injection, conversation=began)

    async def response(self, body: Json, choice: Choice, model: Model, served: ServedBundle | None) -> Plan:
        """The plan of a request to the Responses API: translated for a base model, injected into for a chat model."""
        if model.kind == "completion":
            plan = await self.chat(chat_body(body), choice, model, served)
            trim, top = (plan.shape.trim, plan.shape.top_logprobs) if plan.shape else (False, 0)
            return replace(plan, shape=ResponseShape(uuid4().hex, echoed_fields(body), trim, top), strip_usage=False)
        plan = await self._chat_response(body, choice, model, served)
        return replace(plan, conversation=conversation_key(first_user_text(loose_items(body))))

    async def _chat_response(self, body: Json, choice: Choice, model: Model, served: ServedBundle | None) -> Plan:
        if choice.variant == RAW or served is None:
            return _relayed(body, choice, RESPONSES)
        if choice.variant != ALIGNED:
            return _relayed(_with_response_sampling(body, served), choice, RESPONSES)
        items = input_items(body)
        turns = (Message("user", first_user_text(items)),)
        only = _response_prompt_only(body, items)
        client = await aside(is_long(items), joined_text, items)
        injection = await self._injector.inject(served, model, turns, only, client, body)
        sent = {**_with_response_sampling(body, served), **_injected_input(body, served, injection)}
        return _relayed(sent, choice, RESPONSES, injection)

    async def completion(self, body: Json, choice: Choice, model: Model, served: ServedBundle | None) -> Plan:
        """The plan of a text completion: relayed; injected into only where the client named such a variant."""
        if not choice.explicit or choice.variant == RAW or served is None:
            return _relayed(body, replace(choice, variant=RAW), COMPLETIONS)
        if choice.variant != ALIGNED:
            return _relayed(_with_sampling(body, served), choice, COMPLETIONS)
        turn = (Message("user", _completion_prompt(body)),)
        client = render_conversation(served.layout, turn)
        injection = await self._injector.inject(served, model, turn, _prompt_only(body, ()), client, body)
        prompt = text_prompt(served.layout, served.bundle.prompt, injection.examples, turn, client)
        cap = await self._injector.length_cap(prompt.text, injection.tokens, client, model, served)
        stops, cut_at = _stops(body, prompt.stop, model)
        sent = completion_body(body, prompt.text, stops, _sampling(served), cap)
        if "logprobs" in body:
            sent["logprobs"] = body["logprobs"]
        plan = _relayed(model.dialect.completion_request(sent), choice, COMPLETIONS, injection)
        return replace(plan, cut_at=cut_at)

    async def _chat_as_text(
        self, body: Json, messages: Sequence[Json], choice: Choice, model: Model, served: ServedBundle | None
    ) -> Plan:
        check_completable(body)
        long, began = is_long(messages), conversation_key(first_user_text(messages))
        turns = await aside(long, text_messages, messages)
        if choice.variant != ALIGNED or served is None:
            text = render_raw(turns)
            cap = await self._injector.length_cap(text, 0, text, model, served if choice.variant != RAW else None)
            sampling = _sampling(served) if served is not None and choice.variant != RAW else {}
            sent = model.dialect.completion_request(completion_body(body, text, client_stop(body), sampling, cap))
            return _relayed(sent, choice, COMPLETIONS, shape=_shape(body, model), conversation=began)
        client = await aside(long, render_conversation, served.layout, turns)
        injection = await self._injector.inject(served, model, turns, _prompt_only(body, messages), client, body)
        prompt = text_prompt(served.layout, served.bundle.prompt, injection.examples, turns, client)
        cap = await self._injector.length_cap(prompt.text, injection.tokens, client, model, served)
        stops, cut_at = _stops(body, prompt.stop, model)
        sent = model.dialect.completion_request(completion_body(body, prompt.text, stops, _sampling(served), cap))
        shape = _shape(body, model, trim=prompt.has_leading_gap)
        plan = _relayed(sent, choice, COMPLETIONS, injection, shape, began)
        return replace(plan, cut_at=cut_at) if cut_at else plan


def _stops(body: Json, layout_stops: Sequence[str], model: Model) -> tuple[list[str], tuple[str, ...]]:
    """Where the backend ends an answer, and where the proxy does because the backend takes no more stop strings."""
    return split_stop_strings(layout_stops, client_stop(body), model.dialect.max_stop_strings)


def _relayed(
    body: Json,
    choice: Choice,
    path: str,
    injection: Injection | None = None,
    shape: ChatShape | ResponseShape | None = None,
    conversation: str | None = None,
) -> Plan:
    """A plan for `body`, addressed to the model itself, with usage asked for in streams."""
    stream = flag_field(body, "stream")
    options = object_field(body, "stream_options")
    strip_usage = stream and path != RESPONSES and not options.get("include_usage")
    sent = {**body, "model": choice.model}
    if strip_usage:
        sent["stream_options"] = {**options, "include_usage": True}
    data = encode(sent)
    reserve = _about_tokens(data, sent)
    return Plan(choice, path, data, injection, stream, shape, strip_usage, (), reserve, conversation)


def _about_tokens(data: bytes, sent: Json) -> int:
    """Tokens that a request may take: its bytes, of which about four make a token, and the answers that it asks for."""
    caps = [cap for name in _CAPS if isinstance(cap := sent.get(name), int)] or [LENGTH_CAP]
    choices = sent.get("n")
    return len(data) // 4 + max(0, caps[0]) * max(1, choices if isinstance(choices, int) else 1)


def _shape(body: Json, model: Model, *, trim: bool = False) -> ChatShape:
    top = body.get("top_logprobs")
    return ChatShape(trim, top if isinstance(top, int) else 0, usage_on_last_choice=model.dialect.usage_on_last_choice)


def _prompt_only(body: Json, messages: Sequence[Json]) -> str | None:
    """Why a request gets the prompt without examples: they would teach it another form than the one it asks for."""
    form = None if _FORMS.isdisjoint(body) else _asked_form(body)
    if form is None and messages and messages[-1].get("role") == "assistant":
        return "prefill"
    return form


def _asked_form(body: Json) -> str | None:
    if body.get("tools") or body.get("functions"):
        return "tools"
    text = body.get("text")
    for wanted in (body.get("response_format"), text.get("format") if isinstance(text, dict) else None):
        if isinstance(wanted, dict) and wanted.get("type", "text") != "text":
            return "response_format"
    return "structured_outputs" if any(body.get(name) for name in _STRUCTURED) else None


def _response_prompt_only(body: Json, items: Sequence[Json]) -> str | None:
    """The same for the Responses API, where what examples would have to precede may be with the backend alone."""
    if not items:
        return "no_input"
    return "previous_response" if body.get("previous_response_id") else _prompt_only(body, items)


def _completion_prompt(body: Json) -> str:
    prompt = body.get("prompt")
    if not isinstance(prompt, str):
        raise BadRequestError(
            "With a variant, `prompt` must be one string: it counts as one user turn.", param="prompt"
        )
    for name in _COMPLETION_ONLY:
        if body.get(name):
            raise BadRequestError(f"`{name}` cannot be combined with a variant that injects a prompt.", param=name)
    return prompt


def _sampling(served: ServedBundle) -> Json:
    return {name: value for name, value in served.bundle.manifest.sampling.items() if name != "max_tokens"}


def _with_sampling(body: Json, served: ServedBundle) -> dict[str, Any]:
    missing = {name: value for name, value in served.bundle.manifest.sampling.items() if body.get(name) is None}
    if client_max_tokens(body) is not None:
        missing.pop("max_tokens", None)
    return {**body, **missing}


def _with_response_sampling(body: Json, served: ServedBundle) -> dict[str, Any]:
    """The same under the Responses API's names: max_output_tokens, and no penalties, which it does not have."""
    sampling = served.bundle.manifest.sampling
    renamed = {name: sampling[name] for name in ("temperature", "top_p") if name in sampling}
    if "max_tokens" in sampling:
        renamed["max_output_tokens"] = sampling["max_tokens"]
    return {**body, **{name: value for name, value in renamed.items() if body.get(name) is None}}


def _injected_input(body: Json, served: ServedBundle, injection: Injection) -> dict[str, Any]:
    """Prompt before the client's instructions, examples as turns before its input."""
    items = input_items(body)
    leading = next((n for n, item in enumerate(items) if item.get("role") not in ("system", "developer")), len(items))
    turns = [turn for example in injection.examples for turn in render_chat_turns(example)]
    instructions = [text for text in (served.bundle.prompt, text_field(body, "instructions")) if text]
    injected: dict[str, Any] = {"instructions": "\n\n".join(instructions)}
    return {**injected, "input": [*items[:leading], *turns, *items[leading:]]} if items else injected
