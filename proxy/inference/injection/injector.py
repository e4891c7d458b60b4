"""What goes before the client's words: examples retrieved, then fitted to the bundle's limit and the model's context.

Knows token counts and retrieval; knows neither HTTP nor how a request's body is written.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from index.retrieval.retriever import retrieval_query
from index.retrieval.selection import Selection, fit_to_room, select_within_policy
from index.types import Example, Message
from proxy.backends.discovery import Model, TokenCounter
from proxy.core.json_types import Json
from proxy.core.lru_cache import LruCache
from proxy.inference.injection.retrieval import Retrieval
from proxy.inference.injection.retrieval_worker import Found
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.inference.injection.token_budget import ANSWER_ROOM, room_for_injection, token_bound
from proxy.inference.injection.token_costs import Costs, TokenCosts, estimated_tokens
from proxy.openai.chat_completion import client_max_tokens

_LONGEST_TOKEN: Final = 256  # bytes: twice the longest run of spaces that a usual vocabulary has
_OFFERS: Final = 1024
LENGTH_CAP: Final = 1024  # tokens of an answer on a base model, where neither client nor bundle says: vLLM's own is 16


@dataclass(frozen=True, slots=True)
class Injection:
    """What goes before the client's words. `bundle`: its id, as people see it; `prompt_only` and `degraded` say in a
    word why there are no examples."""

    bundle: str
    examples: tuple[Example, ...] = ()
    tokens: int = 0
    prompt_only: str | None = None
    degraded: str | None = None


@dataclass(frozen=True, slots=True)
class _Offer:
    """The examples that the bundle's own limit allows.

    Attributes:
        costs: Token costs that include those of the selected examples.
        selection: The selected examples.
        injection: The same examples in the order in which the prompt shows them.
    """

    costs: Costs
    selection: Selection
    injection: Injection


class Injector:
    """Chooses the examples of a request, and the cap of an answer on a base model."""

    def __init__(self, retrieval: Retrieval, costs: TokenCosts, count: TokenCounter) -> None:
        self._retrieval = retrieval
        self._costs = costs
        self._count = count
        self._offers: LruCache[tuple[str, str, tuple[int, ...]], _Offer] = LruCache(_OFFERS)

    async def warm_up(self, served: ServedBundle, model: Model) -> None:
        """Do ahead of the first request what is done once: count tokens, load the embedder, fill the first cache."""
        await asyncio.gather(self._costs.of(served, model), self._retrieval.find(served.source, "hello"))

    async def inject(
        self,
        served: ServedBundle,
        model: Model,
        turns: Sequence[Message],
        prompt_only: str | None,
        client: str,
        body: Json,
    ) -> Injection:
        """Choose the examples: retrieve, keep the bundle's own limit, then what the context leaves.

        turns: what is retrieved for; client: all of the client's text, as it is laid out for the model.
        """
        costs = await self._costs.of(served, model)
        if prompt_only:
            return Injection(served.id, tokens=costs.prompt, prompt_only=prompt_only)
        found = await self._retrieval.find(served.source, retrieval_query(turns))
        offer = await self._offer(served, model, costs, found)
        room = await self._room(model, offer.injection.tokens, client, _answer_room(body, served))
        if room is None:
            return offer.injection
        fitted = _injection(served, fit_to_room(offer.selection, offer.costs.examples, room), found)
        lost_all = offer.injection.examples and not fitted.examples
        return replace(fitted, prompt_only="context") if lost_all else fitted

    async def _offer(self, served: ServedBundle, model: Model, ahead: Costs, found: Found) -> _Offer:
        """What the bundle's own limit allows of the hits: the same for the same hits, and kept for the next request.

        ahead: the costs that are known without looking at the hits.
        """
        key = (served.bundle.id, model.id, tuple([hit.position for hit in found.hits]))
        known = self._offers.get(key)
        if known is not None and not found.degraded:
            return known
        costs = await self._costs.including(served, model, found.hits)
        policy = served.bundle.manifest.retrieval
        selection = select_within_policy(policy, costs.prompt, costs.examples, served.pinned, found.hits)
        offer = _Offer(costs, selection, _injection(served, selection, found))
        if costs.counted and costs is ahead and not found.degraded:
            self._offers.put(key, offer)  # estimates give way to counts, and the costs of a large bank are made anew
        return offer

    async def _room(self, model: Model, wanted: int, client: str, answer: int) -> int | None:
        """Tokens that the context leaves for prompt and examples; None where `wanted` surely fit. By a bound where that
        is enough, by exact counts near the limit."""
        if model.context is None or wanted + token_bound(client) + answer <= model.context - ANSWER_ROOM:
            return None
        return room_for_injection(model.context, await self._tokens(model, client), answer)

    async def _tokens(self, model: Model, text: str) -> int:
        """Tokens of a text: counted, or estimated where the backend cannot count, and where the text is so long for the
        model that the count, for which a backend may need many seconds, would change nothing."""
        if model.context is not None and token_bound(text) > _LONGEST_TOKEN * model.context:
            return estimated_tokens(text)
        exact = await self._count(model, text)
        return estimated_tokens(text) if exact is None else exact

    async def length_cap(self, text: str, injected: int, client: str, model: Model, served: ServedBundle | None) -> int:
        """max_tokens where the client gave none: the bundle's, or what the context leaves if that is less.

        text: all of the prompt, of which `injected` tokens are ours and `client` is the client's part.
        """
        cap = _bundle_cap(served)
        if model.context is None:
            return cap
        if injected + token_bound(client) + cap <= model.context:
            return cap
        return max(1, min(cap, model.context - await self._tokens(model, text)))


def _injection(served: ServedBundle, selection: Selection, found: Found) -> Injection:
    examples = selection.in_order(served.bundle.manifest.retrieval.order)
    return Injection(served.id, examples, selection.tokens, degraded=found.degraded)


def _bundle_cap(served: ServedBundle | None) -> int:
    cap = served.bundle.manifest.sampling.get("max_tokens") if served is not None else None
    return cap if isinstance(cap, int) else LENGTH_CAP


def _answer_room(body: Json, served: ServedBundle) -> int:
    """What examples leave for the answer: what the client asks for, within the bundle's own cap. Beyond that a large
    `max_tokens`, which many clients send always, would cost every example, the pinned refusals among them."""
    asked = client_max_tokens(body)
    cap = _bundle_cap(served)
    return min(asked, cap) if isinstance(asked, int) and asked > 0 else min(cap, ANSWER_ROOM)
