"""Measures how many tokens the prompt and each example of a bundle have on a model.

The backend's tokenizer counts them. If it cannot count, they are estimated.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from index.rendering import render_example, render_prompt
from index.types import Example, Hit
from proxy.backends.discovery import Model, TokenCounter
from proxy.core.lru_cache import LruCache
from proxy.inference.injection.served_bundles import ServedBundle

_MAX_CONCURRENT_COUNTS: Final = 8
_MAX_CACHED_BUNDLES: Final = 256  # pairs of a bundle and a model; the least recently used pair is evicted
_MAX_COUNTED_AHEAD: Final = 5_000  # examples; in a larger bank, an example is counted when it is first retrieved
_MAX_CACHED_EXAMPLES: Final = 50_000
_RECOUNT_AFTER: Final = 30.0  # seconds after an estimate


@dataclass(frozen=True, slots=True)
class BundleCosts:
    """Tokens of a bundle's prompt and examples, as the layout writes them and one model's tokenizer counts them.

    Attributes:
        prompt: Tokens of the prompt.
        examples: Tokens of each example by its id. For a bank of more than 5,000 examples, it holds only the pinned
            examples, and after `TokenCosts.including` also the given hits.
        counted: Whether the tokenizer counted everything that `TokenCosts.of` measured; else some are estimates. Hits
            that `TokenCosts.including` adds do not change this value.
        measured_at: When `TokenCosts.of` measured, in seconds of the event loop's clock.
    """

    prompt: int
    examples: Mapping[str, int]
    counted: bool = True
    measured_at: float = 0.0


class TokenCosts:
    """Measures the tokens of each bundle on each model, and caches them."""

    def __init__(self, count: TokenCounter) -> None:
        self._count = count
        self._bundles: LruCache[tuple[str, str], asyncio.Task[BundleCosts]] = LruCache(_MAX_CACHED_BUNDLES)
        self._examples: LruCache[tuple[str, str, str], int] = LruCache(_MAX_CACHED_EXAMPLES)

    async def of(self, served: ServedBundle, model: Model) -> BundleCosts:
        """Return the costs of a bundle on a model. The first call measures them, and concurrent calls wait for it.

        Estimates are measured again after 30 seconds, because the backend may be able to count by then.
        """
        key = (served.bundle.id, model.id)
        task = self._bundles.get(key)
        if task is None or _is_outdated(task):
            task = asyncio.create_task(self._measure(served, model), name="token costs")
            self._bundles.put(key, task)
        return task.result() if task.done() else await asyncio.shield(task)

    async def including(self, served: ServedBundle, model: Model, hits: Sequence[Hit]) -> BundleCosts:
        """Return the result of `of`, with the tokens of those `hits` added that it lacks because the bank is large."""
        costs = await self.of(served, model)
        missing = [hit.example for hit in hits if hit.example.id not in costs.examples]
        if not missing:
            return costs
        added = {example.id: await self._of_example(served, model, example) for example in missing}
        return replace(costs, examples={**costs.examples, **added})

    async def _of_example(self, served: ServedBundle, model: Model, example: Example) -> int:
        key = (served.bundle.id, model.id, example.id)
        cost = self._examples.get(key)
        if cost is None:
            text = render_example(served.layout, example)
            overhead, count = await self._count(model, ""), await self._count(model, text)
            if overhead is None or count is None:
                return estimated_tokens(text)
            cost = count - overhead
            self._examples.put(key, cost)
        return cost

    async def _measure(self, served: ServedBundle, model: Model) -> BundleCosts:
        bank = served.bundle.examples
        ahead = bank if len(bank) <= _MAX_COUNTED_AHEAD else served.pinned
        texts = [render_prompt(served.layout, served.bundle.prompt)]
        texts += [render_example(served.layout, example) for example in ahead]
        overhead = await self._count(model, "")
        counts = [None] * len(texts) if overhead is None else await self._count_all(model, texts)
        tokens = [
            estimated_tokens(text) if count is None else count - (overhead or 0)
            for text, count in zip(texts, counts, strict=True)
        ]
        by_id = {example.id: cost for example, cost in zip(ahead, tokens[1:], strict=True)}
        return BundleCosts(tokens[0], by_id, None not in counts, asyncio.get_running_loop().time())

    async def _count_all(self, model: Model, texts: Sequence[str]) -> Sequence[int | None]:
        """Return the count of each text. Each count is a request to the backend, so at most 8 run at once."""
        slots = asyncio.Semaphore(_MAX_CONCURRENT_COUNTS)

        async def count(text: str) -> int | None:
            async with slots:
                return await self._count(model, text)

        return await asyncio.gather(*(count(text) for text in texts))


def _is_outdated(task: asyncio.Task[BundleCosts]) -> bool:
    """Return True if the costs must be measured again: measuring failed, or it gave estimates over 30 seconds ago."""
    if not task.done() or task.cancelled():
        return False
    if task.exception() is not None:
        return True
    costs = task.result()
    return not costs.counted and asyncio.get_running_loop().time() - costs.measured_at > _RECOUNT_AFTER


def estimated_tokens(text: str) -> int:
    """Estimate the tokens of a text at three bytes each.

    English has about four bytes per token, so the estimate is usually too high. An estimate that is too low would be
    worse, because a prompt could then exceed the context.
    """
    return len(text.encode("utf-8", "surrogatepass")) // 3 + 1
