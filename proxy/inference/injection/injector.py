"""Chooses the examples of a request: retrieves them, then fits them to the bundle's limit and the model's context.

It also caps the length of an answer. It does not depend on HTTP or on how a request's body is written.
"""

import asyncio
from dataclasses import dataclass, replace
from typing import Final

from index.retrieval.retriever import MAX_QUERY_CHARACTERS
from index.retrieval.selection import Selection, fit_to_room, select_within_policy
from index.types import Example
from proxy.backends.discovery import Model, TokenCounter
from proxy.core.json_types import Json
from proxy.core.lru_cache import LruCache
from proxy.inference.injection.retrieval import Retrieval
from proxy.inference.injection.retrieval_worker import RetrievalResult
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.inference.injection.token_budget import (
    DEFAULT_ANSWER_TOKENS,
    max_token_count,
    room_for_injection,
)
from proxy.inference.injection.token_costs import BundleCosts, TokenCosts, estimated_tokens
from proxy.openai.chat_completion import client_max_tokens

DEFAULT_MAX_TOKENS: Final = 1024
"""The length cap of an answer on a base model if neither client nor bundle sets one. vLLM's default is 16."""
_MAX_TOKEN_BYTES: Final = 256  # twice the longest run of spaces in common vocabularies
_MAX_CACHED_HIT_LISTS: Final = 1024


@dataclass(frozen=True, slots=True)
class Injection:
    """What is put before the client's messages.

    Attributes:
        bundle: The bundle's short id.
        examples: The examples, in the order in which they are shown.
        tokens: Tokens of the prompt and the examples.
        prompt_only: Why there are no examples, in a word; None if the request may have examples.
        degraded: Why retrieval failed, in a word; None if it did not.
    """

    bundle: str
    examples: tuple[Example, ...] = ()
    tokens: int = 0
    prompt_only: str | None = None
    degraded: str | None = None


@dataclass(frozen=True, slots=True)
class _AllowedExamples:
    """The examples that the bundle's own limit allows.

    Attributes:
        costs: Token costs, of these examples among others.
        selection: The examples.
        injection: The same examples, in the order in which they are shown.
    """

    costs: BundleCosts
    selection: Selection
    injection: Injection


class Injector:
    """Chooses the examples of a request, and the length cap of an answer on a base model."""

    def __init__(self, retrieval: Retrieval, costs: TokenCosts, count: TokenCounter) -> None:
        self._retrieval = retrieval
        self._costs = costs
        self._count = count
        self._allowed: LruCache[tuple[str, str, tuple[int, ...]], _AllowedExamples] = LruCache(_MAX_CACHED_HIT_LISTS)

    async def warm_up(self, served: ServedBundle, model: Model) -> None:
        """Count the bundle's tokens and load the embedder, so that the first request does not wait for it."""
        await asyncio.gather(self._costs.of(served, model), self._retrieval.find(served.search, "hello"))

    async def choose_examples(
        self, served: ServedBundle, model: Model, query: str, prompt_only: str | None, client: str, body: Json
    ) -> Injection:
        """Retrieve examples, and keep those that the bundle's limit and the model's context allow.

        Args:
            served: The bundle.
            model: The model that answers.
            query: The text that examples are retrieved for.
            prompt_only: Why the request gets no examples; None if it may have them.
            client: All text of the client, as it is laid out for the model.
            body: The request's body.
        """
        costs = await self._costs.of(served, model)
        if prompt_only:
            return Injection(served.id, tokens=costs.prompt, prompt_only=prompt_only)
        result = await self._retrieval.find(served.search, query[:MAX_QUERY_CHARACTERS])
        allowed = await self._allowed_examples(served, model, costs, result)
        room = await self._room(model, allowed.injection.tokens, client, _answer_tokens(body, served))
        if room is None:
            return allowed.injection
        fitted = _injection(served, fit_to_room(allowed.selection, allowed.costs.examples, room), result)
        lost_all = allowed.injection.examples and not fitted.examples
        return replace(fitted, prompt_only="context") if lost_all else fitted

    async def _allowed_examples(
        self, served: ServedBundle, model: Model, costs: BundleCosts, result: RetrievalResult
    ) -> _AllowedExamples:
        """The examples that the bundle's own limit allows, cached by the hits.

        costs: the costs that are known without looking at the hits.
        """
        key = (served.bundle.id, model.id, tuple([hit.position for hit in result.hits]))
        cached = self._allowed.get(key)
        if cached is not None and not result.degraded:
            return cached
        all_costs = await self._costs.including(served, model, result.hits)
        policy = served.bundle.manifest.retrieval
        selection = select_within_policy(policy, all_costs.prompt, all_costs.examples, served.pinned, result.hits)
        allowed = _AllowedExamples(all_costs, selection, _injection(served, selection, result))
        # Estimates are replaced by counts later, and the costs of a large bank's hits are made for each request.
        if all_costs.counted and all_costs is costs and not result.degraded:
            self._allowed.put(key, allowed)
        return allowed

    async def _room(self, model: Model, wanted: int, client: str, answer: int) -> int | None:
        """Tokens that the context leaves for prompt and examples; None if `wanted` tokens certainly fit.

        The client's tokens are counted only if an upper bound is not enough to decide.
        """
        if model.context is None or wanted + max_token_count(client) + answer <= model.context - DEFAULT_ANSWER_TOKENS:
            return None
        return room_for_injection(model.context, await self._tokens(model, client), answer)

    async def _tokens(self, model: Model, text: str) -> int:
        """Tokens of a text: counted, or estimated if the backend cannot count.

        A text that is certainly longer than the context is estimated too: a backend may need many seconds to count it,
        and the result would not change.
        """
        if model.context is not None and max_token_count(text) > _MAX_TOKEN_BYTES * model.context:
            return estimated_tokens(text)
        exact = await self._count(model, text)
        return estimated_tokens(text) if exact is None else exact

    async def max_tokens(self, text: str, injected: int, client: str, model: Model, served: ServedBundle | None) -> int:
        """max_tokens for a client that sets none: the bundle's cap, or what the context leaves if that is less.

        Args:
            text: The whole prompt.
            injected: Tokens of the prompt that the proxy added.
            client: The client's part of the prompt.
            model: The model that answers.
            served: The bundle; None if the request is served without one.
        """
        cap = _bundle_cap(served)
        if model.context is None:
            return cap
        if injected + max_token_count(client) + cap <= model.context:
            return cap
        return max(1, min(cap, model.context - await self._tokens(model, text)))


def _injection(served: ServedBundle, selection: Selection, result: RetrievalResult) -> Injection:
    examples = selection.in_order(served.bundle.manifest.retrieval.order)
    return Injection(served.id, examples, selection.tokens, degraded=result.degraded)


def _bundle_cap(served: ServedBundle | None) -> int:
    cap = served.bundle.manifest.sampling.get("max_tokens") if served is not None else None
    return cap if isinstance(cap, int) else DEFAULT_MAX_TOKENS


def _answer_tokens(body: Json, served: ServedBundle) -> int:
    """Tokens that examples leave for the answer: the client's max_tokens, at most the bundle's cap.

    Many clients always send a large max_tokens. Without the bundle's cap it would remove all examples, also the pinned
    ones, which contain the refusals.
    """
    asked = client_max_tokens(body)
    cap = _bundle_cap(served)
    return min(asked, cap) if isinstance(asked, int) and asked > 0 else min(cap, DEFAULT_ANSWER_TOKENS)
