"""Decides what the proxy sends to the backend: prompt, examples, stop strings, sampling and length limit.

The Planner makes a Plan from the client's request, the model and the bundle. Later steps use the Plan and do not read
the request again. The module does not depend on sockets.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final, NamedTuple
from uuid import uuid4

from index.layouts import SEPARATOR
from index.rendering import render_raw, text_prompt
from index.types import Message
from proxy.backends.discovery import Model
from proxy.backends.load_balancing import NO_AFFINITY, Affinity
from proxy.backends.set_plan import set_key
from proxy.core.errors import BadRequestError
from proxy.core.json_types import Json, JsonDict
from proxy.core.variant_names import ALIGNED, RAW
from proxy.inference.answer_ending import AskedTurns, asked_turns
from proxy.inference.answer_length import AnswerLimiter, asked_limit
from proxy.inference.injection.injection import Injection
from proxy.inference.injection.injector import Injector
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.inference.plan import CHAT, COMPLETIONS, RESPONSES, Plan, make_plan
from proxy.inference.reduction import (
    BACKGROUND,
    continues_last_message,
    reduction_reason,
    response_reduction_reason,
)
from proxy.inference.request_bodies import (
    bundle_sampling,
    injected_input,
    injected_messages,
    with_response_sampling,
    with_sampling,
)
from proxy.inference.setting import Setting
from proxy.openai.chat_applications import answer_form
from proxy.openai.chat_completion import (
    ChatShape,
    check_completable,
    client_max_tokens,
    client_stop,
    completion_body,
    text_messages,
)
from proxy.openai.conversation import Conversation, check_input, check_messages, joined_text, offload, read_chat
from proxy.openai.json_fields import flag_field, whole_number
from proxy.openai.response_request import chat_body
from proxy.openai.responses import ResponseShape, echoed_fields
from proxy.openai.stop_strings import StopRules, split_stop_strings

_MAX_CACHED_RULES: Final = 128
_MAX_CACHED_SHAPES: Final = 128
_cached_shape: Final = lru_cache(maxsize=_MAX_CACHED_SHAPES)(ChatShape)
_COMPLETION_ONLY: Final = ("echo", "suffix", "prompt_logprobs")  # not allowed with the variant `aligned`


class _InjectedText(NamedTuple):
    """A request for a text completion with an injection. It is a named tuple, because that is fast to create.

    Attributes:
        sent: The body for the backend, in vLLM's format.
        injection: The injection.
        cut_at: The stop strings at which the proxy itself ends the answer.
        has_leading_gap: Whether the model writes the layout's gap (white space) before its answer.
        lowered_limit: The max_tokens of the body, if it is smaller than the client's; else None.
    """

    sent: JsonDict
    injection: Injection
    cut_at: StopRules
    has_leading_gap: bool
    lowered_limit: int | None


class Planner:
    """Makes the plan of a request for each of the three APIs: chat, Responses and text completions."""

    def __init__(self, injector: Injector) -> None:
        self._injector = injector
        self._limiter = AnswerLimiter(injector)

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
            return await self._chat_as_messages(conversation, setting, RESPONSES)
        body = conversation.body
        chat = chat_body(body)
        plan = await self._chat(read_chat(chat), setting)
        trim, top = (plan.shape.trim, plan.shape.top_logprobs) if plan.shape else (False, 0)
        shape = ResponseShape(uuid4().hex, echoed_fields(body), trim, top, setting.choice.model)
        return replace(plan, shape=shape, strip_usage=False)

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
            return make_plan(await self._sampled_completion(body, setting, served), choice, COMPLETIONS)
        asked = AskedTurns((Message("user", _completion_prompt(body)),), opens_answer=True, continues=False)
        conversation = replace(conversation, opening=asked.turns[0].text)
        text = await self._injected_text(conversation, setting, served, asked, reduction_reason(body, continues=False))
        sent = {**text.sent, "logprobs": body["logprobs"]} if "logprobs" in body else text.sent
        affinity = _affinity(conversation, text.injection) if text.injection.set_name else NO_AFFINITY
        request = model.dialect.completion_request(sent)
        plan = make_plan(request, choice, COMPLETIONS, text.injection, affinity=affinity)
        plan.cut_at, plan.lowered_limit = text.cut_at, text.lowered_limit
        return plan

    async def _chat(self, conversation: Conversation, setting: Setting) -> Plan:
        if setting.model.kind == "completion":
            return await self._chat_as_text(conversation, setting)
        return await self._chat_as_messages(conversation, setting, CHAT)

    async def _chat_as_messages(self, conversation: Conversation, setting: Setting, path: str) -> Plan:
        """Make the plan of a request to a chat model. The body keeps the format of `path`: CHAT or RESPONSES."""
        body, choice, served = conversation.body, setting.choice, setting.served
        if choice.variant == RAW or served is None:
            return make_plan(body, choice, path, affinity=_affinity(conversation))
        is_long, injection = conversation.is_long, None
        client = await offload(is_long, joined_text, conversation.turns)
        sent = with_sampling(body, served) if path == CHAT else with_response_sampling(body, served)
        if choice.variant == ALIGNED:
            reason = _reduction_reason(conversation, path)
            injection = await self._injector.choose_examples(
                served, setting.model, conversation.queries, reason, client, body
            )
            inject = injected_messages if path == CHAT else injected_input
            sent |= await offload(is_long, inject, conversation, injection)
        sent = await self._limiter.limit_chat(sent, conversation, setting, injection, client)
        plan = make_plan(sent, choice, path, injection, affinity=_affinity(conversation, injection))
        plan.lowered_limit = _lowered_limit(body, sent)
        return plan

    async def _chat_as_text(self, conversation: Conversation, setting: Setting) -> Plan:
        check_completable(conversation.body)
        messages = conversation.turns
        is_long = conversation.is_long
        turns = await offload(is_long, text_messages, messages)
        body, model, served = conversation.body, setting.model, setting.served
        asked = asked_turns(body, messages, turns)
        if setting.choice.variant != ALIGNED or served is None:
            return await self._chat_as_raw_text(conversation, setting, asked.turns)
        reason = reduction_reason(body, continues=asked.continues, is_background=conversation.is_background)
        text = await self._injected_text(conversation, setting, served, asked, reason, is_long=is_long)
        form = _background_form(turns, model) if reason == BACKGROUND else {}
        sent = model.dialect.completion_request({**text.sent, **form})
        shape = _shape(body, model, trim=text.has_leading_gap)
        affinity = _affinity(conversation, text.injection)
        plan = make_plan(sent, setting.choice, COMPLETIONS, text.injection, shape, affinity)
        plan.cut_at, plan.lowered_limit = text.cut_at, text.lowered_limit
        return plan

    async def _chat_as_raw_text(self, conversation: Conversation, setting: Setting, turns: Sequence[Message]) -> Plan:
        body, choice, model = conversation.body, setting.choice, setting.model
        served = setting.served if choice.variant != RAW else None
        text = render_raw(turns)
        cap = await self._injector.max_tokens(text, 0, text, model, served)
        sampling = bundle_sampling(served) if served is not None else {}
        sent = model.dialect.completion_request(completion_body(body, text, client_stop(body), sampling, cap))
        return make_plan(sent, choice, COMPLETIONS, shape=_shape(body, model), affinity=_affinity(conversation))

    async def _injected_text(
        self,
        conversation: Conversation,
        setting: Setting,
        served: ServedBundle,
        asked: AskedTurns,
        reason: str | None,
        *,
        is_long: bool = False,
    ) -> _InjectedText:
        """Choose examples, and render the request for a base model.

        Args:
            conversation: The client's request.
            setting: The model and the variant.
            served: The bundle.
            asked: The turns of the client, and where the model begins to write.
            reason: Why the request gets no retrieved examples; None if it may have them.
            is_long: Whether the conversation is rendered on a thread.
        """
        body, model = conversation.body, setting.model
        client = await offload(is_long, asked.rendered, served.layout)
        queries = conversation.queries
        injection = await self._injector.choose_examples(served, model, queries, reason, client, body)
        prompt = text_prompt(served.layout, injection.prompt, injection.examples, asked.turns, client)
        default = 0
        if client_max_tokens(body) is None:
            default = await self._injector.max_tokens(prompt.text, injection.tokens, client, model, served)
        begins_line = asked.opens_answer and prompt.text.endswith("\n")
        stops, cut_at = _stops(body, prompt.stop, SEPARATOR if begins_line else "", model)
        sent = completion_body(body, prompt.text, stops, bundle_sampling(served), default)
        limited = await self._limiter.limit_text(sent, body, setting, injection, asked.turns, client)
        lowered = None if limited is sent else _lowered_limit(body, limited)
        return _InjectedText(limited, injection, cut_at, prompt.has_leading_gap and asked.opens_answer, lowered)

    async def _sampled_completion(self, body: Json, setting: Setting, served: ServedBundle) -> JsonDict:
        """Return the body of a text completion with the bundle's sampling. Its max_tokens is lowered if necessary."""
        sent, prompt = with_sampling(body, served), body.get("prompt")
        if "max_tokens" in sent and asked_limit(body) is None and isinstance(prompt, str):
            limit = await self._injector.max_tokens(prompt, 0, prompt, setting.model, served)
            sent["max_tokens"] = min(limit, asked_limit(sent) or limit)
        return sent


def _affinity(conversation: Conversation, injection: Injection | None = None) -> Affinity:
    """Return the conversation of a request, and its example set if it contains examples of a set."""
    if injection is None or not injection.set_name:
        return Affinity(conversation.key)
    return Affinity(conversation.key, set_key(injection.bundle, injection.set_name), conversation.is_first_turn)


def _reduction_reason(conversation: Conversation, path: str) -> str | None:
    """Return why a request to a chat model gets no retrieved examples; None if it may get them.

    Raises BadRequestError if the examples cannot be inserted into the input of a request to the Responses API.
    """
    body, turns, is_background = conversation.body, conversation.turns, conversation.is_background
    if path == CHAT:
        return reduction_reason(body, continues=continues_last_message(body, turns), is_background=is_background)
    check_input(conversation)
    return response_reduction_reason(body, turns, is_background=is_background)


def _lowered_limit(body: Json, sent: Json) -> int | None:
    """Return the max_tokens in the body for the backend if it is smaller than the client's; None if it is not."""
    asked = asked_limit(body)
    limit = None if asked is None else asked_limit(sent)
    return limit if asked is not None and limit is not None and limit < asked else None


def _stops(body: Json, layout_stops: tuple[str, ...], before: str, model: Model) -> tuple[tuple[str, ...], StopRules]:
    """Return the stop strings for the backend, and the rules by which the proxy itself cuts the answer."""
    includes, limit = flag_field(body, "include_stop_str_in_output"), model.dialect.max_stop_strings
    return _split_stops(layout_stops, tuple(client_stop(body)), limit, includes, before)


@lru_cache(maxsize=_MAX_CACHED_RULES)
def _split_stops(
    layout: tuple[str, ...], client: tuple[str, ...], limit: int | None, includes_client: bool, before: str
) -> tuple[tuple[str, ...], StopRules]:
    sent, remaining = split_stop_strings(layout, client, limit)
    return tuple(sent), StopRules(layout, remaining, includes_client, before)


def _background_form(turns: Sequence[Message], model: Model) -> Json:
    """Return the field `response_format` for a background request; empty if the request asks for no JSON object."""
    form = answer_form(turns[-1].text) if model.dialect.enforces_json else None
    return {} if form is None else {"response_format": form}


def _shape(body: Json, model: Model, *, trim: bool = False) -> ChatShape:
    top = whole_number(body.get("top_logprobs")) or 0
    return _cached_shape(trim, top, model.dialect.usage_on_last_choice)


def _completion_prompt(body: Json) -> str:
    prompt = body.get("prompt")
    if not isinstance(prompt, str):
        raise BadRequestError(
            "With the variant `aligned`, `prompt` must be one string. It counts as one user turn.",
            param="prompt",
        )
    for name in _COMPLETION_ONLY:
        if body.get(name):
            raise BadRequestError(f"`{name}` cannot be combined with the variant `aligned`.", param=name)
    return prompt
