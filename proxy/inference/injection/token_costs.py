"""How many tokens each part of a bundle costs on a model. Counted by the backend's own tokenizer, else estimated."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from index.rendering import render_example, render_prompt
from index.types import Example, Hit
from proxy.backends.discovery import Model, TokenCounter
from proxy.core.lru_cache import LruCache
from proxy.inference.injection.served_bundles import ServedBundle

_COUNTED_AT_ONCE: Final = 8
_COSTS_KEPT: Final = 256  # bundles on models: those of bundles that were replaced make room
_COUNTED_AHEAD: Final = 5_000  # examples at most; those of a larger bank are counted when they are first shown
_COUNTED_KEPT: Final = 50_000
_COUNTED_AGAIN_AFTER: Final = 30.0  # seconds, where it could only be estimated


@dataclass(frozen=True, slots=True)
class Costs:
    """Tokens, for one model's tokenizer: of the prompt, and of each example by id, as they are laid out. `counted`: by
    the tokenizer itself; else some were estimated, at the time `at` of the event loop's clock. Of a large bank only
    the pinned examples are there, and those that are asked for."""

    prompt: int
    examples: Mapping[str, int]
    counted: bool = True
    at: float = 0.0


class TokenCosts:
    """Counts the parts of a bundle once per served model, with the backend's own tokenizer."""

    def __init__(self, count: TokenCounter) -> None:
        self._count = count
        self._known: LruCache[tuple[str, str], asyncio.Task[Costs]] = LruCache(_COSTS_KEPT)
        self._shown: LruCache[tuple[str, str, str], int] = LruCache(_COUNTED_KEPT)

    async def of(self, served: ServedBundle, model: Model) -> Costs:
        """The costs of a bundle on a model; counted at the first call, estimated where the backend cannot count."""
        key = (served.bundle.id, model.id)
        known = self._known.get(key)
        if known is None or _is_outdated(known):
            known = asyncio.create_task(self._measure(served, model), name="token costs")
            self._known.put(key, known)
        return known.result() if known.done() else await asyncio.shield(known)

    async def including(self, served: ServedBundle, model: Model, hits: Sequence[Hit]) -> Costs:
        """The same, with the costs of `hits` whatever the size of the bank."""
        costs = await self.of(served, model)
        new = [hit.example for hit in hits if hit.example.id not in costs.examples]
        if not new:
            return costs
        shown = {example.id: await self._of_one(served, model, example) for example in new}
        return replace(costs, examples={**costs.examples, **shown})

    async def _of_one(self, served: ServedBundle, model: Model, example: Example) -> int:
        key = (served.bundle.id, model.id, example.id)
        known = self._shown.get(key)
        if known is None:
            text = render_example(served.layout, example)
            overhead, count = await self._count(model, ""), await self._count(model, text)
            if overhead is None or count is None:
                return estimated_tokens(text)
            known = count - overhead
            self._shown.put(key, known)
        return known

    async def _measure(self, served: ServedBundle, model: Model) -> Costs:
        bank = served.bundle.examples
        ahead = bank if len(bank) <= _COUNTED_AHEAD else served.pinned
        texts = [render_prompt(served.layout, served.bundle.prompt)]
        texts += [render_example(served.layout, example) for example in ahead]
        overhead = await self._count(model, "")
        counts = [None] * len(texts) if overhead is None else await self._count_all(model, texts)
        tokens = [
            estimated_tokens(text) if count is None else count - (overhead or 0)
            for text, count in zip(texts, counts, strict=True)
        ]
        by_id = {example.id: cost for example, cost in zip(ahead, tokens[1:], strict=True)}
        return Costs(tokens[0], by_id, None not in counts, asyncio.get_running_loop().time())

    async def _count_all(self, model: Model, texts: Sequence[str]) -> Sequence[int | None]:
        """The counts of `texts`, a few at a time: each is a request to the backend."""
        turns = asyncio.Semaphore(_COUNTED_AT_ONCE)

        async def count(text: str) -> int | None:
            async with turns:
                return await self._count(model, text)

        return await asyncio.gather(*(count(text) for text in texts))


def _is_outdated(costs: asyncio.Task[Costs]) -> bool:
    """Whether to count again: it failed, or the backend could not count for a moment and may by now."""
    if not costs.done() or costs.cancelled():
        return False
    if costs.exception() is not None:
        return True
    told = costs.result()
    return not told.counted and asyncio.get_running_loop().time() - told.at > _COUNTED_AGAIN_AFTER


def estimated_tokens(text: str) -> int:
    """Tokens of a text where no tokenizer can be asked: English has about four bytes to one, so this is high."""
    return len(text.encode("utf-8", "surrogatepass")) // 3 + 1
