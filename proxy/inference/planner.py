"""Decides what the proxy sends to the backend: prompt, examples, stop strings, sampling and length limit.

The Planner makes a Plan from the client's request, the model and the bundle. Later steps use the Plan and do not read
the request again. The module does not depend on sockets.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final
from uuid import uuid4

from index.rendering import render_chat, render_chat_turns, render_conversation, render_raw, text_prompt
from index.types import Message
from proxy.backends.discovery import Model
from proxy.core.errors import BadRequestError
from proxy.core.json_types import Json
from proxy.core.variant_names import ALIGNED, RAW
from proxy.inference.injection.injector import Injection, Injector
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.inference.plan import CHAT, COMPLETIONS, RESPONSES, Plan, make_plan
from proxy.inference.prompt_only import prompt_only_reason, response_prompt_only_reason
from proxy.inference.setting import Setting
from proxy.openai.chat_completion import (
    ChatShape,
    check_completable,
    client_max_tokens,
    client_stop,
    completion_body,
    text_messages,
)
from proxy.openai.conversation import Conversation, check_input, check_messages, joined_text, offload
from proxy.openai.json_fields import flag_field, text_field
from proxy.openai.response_request import chat_body
from proxy.openai.responses import ResponseShape, echoed_fields
from proxy.openai.stop_strings import StopRules, split_stop_strings

_COMPLETION_ONLY: Final = ("echo", "suffix", "prompt_logprobs")


class Planner:
    """Makes the plan of a request for each of the three APIs: chat, Responses and text completions."""

    def __init__(self, injector: Injector) -> None:
        self._injector = injector

    async def chat(self, conversation: Conversation, setting: Setting) -> Plan:
        """Make the plan of a chat request. For a base model, the request becomes a text completion.

        Raises:
            BadRequestError: The model cannot answer the request.
            LayoutError: A system message at the beginning contains a part that is not text.
        """
        check_messages(conversation)
        return await self._chat(conversation, setting)

    async def response(self, conversation: Conversation, setting: Setting) -> Plan:
        """Make the plan of a request to the Responses API.

        For a base model, the request becomes a text completion. For a chat model, the plan sends the request to the
        Responses API of the backend.

        Raises:
            BadRequestError: The model cannot answer the request.
        """
        if setting.model.kind != "completion":
            return await self._chat_response(conversation, setting)
        body = conversation.body
        chat = chat_body(body)
        plan = await self._chat(replace(conversation, body=chat, messages=chat["messages"]), setting)
        trim, top = (plan.shape.trim, plan.shape.top_logprobs) if plan.shape else (False, 0)
        return replace(plan, shape=ResponseShape(uuid4().hex, echoed_fields(body), trim, top), strip_usage=False)

    async def completion(self, conversation: Conversation, setting: Setting) -> Plan:
        """Make the plan of a text completion.

        If the client names no variant, the variant is `raw`, even for a model that has a bundle. With the variant
        `aligned`, the field `prompt` counts as one user turn.

        Raises:
            BadRequestError: The variant is `aligned`, and the request has a field or a prompt that this variant
                does not allow.
        """
        body, choice, model, served = conversation.body, setting.choice, setting.model, setting.served
        if not choice.explicit or choice.variant == RAW or served is None:
            return make_plan(body, replace(choice, variant=RAW), COMPLETIONS)
        if choice.variant != ALIGNED:
            return make_plan(_with_sampling(body, served), choice, COMPLETIONS)
        turns = (Message("user", _completion_prompt(body)),)
        client = render_conversation(served.layout, turns)
        prompt_only = prompt_only_reason(body, ())
        injection = await self._injector.choose_examples(served, model, turns[0].text, prompt_only, client, body)
        prompt = text_prompt(served.layout, served.bundle.prompt, injection.examples, turns, client)
        cap = await self._injector.max_tokens(prompt.text, injection.tokens, client, model, served)
        stops, cut_at = _stops(body, prompt.stop, model)
        sent = completion_body(body, prompt.text, stops, _sampling(served), cap)
        if "logprobs" in body:
            sent["logprobs"] = body["logprobs"]
        plan = make_plan(model.dialect.completion_request(sent), choice, COMPLETIONS, injection)
        return replace(plan, cut_at=cut_at)

    async def _chat(self, conversation: Conversation, setting: Setting) -> Plan:
        if setting.model.kind == "completion":
            return await self._chat_as_text(conversation, setting)
        body, choice, served = conversation.body, setting.choice, setting.served
        if choice.variant == RAW or served is None:
            return make_plan(body, choice, CHAT, conversation_key=conversation.key)
        if choice.variant != ALIGNED:
            return make_plan(_with_sampling(body, served), choice, CHAT, conversation_key=conversation.key)
        messages, is_long = conversation.messages, conversation.is_long
        prompt_only = prompt_only_reason(body, messages, is_background=conversation.is_background)
        client = await offload(is_long, joined_text, messages)
        injection = await self._injector.choose_examples(
            served, setting.model, conversation.opening, prompt_only, client, body
        )
        rendered = await offload(is_long, render_chat, served.bundle.prompt, injection.examples, messages)
        sent = {**_with_sampling(body, served), "messages": rendered}
        return make_plan(sent, choice, CHAT, injection, conversation_key=conversation.key)

    async def _chat_response(self, conversation: Conversation, setting: Setting) -> Plan:
        body, choice, served = conversation.body, setting.choice, setting.served
        if choice.variant == RAW or served is None:
            return make_plan(body, choice, RESPONSES, conversation_key=conversation.key)
        sampled = _with_response_sampling(body, served)
        if choice.variant != ALIGNED:
            return make_plan(sampled, choice, RESPONSES, conversation_key=conversation.key)
        check_input(conversation)
        items = conversation.messages
        prompt_only = response_prompt_only_reason(body, items, is_background=conversation.is_background)
        client = await offload(conversation.is_long, joined_text, items)
        injection = await self._injector.choose_examples(
            served, setting.model, conversation.opening, prompt_only, client, body
        )
        sent = {**sampled, **_injected_input(conversation, served, injection)}
        return make_plan(sent, choice, RESPONSES, injection, conversation_key=conversation.key)

    async def _chat_as_text(self, conversation: Conversation, setting: Setting) -> Plan:
        check_completable(conversation.body)
        is_long = conversation.is_long
        turns = await offload(is_long, text_messages, conversation.messages)
        if setting.choice.variant != ALIGNED or setting.served is None:
            return await self._chat_as_raw_text(conversation, setting, turns)
        body, model, served = conversation.body, setting.model, setting.served
        prompt_only = prompt_only_reason(body, conversation.messages, is_background=conversation.is_background)
        client = await offload(is_long, render_conversation, served.layout, turns)
        injection = await self._injector.choose_examples(served, model, conversation.opening, prompt_only, client, body)
        prompt = text_prompt(served.layout, served.bundle.prompt, injection.examples, turns, client)
        cap = await self._injector.max_tokens(prompt.text, injection.tokens, client, model, served)
        stops, cut_at = _stops(body, prompt.stop, model)
        sent = model.dialect.completion_request(completion_body(body, prompt.text, stops, _sampling(served), cap))
        shape = _shape(body, model, trim=prompt.has_leading_gap)
        plan = make_plan(sent, setting.choice, COMPLETIONS, injection, shape, conversation.key)
        return replace(plan, cut_at=cut_at)

    async def _chat_as_raw_text(self, conversation: Conversation, setting: Setting, turns: Sequence[Message]) -> Plan:
        body, choice, model = conversation.body, setting.choice, setting.model
        served = setting.served if choice.variant != RAW else None
        text = render_raw(turns)
        cap = await self._injector.max_tokens(text, 0, text, model, served)
        sampling = _sampling(served) if served is not None else {}
        sent = model.dialect.completion_request(completion_body(body, text, client_stop(body), sampling, cap))
        return make_plan(sent, choice, COMPLETIONS, shape=_shape(body, model), conversation_key=conversation.key)


def _stops(body: Json, layout_stops: Sequence[str], model: Model) -> tuple[list[str], StopRules]:
    """Return the stop strings for the backend, and the rules by which the proxy itself cuts the answer."""
    sent, remaining = split_stop_strings(layout_stops, client_stop(body), model.dialect.max_stop_strings)
    return sent, StopRules(
        tuple(layout_stops), remaining, include_client=flag_field(body, "include_stop_str_in_output")
    )


def _shape(body: Json, model: Model, *, trim: bool = False) -> ChatShape:
    top = body.get("top_logprobs")
    return ChatShape(trim, top if isinstance(top, int) else 0, usage_on_last_choice=model.dialect.usage_on_last_choice)


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
    """Return the bundle's sampling parameters without max_tokens, which `Injector.max_tokens` computes."""
    return {name: value for name, value in served.bundle.manifest.sampling.items() if name != "max_tokens"}


def _with_sampling(body: Json, served: ServedBundle) -> dict[str, Any]:
    """Return the body with the bundle's value for each sampling parameter that the client did not set."""
    missing = {name: value for name, value in served.bundle.manifest.sampling.items() if body.get(name) is None}
    if client_max_tokens(body) is not None:
        missing.pop("max_tokens", None)
    return {**body, **missing}


def _with_response_sampling(body: Json, served: ServedBundle) -> dict[str, Any]:
    """Return a body for the Responses API, with the bundle's values for parameters that the client did not set.

    Only temperature, top_p and max_tokens are added, because the API has no penalties. The API's name for max_tokens is
    max_output_tokens.
    """
    sampling = served.bundle.manifest.sampling
    renamed = {name: sampling[name] for name in ("temperature", "top_p") if name in sampling}
    if "max_tokens" in sampling:
        renamed["max_output_tokens"] = sampling["max_tokens"]
    return {**body, **{name: value for name, value in renamed.items() if body.get(name) is None}}


def _injected_input(conversation: Conversation, served: ServedBundle, injection: Injection) -> dict[str, Any]:
    """Return the fields `instructions` and `input` with the bundle's prompt and the examples.

    The prompt comes before the client's instructions. The examples are inserted into the input as turns: after the
    system and developer items at its beginning, and before all other items. If the request has no input items, the
    field `input` is left out.
    """
    items = conversation.messages
    leading = next((n for n, item in enumerate(items) if item.get("role") not in ("system", "developer")), len(items))
    turns = [turn for example in injection.examples for turn in render_chat_turns(example)]
    instructions = [text for text in (served.bundle.prompt, text_field(conversation.body, "instructions")) if text]
    injected: dict[str, Any] = {"instructions": "\n\n".join(instructions)}
    return {**injected, "input": [*items[:leading], *turns, *items[leading:]]} if items else injected
