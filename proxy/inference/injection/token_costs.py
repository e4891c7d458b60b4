"""Measures the token costs of a bundle on a model: the number of tokens of its prompt and of each example.

The backend counts the tokens with the tokenizer of the model. If the backend cannot count, the tokens are estimated.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from index.rendering import render_example, render_prompt
from index.token_estimate import estimated_tokens
from index.types import Example, Hit
from proxy.backends.discovery import Model, TokenCounter
from proxy.core.lru_cache import LruCache
from proxy.inference.injection.served_bundles import ServedBundle

_MAX_CONCURRENT_COUNTS: Final = 8
_MAX_CACHED_BUNDLES: Final = 256  # pairs of a bundle and a model; the least recently used pair is evicted
_MAX_COUNTED_AHEAD: Final = 5_000  # examples; in a larger bank, an example is counted when it is first retrieved
_MAX_CACHED_EXAMPLES: Final = 50_000  # examples of larger banks whose costs are cached
_RECOUNT_AFTER: Final = 30.0  # seconds from an estimate until the tokens are counted again


@dataclass(frozen=True, slots=True)
class BundleCosts:
    """The numbers of tokens of a bundle's prompt and examples on one model, after the layout has rendered them.

    Attributes:
        prompt: The number of tokens of the bundle's prompt.
        examples: The number of tokens of each example, by the example's id. If the bank has more than 5,000 examples,
            the mapping has only the pinned examples. A result of `TokenCosts.including` also has the retrieved
            examples.
        counted: True if the backend counted all numbers that `TokenCosts.of` returned; False if at least one of these
            numbers is an estimate. The hits that `TokenCosts.including` adds do not change this value.
        measured_at: The time of the event loop's clock, in seconds, at which `TokenCosts.of` measured.
        set_prompts: For each example set with a prompt of its own: the number of tokens of this prompt. The keys are
            the names of the sets.
    """

    prompt: int
    examples: Mapping[str, int]
    counted: bool = True
    measured_at: float = 0.0
    set_prompts: Mapping[str, int] = field(default_factory=dict)

    @property
    def longest_prompt(self) -> int:
        """The number of tokens of the longest prompt that a request can get."""
        return max([self.prompt, *self.set_prompts.values()])

    def prompt_of(self, set_name: str) -> int:
        """Return the number of tokens of the prompt that `Bundle.prompt_of` returns for this set."""
        return self.set_prompts.get(set_name, self.prompt)


class TokenCosts:
    """Measures the token costs of each bundle on each model, and caches the costs."""

    def __init__(self, count: TokenCounter) -> None:
        self._count = count
        self._bundles: LruCache[tuple[str, str], asyncio.Task[BundleCosts]] = LruCache(_MAX_CACHED_BUNDLES)
        self._examples: LruCache[tuple[str, str, str], int] = LruCache(_MAX_CACHED_EXAMPLES)

    async def of(self, served: ServedBundle, model: Model) -> BundleCosts:
        """Return the costs of a bundle on a model.

        The first call measures the costs. Calls that are made meanwhile wait for its result. If some costs are
        estimates, all are measured again after 30 seconds, because the backend may be able to count by then.
        """
        key = (served.bundle.id, model.id)
        task = self._bundles.get(key)
        if task is None or _is_outdated(task):
            task = asyncio.create_task(self._measure(served, model), name="token costs")
            self._bundles.put(key, task)
        return task.result() if task.done() else await asyncio.shield(task)

    async def including(self, served: ServedBundle, model: Model, hits: Sequence[Hit]) -> BundleCosts:
        """Return the costs that the method `of` returns, with the costs of all `hits`.

        The method `of` leaves out the costs of some hits only if the bank has more than 5,000 examples.
        """
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
        set_prompts = served.bundle.set_prompts
        texts = [render_prompt(served.layout, prompt) for prompt in (served.bundle.prompt, *set_prompts.values())]
        texts += [render_example(served.layout, example) for example in ahead]
        overhead = await self._count(model, "")
        counts = [None] * len(texts) if overhead is None else await self._count_all(model, texts)
        prompt, *tokens = [
            estimated_tokens(text) if count is None else count - (overhead or 0)
            for text, count in zip(texts, counts, strict=True)
        ]
        by_set = dict(zip(set_prompts, tokens, strict=False))
        by_id = {example.id: cost for example, cost in zip(ahead, tokens[len(set_prompts) :], strict=True)}
        return BundleCosts(prompt, by_id, None not in counts, asyncio.get_running_loop().time(), by_set)

    async def _count_all(self, model: Model, texts: Sequence[str]) -> Sequence[int | None]:
        """Return the count of each text. Each count is a request to the backend, so at most 8 counts run at once."""
        slots = asyncio.Semaphore(_MAX_CONCURRENT_COUNTS)

        async def count(text: str) -> int | None:
            async with slots:
                return await self._count(model, text)

        return await asyncio.gather(*(count(text) for text in texts))


def _is_outdated(task: asyncio.Task[BundleCosts]) -> bool:
    """Return True if the costs must be measured again: measuring failed, or an estimate is older than 30 seconds."""
    if not task.done() or task.cancelled():
        return False
    if task.exception() is not None:
        return True
    costs = task.result()
    return not costs.counted and asyncio.get_running_loop().time() - costs.measured_at > _RECOUNT_AFTER
