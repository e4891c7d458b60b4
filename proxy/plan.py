"""What will be sent for a request: variant, bundle, examples, budget, body. Knows no sockets.

Everything that a request depends on is read once, here, and frozen into a Plan.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson

from index.render import render_chat, render_conversation, render_raw, render_text, stop_strings
from index.retrieve import arrange, retrieval_query
from index.types import Example, Hit, Message
from proxy.budget import ANSWER_ROOM, Selection, room_for_injection, select, token_bound, within_policy
from proxy.errors import BadRequestError
from proxy.live import Costs, ServedBundle, TokenCosts
from proxy.models import Model, TokenCounter
from proxy.retrieval import Retrieval
from proxy.translate import ChatShape, check_completable, client_max_tokens, completion_body, text_messages
from proxy.variants import ALIGNED, RAW, Choice

Json = Mapping[str, Any]

LENGTH_CAP: Final = 1024  # tokens of an answer on a base model, where neither client nor bundle says: vLLM's own is 16
_STRUCTURED: Final = ("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "grammar")
_COMPLETION_ONLY: Final = ("echo", "suffix", "prompt_logprobs")


@dataclass(frozen=True, slots=True)
class Injection:
    """What goes before the client's words. `prompt_only` and `degraded` say in a word why there are no examples."""

    served: ServedBundle
    examples: tuple[Example, ...] = ()
    tokens: int = 0
    prompt_only: str | None = None
    degraded: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """One request, decided. `shape`: how the reply, a completion, becomes chat; None: it passes as it is.
    `strip_usage`: the stream carries a usage event that the client did not ask for."""

    choice: Choice
    path: str
    body: bytes = field(repr=False)
    injection: Injection | None = None
    stream: bool = False
    shape: ChatShape | None = None
    strip_usage: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """What the client is told of it."""
        headers = {"x-drpo-variant": self.choice.variant}
        if self.injection is None:
            return headers
        headers["x-drpo-bundle"] = self.injection.served.id
        headers["x-drpo-examples"] = ",".join(example.id for example in self.injection.examples)
        if self.injection.prompt_only:
            headers["x-drpo-prompt-only"] = self.injection.prompt_only
        if self.injection.degraded:
            headers["x-drpo-degraded"] = self.injection.degraded
        return headers


class Planner:
    """Makes the plan of a request from the bundles, the retrieval and the token counts."""

    def __init__(self, retrieval: Retrieval, costs: TokenCosts, count: TokenCounter) -> None:
        self._retrieval = retrieval
        self._costs = costs
        self._count = count

    async def warm_up(self, served: ServedBundle, model: Model) -> None:
        """Do ahead of the first request what is done once: count tokens, load the embedder, fill the first cache."""
        await self._costs.of(served, model)
        await self._retrieval.find(served.source, "hello")

    async def chat(self, body: Json, choice: Choice, model: Model, served: ServedBundle | None) -> Plan:
        """The plan of a chat request. Raises BadRequestError for what the model cannot do."""
        messages = _messages(body)
        if model.kind == "completion":
            return await self._chat_as_text(body, messages, choice, model, served)
        if choice.variant == RAW or served is None:
            return _relayed(body, choice, "/v1/chat/completions")
        if choice.variant != ALIGNED:
            sampled = _with_sampling(body, served)
            return _relayed(sampled, choice, "/v1/chat/completions")
        texts = tuple(Message("user", text) for text in [_first_user_text(messages)])
        fixed = sum(token_bound(_loose_text(message)) for message in messages)
        injection = await self._inject(served, model, texts, _prompt_only(body, messages), fixed, body)
        rendered = render_chat(served.bundle.prompt, injection.examples, messages)
        sampled = {**_with_sampling(body, served), "messages": rendered}
        return _relayed(sampled, choice, "/v1/chat/completions", injection)

    async def completion(self, body: Json, choice: Choice, model: Model, served: ServedBundle | None) -> Plan:
        """The plan of a text completion: relayed; injected into only where the client named such a variant."""
        if not choice.explicit or choice.variant == RAW or served is None:
            return _relayed(body, replace(choice, variant=RAW), "/v1/completions")
        if choice.variant != ALIGNED:
            return _relayed(_with_sampling(body, served), choice, "/v1/completions")
        turn = (Message("user", _completion_prompt(body)),)
        injection = await self._inject(served, model, turn, _prompt_only(body, ()), None, body)
        text = render_text(served.layout, served.bundle.prompt, injection.examples, turn)
        cap = await self._length_cap(text, injection.tokens, turn, model, served)
        sent = completion_body(body, text, stop_strings(served.layout), _sampling(served), cap)
        if "logprobs" in body:
            sent["logprobs"] = body["logprobs"]
        return _relayed(sent, choice, "/v1/completions", injection)

    async def _chat_as_text(
        self, body: Json, messages: Sequence[Json], choice: Choice, model: Model, served: ServedBundle | None
    ) -> Plan:
        check_completable(body)
        turns = text_messages(messages)
        if choice.variant != ALIGNED or served is None:
            text = render_raw(turns)
            cap = await self._length_cap(text, 0, turns, model, served if choice.variant != RAW else None)
            sampling = _sampling(served) if served is not None and choice.variant != RAW else {}
            sent = completion_body(body, text, (), sampling, cap)
            return _relayed(sent, choice, "/v1/completions", shape=_shape(body))
        injection = await self._inject(served, model, turns, _prompt_only(body, messages), None, body)
        text = render_text(served.layout, served.bundle.prompt, injection.examples, turns)
        cap = await self._length_cap(text, injection.tokens, turns, model, served)
        sent = completion_body(body, text, stop_strings(served.layout), _sampling(served), cap)
        prefilled = turns[-1].role == "assistant" and bool(turns[-1].text)
        trim = served.layout.answer_begins_with_gap and not prefilled
        return _relayed(sent, choice, "/v1/completions", injection, _shape(body, trim=trim))

    async def _inject(
        self,
        served: ServedBundle,
        model: Model,
        turns: Sequence[Message],
        prompt_only: str | None,
        client_bound: int | None,
        body: Json,
    ) -> Injection:
        """Choose the examples: retrieve, keep the bundle's own limit, then what the context leaves."""
        costs = await self._costs.of(served, model)
        if prompt_only:
            return Injection(served, tokens=costs.prompt, prompt_only=prompt_only)
        found = await self._retrieval.find(served.source, retrieval_query(turns))
        limit = served.bundle.manifest.retrieval.max_injected_tokens
        hits = within_policy(costs.prompt, costs.examples, served.pinned, found.hits, limit)
        selection = await self._fit(served, model, turns, hits, costs, client_bound, body)
        retrieved = arrange(selection.hits, served.bundle.manifest.retrieval.order)
        return Injection(served, (*selection.pinned, *retrieved), selection.tokens, degraded=found.degraded)

    async def _fit(
        self,
        served: ServedBundle,
        model: Model,
        turns: Sequence[Message],
        hits: Sequence[Hit],
        costs: Costs,
        client_bound: int | None,
        body: Json,
    ) -> Selection:
        """What the context leaves: by the bound where that is enough, by exact counts near the limit."""
        everything = select(costs.prompt, costs.examples, served.pinned, hits, room=2**31)
        if model.context is None:
            return everything
        answer = _answer_room(body, served)
        text = render_conversation(served.layout, turns)
        bound = token_bound(text) if client_bound is None else client_bound
        if everything.tokens + bound + answer <= model.context - ANSWER_ROOM:
            return everything
        exact = await self._count(model, text) if client_bound is None else None
        room = room_for_injection(model.context, bound if exact is None else exact, answer)
        return select(costs.prompt, costs.examples, served.pinned, hits, room)

    async def _length_cap(
        self, text: str, injected: int, turns: Sequence[Message], model: Model, served: ServedBundle | None
    ) -> int:
        """max_tokens where the client gave none: the bundle's, or what the context leaves if that is less."""
        cap = _bundle_cap(served)
        if model.context is None:
            return cap
        bound = injected + sum(token_bound(turn.text) + ANSWER_ROOM // 8 for turn in turns)
        if bound + cap <= model.context:
            return cap
        exact = await self._count(model, text)
        return max(1, min(cap, model.context - (bound if exact is None else exact)))


def _relayed(
    body: Json,
    choice: Choice,
    path: str,
    injection: Injection | None = None,
    shape: ChatShape | None = None,
) -> Plan:
    """A plan for `body`, addressed to the model itself, with usage asked for in streams."""
    stream = body.get("stream") is True
    options = body.get("stream_options") or {}
    strip_usage = stream and not options.get("include_usage")
    sent = {**body, "model": choice.model}
    if strip_usage:
        sent["stream_options"] = {**options, "include_usage": True}
    return Plan(choice, path, orjson.dumps(sent), injection, stream, shape, strip_usage)


def _shape(body: Json, *, trim: bool = False) -> ChatShape:
    top = body.get("top_logprobs")
    return ChatShape(trim, top if isinstance(top, int) else 0)


def _messages(body: Json) -> list[Json]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequestError("`messages` must be a list of at least one message.", param="messages")
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            raise BadRequestError(f"messages[{number}] must be an object with `role` and `content`.", param="messages")
    return messages


def _prompt_only(body: Json, messages: Sequence[Json]) -> str | None:
    """Why a request gets the prompt without examples: they would teach it another form than the one it asks for."""
    if body.get("tools") or body.get("functions"):
        return "tools"
    response_format = body.get("response_format")
    if isinstance(response_format, dict) and response_format.get("type", "text") != "text":
        return "response_format"
    if any(body.get(name) for name in _STRUCTURED):
        return "structured_outputs"
    if messages and messages[-1].get("role") == "assistant":
        return "prefill"
    return None


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


def _first_user_text(messages: Sequence[Json]) -> str:
    return next((_loose_text(message) for message in messages if message.get("role") == "user"), "")


def _loose_text(message: Json) -> str:
    """The text of a message, whatever else it holds: retrieval looks at words, the backend judges the rest."""
    content = message.get("content")
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _sampling(served: ServedBundle) -> Json:
    return {name: value for name, value in served.bundle.manifest.sampling.items() if name != "max_tokens"}


def _with_sampling(body: Json, served: ServedBundle) -> dict[str, Any]:
    sampling = dict(served.bundle.manifest.sampling)
    if client_max_tokens(body) is not None:
        sampling.pop("max_tokens", None)
    return {**body, **{name: value for name, value in sampling.items() if body.get(name) is None}}


def _bundle_cap(served: ServedBundle | None) -> int:
    cap = served.bundle.manifest.sampling.get("max_tokens") if served is not None else None
    return cap if isinstance(cap, int) else LENGTH_CAP


def _answer_room(body: Json, served: ServedBundle) -> int:
    asked = client_max_tokens(body)
    return asked if isinstance(asked, int) and asked > 0 else min(_bundle_cap(served), ANSWER_ROOM)
