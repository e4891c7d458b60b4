"""Chooses the examples of a request: retrieves them, and then keeps those that fit into two token limits.

The limits are the max_injected_tokens of the bundle and the context of the model. The module also computes max_tokens
for a base model. It does not depend on HTTP, or on the API that a client calls.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from index.retrieval.selection import Essentials, Selection, fit_to_room, select_within_policy
from index.token_estimate import estimated_tokens
from index.types import NOTHING_RETRIEVED, Retrieved
from proxy.backends.discovery import ChatTokenCounter, Model, TokenCounter
from proxy.core.json_types import Json
from proxy.core.lru_cache import LruCache
from proxy.inference.injection.injection import Injection
from proxy.inference.injection.retrieval import Retrieval
from proxy.inference.injection.retrieval_worker import RetrievalResult
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.inference.injection.token_budget import (
    DEFAULT_ANSWER_TOKENS,
    HYSTERESIS,
    max_token_count,
    room_for_essentials,
    room_for_injection,
)
from proxy.inference.injection.token_costs import BundleCosts, TokenCosts
from proxy.inference.reduction import CONTEXT, CONTEXT_PROMPT, NO_QUERY, WITHOUT_EXAMPLES
from proxy.openai.chat_completion import client_max_tokens
from proxy.openai.json_fields import whole_number

DEFAULT_MAX_TOKENS: Final = 1024
"""The max_tokens of an answer if neither the client nor the bundle sets it. vLLM's default, 16, is too low."""
_MAX_TOKEN_BYTES: Final = 256  # upper bound of the bytes of one token: twice the maximum in common vocabularies
_MAX_CACHED_SELECTIONS: Final = 1024


@dataclass(frozen=True, slots=True)
class _AllowedExamples:
    """The examples that the bundle's limit (max_injected_tokens) allows. The context of the model may allow fewer.

    Attributes:
        costs: The numbers of tokens of the bundle's prompt and of its examples. Every selected example is included.
        selection: The selected examples: all pinned examples, and the retrieved examples that the limits allow.
        injection: The injection that contains exactly these examples.
        retrieved: The result of retrieval from which the examples were selected.
    """

    costs: BundleCosts
    selection: Selection
    injection: Injection
    retrieved: Retrieved = NOTHING_RETRIEVED


class Injector:
    """Chooses the examples of a request, and computes max_tokens for a base model."""

    def __init__(
        self, retrieval: Retrieval, costs: TokenCosts, count: TokenCounter, count_chat: ChatTokenCounter
    ) -> None:
        self._retrieval = retrieval
        self._costs = costs
        self._count = count
        self._count_chat = count_chat
        self._allowed: LruCache[tuple[object, ...], _AllowedExamples] = LruCache(_MAX_CACHED_SELECTIONS)

    async def warm_up(self, served: ServedBundle, model: Model) -> None:
        """Count the bundle's tokens and load the embedder, so that the first request does not wait for these steps."""
        await asyncio.gather(self._costs.of(served, model), self._retrieval.find(served.search, "hello"))

    async def choose_examples(
        self, served: ServedBundle, model: Model, queries: Sequence[str], reason: str | None, client: str, body: Json
    ) -> Injection:
        """Retrieve examples, and keep those that the bundle's limit and the model's context allow.

        Args:
            served: The bundle.
            model: The model that answers.
            queries: The texts of the user turns that have words. If there are none, nothing is retrieved.
            reason: Why the request gets no retrieved examples; None if it may have them.
            client: All text of the client, as the prompt contains it. The longer this text is, the fewer examples fit.
            body: The client's body. The larger its max_tokens is, the fewer examples fit.
        """
        costs = await self._costs.of(served, model)
        reason = reason or (None if queries else NO_QUERY)
        if reason is None:
            result = await self._retrieval.find_by_turns(served.search, queries)
            allowed = await self._allowed_examples(served, model, costs, result)
        else:
            allowed = _without_retrieved(served, costs, reason)
        return await self._fit_to_context(served, model, allowed, client, body)

    async def prefixes(self, served: ServedBundle, model: Model) -> list[Injection]:
        """Return the injections with which requests can begin: one for each example set.

        If each set has a prompt of its own, there is one more, with the bundle's prompt and the pinned examples.
        """
        costs = await self._costs.of(served, model)
        shown = served.search.retriever.shown_by_set()
        if all(one.set_name in served.bundle.set_prompts for one in shown):
            shown = (NOTHING_RETRIEVED, *shown)
        allowed = [await self._allowed_examples(served, model, costs, RetrievalResult(one)) for one in shown]
        return [await self._fit_to_context(served, model, one, "", {}) for one in allowed]

    async def _fit_to_context(
        self, served: ServedBundle, model: Model, allowed: _AllowedExamples, client: str, body: Json
    ) -> Injection:
        """Return the injection with those allowed examples that fit into the context beside the client's text."""
        answer = answer_tokens(body, served)
        client_tokens = await self._client_tokens(model, allowed.injection.tokens, client, answer)
        if client_tokens is None or model.context is None:
            return allowed.injection
        essentials = Essentials(served.refusals, room_for_essentials(model.context, client_tokens, answer))
        room = room_for_injection(model.context, client_tokens, answer)
        fitted = fit_to_room(allowed.selection, allowed.costs.examples, room, essentials)
        prompt_tokens = allowed.costs.prompt_of(allowed.retrieved.set_name)
        return _fitted_injection(served, allowed, fitted, keeps_prompt=prompt_tokens <= essentials.room)

    async def _allowed_examples(
        self, served: ServedBundle, model: Model, costs: BundleCosts, result: RetrievalResult
    ) -> _AllowedExamples:
        """Return the pinned examples and those examples of `result` that the bundle's limits allow.

        The result comes from a cache if possible.

        Args:
            served: The bundle.
            model: The model that answers.
            costs: The result of `TokenCosts.of`. If the bank has more than 5,000 examples, it lacks retrieved examples.
            result: The result of retrieval.
        """
        retrieved = result.retrieved
        key = (served.bundle.id, model.id, retrieved.key)
        cached = self._allowed.get(key)
        if cached is not None and not result.degraded:
            return cached
        all_costs = await self._costs.including(served, model, retrieved.hits)
        prompt_tokens, policy = all_costs.prompt_of(retrieved.set_name), served.bundle.manifest.retrieval
        selection = select_within_policy(policy, prompt_tokens, all_costs.examples, served.pinned, retrieved)
        reasons = (result.degraded,) if result.degraded else ()
        injection = _injection(served, selection, reasons, retrieved)
        allowed = _AllowedExamples(all_costs, selection, injection, retrieved)
        # A selection by estimated tokens is not cached, because the selection by counted tokens may differ from it. The
        # costs that `including` added may be estimates too, so a selection with such costs is not cached either.
        if all_costs.counted and all_costs is costs and not result.degraded:
            self._allowed.put(key, allowed)
        return allowed

    async def _client_tokens(self, model: Model, wanted: int, client: str, answer: int) -> int | None:
        """Return the number of the client's tokens; None if no example has to be removed.

        The result is None if the length of the context is unknown, or if `wanted` tokens certainly fit. Counting the
        client's tokens is slow. A quick check therefore comes first, with an upper bound of their number. The tokens
        are counted only if, by this bound, `wanted` tokens may not fit.

        Args:
            model: The model that answers.
            wanted: The number of tokens of the prompt and of the examples that the bundle's limit allows.
            client: All text of the client.
            answer: The number of tokens that are reserved for the answer.
        """
        if model.context is None or wanted + max_token_count(client) + answer <= model.context - HYSTERESIS:
            return None
        exact = await self.count(model, client)
        return estimated_tokens(client) if exact is None else exact

    async def count(self, model: Model, text: str) -> int | None:
        """Return the number of tokens of a text, as the backend counts them. Return None if the backend cannot count.

        The result is also None if the text is certainly longer than the context. Counting such a text may take many
        seconds, and the count is not needed, because no injection fits beside the text.
        """
        if model.context is not None and max_token_count(text) > _MAX_TOKEN_BYTES * model.context:
            return None
        return await self._count(model, text)

    async def count_chat(self, model: Model, body: Json, bound: int) -> int | None:
        """Return the number of tokens of a chat request's prompt, as `count` does for a text.

        Args:
            model: The model.
            body: The body of the request.
            bound: An upper bound of the number of tokens.
        """
        if model.context is not None and bound > _MAX_TOKEN_BYTES * model.context:
            return None
        return await self._count_chat(model, body)

    async def costs(self, served: ServedBundle, model: Model) -> BundleCosts:
        """Return the tokens of the prompt and of the examples of a bundle on a model."""
        return await self._costs.of(served, model)

    async def max_tokens(self, text: str, injected: int, client: str, model: Model, served: ServedBundle | None) -> int:
        """Return the max_tokens that a request to a base model gets if the client sets no max_tokens.

        The result is the bundle's max_tokens, or DEFAULT_MAX_TOKENS if the bundle sets none. If fewer tokens of the
        context remain after `text`, the result is this smaller number, but at least 1.

        Args:
            text: The whole text for the model: prompt, examples and the client's text.
            injected: The number of tokens of the prompt and the examples in `text`.
            client: The client's part of `text`.
            model: The model that answers.
            served: The bundle; None if the request is served without a bundle.
        """
        cap = bundle_cap(served)
        if model.context is None:
            return cap
        if injected + max_token_count(client) + cap <= model.context:
            return cap
        exact = await self.count(model, text)
        return max(1, min(cap, model.context - (estimated_tokens(text) if exact is None else exact)))


def _without_retrieved(served: ServedBundle, costs: BundleCosts, reason: str) -> _AllowedExamples:
    """Return the pinned examples that a request without retrieved examples gets.

    If the reason is that there is no query, the request gets all pinned examples. For all other reasons, most examples
    would teach a wrong form of the answer, so the request gets at most the pinned refusals.
    """
    pinned = served.pinned if reason == NO_QUERY else () if reason in WITHOUT_EXAMPLES else served.refusals
    tokens = costs.prompt + sum([costs.examples[example.id] for example in pinned])
    selection = Selection(pinned, tokens=tokens)
    return _AllowedExamples(costs, selection, _injection(served, selection, (reason,)))


def _fitted_injection(
    served: ServedBundle, allowed: _AllowedExamples, fitted: Selection, *, keeps_prompt: bool
) -> Injection:
    """Return the injection with the examples that fit into the context, and without the prompt if it does not fit."""
    if fitted == allowed.selection and keeps_prompt:
        return allowed.injection
    if keeps_prompt or fitted.pinned or fitted.in_set or fitted.nearest:
        return _injection(served, fitted, (*allowed.injection.reduced, CONTEXT), allowed.retrieved)
    reasons = (*allowed.injection.reduced, CONTEXT_PROMPT)
    return Injection(served.id, reduced=reasons, lacks_refusal=bool(served.refusals))


def _injection(
    served: ServedBundle, selection: Selection, reasons: tuple[str, ...], retrieved: Retrieved = NOTHING_RETRIEVED
) -> Injection:
    examples = selection.in_order(served.bundle.manifest.retrieval.order)
    lacks_refusal = bool(served.refusals) and not any(example in selection.pinned for example in served.refusals)
    return Injection(
        bundle=served.id,
        prompt=served.bundle.prompt_of(retrieved.set_name),
        examples=examples,
        tokens=selection.tokens,
        reduced=reasons,
        lacks_refusal=lacks_refusal,
        set_name=retrieved.set_name if selection.in_set else "",
        nearest=tuple([hit.example.id for hit in selection.nearest]),
        is_below_floor=retrieved.is_below_floor,
    )


def bundle_cap(served: ServedBundle | None) -> int:
    """Return the bundle's max_tokens, or DEFAULT_MAX_TOKENS if there is no bundle or it sets none."""
    cap = served.bundle.manifest.sampling.get("max_tokens") if served is not None else None
    return cap if isinstance(cap, int) else DEFAULT_MAX_TOKENS


def answer_tokens(body: Json, served: ServedBundle) -> int:
    """Return how many tokens of the context are reserved for the answer, so that examples cannot use them.

    The number is the client's max_tokens, or DEFAULT_ANSWER_TOKENS if the client sets none. It is never larger than the
    bundle's max_tokens (DEFAULT_MAX_TOKENS if the bundle sets none). Many clients always send a large max_tokens. If
    all of it were reserved, their requests would lose all examples, even the pinned ones.
    """
    asked = whole_number(client_max_tokens(body)) or 0
    cap = bundle_cap(served)
    return min(asked, cap) if asked > 0 else min(cap, DEFAULT_ANSWER_TOKENS)
