"""Measures how many tokens of the injected prompt vLLM computes again for each request, by policy: docs/benchmarks.md.

    python -m tests.bench.prefix                     simulation: every policy, blocks of 128, 32 and 16 tokens
    python -m tests.bench.prefix --real --block 32   also a real vLLM (CPU), which counts the same requests
    python -m tests.bench.prefix --time              also the time to the first token, on the real server
    python -m tests.bench.prefix --routed            also two real servers; the proxy or vllm-router chooses

The requests are all queries of references.jsonl that are not sealed, in random order, eight at a time. Every policy has
the same number of cache blocks. The blocks have room for twice the fixed prefix (prompt and pinned examples), and for
eight requests of the mean length under `similar_last`. "Uncached" is the number of tokens of prompt and examples that
were not found in the cache. The client's own text does not count. All counts use the tokenizer of the vLLM environment.
"""

import argparse
import asyncio
import json
import math
import random
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from index.bundle.bundle import default_bundle_directory, load_bundle, read_manifest
from index.embedders.base import Embedder
from index.embedders.registry import open_embedder
from index.example_sets.builder import token_lengths
from index.layouts import LAYOUTS
from index.rendering import render_conversation, render_preamble
from index.retrieval.retriever import Retriever, pinned
from index.retrieval.selection import arrange, select_within_policy, select_without_costs
from index.types import Bundle, Example, Hit, Message, RetrievalPolicy, Vectors
from tests.bench.policies.bundle_names import bundle_directory
from tests.bench.policies.spec import parse_policy, with_policy
from tests.bench.prefix_cache import served as real
from tests.bench.prefix_cache.block_cache import BlockCache, TokenRequest, found_tokens
from tests.bench.prefix_cache.routed import HEADINGS, cost_of, measure_routed
from tests.measurement import read_rows
from tests.vllm.environment import environment
from tests.vllm.models import BASE, model_folder

BLOCKS: Final = (128, 32, 16)
CONCURRENCY: Final = 8
CONVERSATIONS: Final = 150  # of two turns each, for --routed
OUTPUTS: Final = 16  # tokens of an answer: few, so that a real run takes minutes
CORE: Final = 3  # examples that the policy `core` puts into every request
EXACT: Final = RetrievalPolicy(k=3, minimum_similarity=-1.0)
SETS: Final = parse_policy("12 sets of 544")

Shown = Sequence[tuple[Example, ...]]


@dataclass(frozen=True, slots=True)
class Stream:
    """The queries in the order of the requests, and their vectors."""

    queries: Sequence[str]
    vectors: Vectors


def read_stream(embedder: Embedder) -> Stream:
    """Return the queries that are not sealed, in a seeded random order."""
    queries = [row["query"] for row in read_rows("references.jsonl") if row["split"] != "sealed"]
    random.Random(1).shuffle(queries)
    return Stream(queries, embedder.embed([query[:2_000] for query in queries]))


def exact_nearest(bundle: Bundle, stream: Stream, tokenizer: Path) -> Sequence[Sequence[Hit]]:
    """Return the three nearest examples of each query, without sets and within the default limit of tokens."""
    prompts, costs = token_costs(bundle, tokenizer)
    retriever = Retriever(replace(bundle, manifest=replace(bundle.manifest, retrieval=EXACT), sets=()))
    found = [retriever.choose(vector) for vector in stream.vectors]
    return [select_within_policy(EXACT, prompts[""], costs, pinned(bundle), one).nearest for one in found]


def token_costs(bundle: Bundle, tokenizer: Path) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Return the number of tokens of the prompt by the name of the set, and of each example by its id.

    The name "" stands for no set.
    """
    lengths = token_lengths(bundle, tokenizer, bundle.set_prompts)
    costs = {one.id: int(cost) for one, cost in zip(bundle.examples, lengths.examples, strict=True)}
    always = sum(costs[one.id] for one in pinned(bundle))
    names = ["", *(one.name for one in bundle.sets)]
    return {name: lengths.own.get(name, lengths.fixed) - always for name in names}, costs


def policies(bundle: Bundle, stream: Stream, tokenizer: Path) -> Mapping[str, Shown]:
    """Return the examples that each policy shows for each query, pinned examples included.

    Raises:
        SystemExit: Sets of the bundle have prompts of their own. This bench gives all policies the prompt of the
            bundle.
    """
    if bundle.set_prompts:
        raise SystemExit(f"{bundle.manifest.name}: sets have prompts of their own: use tests.bench.policies.frontier")
    hits = exact_nearest(bundle, stream, tokenizer)
    often = Counter(hit.example.id for some in hits for hit in some)
    always = pinned(bundle)
    core = tuple(example for example in bundle.examples if example.id in dict(often.most_common(CORE)))
    found: dict[str, Shown] = {
        "DRPO's layout: nearest first, nothing pinned": [tuple(hit.example for hit in some) for some in hits],
        "similar_last": [(*always, *arrange(some, "similar_last")) for some in hits],
        "canonical": [(*always, *arrange(some, "canonical")) for some in hits],
        "cache_aware: most often shown first": [
            (*always, *sorted((hit.example for hit in some), key=lambda one: (-often[one.id], one.id))) for some in hits
        ],
        f"core of {CORE}, and the nearest": [
            (*always, *core, *(hit.example for hit in some[:1] if hit.example not in core)) for some in hits
        ],
        "the 2 nearest": [(*always, *arrange(some[:2], "similar_last")) for some in hits],
        "the nearest": [(*always, *arrange(some[:1], "similar_last")) for some in hits],
        "prompt and pinned alone": [always for _ in hits],
    }
    parted = bundle if bundle.sets else with_policy(bundle, SETS, tokenizer)
    policy, chosen = parted.manifest.retrieval, Retriever(parted)
    name = f"{len(parted.sets)} sets" + (f", and the {policy.k} nearest" if policy.shows_nearest else "")
    found[name] = [
        select_without_costs(policy, always, chosen.choose(vector)).in_order(policy.order) for vector in stream.vectors
    ]
    return found


class Texts:
    """The texts of a bundle as tokens."""

    def __init__(self, bundle: Bundle, tokenizer: Path) -> None:
        self._bundle = bundle
        self._layout = LAYOUTS[bundle.manifest.layout]
        counter = Tokenizer.from_file(str(tokenizer))
        counter.no_truncation()
        self._encode = counter.encode

    def tokens(self, examples: Iterable[Example], query: str, prompt: str | None = None) -> tuple[tuple[int, ...], int]:
        """Return all tokens of a request, and the number of injected tokens. The default prompt is the bundle's."""
        injected = self.prefix(examples, prompt)
        own = self.plain(render_conversation(self._layout, (Message("user", query),)))
        return (*injected, *own), len(injected)

    def prefix(self, examples: Iterable[Example], prompt: str | None = None) -> list[int]:
        """Return the tokens before the client's text. The default prompt is the bundle's."""
        before = render_preamble(self._layout, self._bundle.prompt if prompt is None else prompt, tuple(examples))
        return list(self._encode(before).ids)

    def plain(self, text: str) -> list[int]:
        """Return the tokens of a text that follows other text, without special tokens."""
        return list(self._encode(text, add_special_tokens=False).ids)

    def raw(self, queries: Sequence[str]) -> list[TokenRequest]:
        """Return the queries as requests without injected tokens."""
        return [TokenRequest(tuple(self._encode(query).ids), OUTPUTS) for query in queries]


@dataclass(frozen=True, slots=True)
class PolicyRequests:
    """The requests of a policy.

    Attributes:
        requests: One for each query.
        injected: The number of tokens of prompt and examples in each request.
        near: The share of the three nearest examples that the policy shows.
    """

    requests: Sequence[TokenRequest]
    injected: Sequence[int]
    near: float

    def uncached(self, found: Sequence[int]) -> float:
        """Return the mean number of injected tokens per request that were not found in the cache."""
        return float(np.mean([max(0, own - cached) for own, cached in zip(self.injected, found, strict=True)]))


def requests_of(shown: Shown, exact: Shown, always: Sequence[Example], stream: Stream, texts: Texts) -> PolicyRequests:
    both = [texts.tokens(examples, query) for examples, query in zip(shown, stream.queries, strict=True)]
    nearest = [{one.id for one in some} - {one.id for one in always} for some in exact]
    near = np.mean(
        [len({e.id for e in some} & ids) / len(ids) for some, ids in zip(shown, nearest, strict=True) if ids]
    )
    return PolicyRequests([TokenRequest(tokens, OUTPUTS) for tokens, _ in both], [own for _, own in both], float(near))


def cache_blocks(lines: Mapping[str, PolicyRequests], block: int) -> int:
    """Return the number of cache blocks for every policy. It includes the block that vLLM reserves."""
    request = float(np.mean([len(one.tokens) + one.outputs for one in lines["similar_last"].requests]))
    return _blocks(lines["prompt and pinned alone"].injected[0], request, block)


def cache_room(bundle: Bundle, stream: Stream, texts: Texts, tokenizer: Path) -> Mapping[int, int]:
    """Return the result of `cache_blocks` for each block size. The requests of other policies are not needed for it."""
    always, hits = pinned(bundle), exact_nearest(bundle, stream, tokenizer)
    shown = [(*always, *arrange(some, "similar_last")) for some in hits]
    lengths = [len(texts.tokens(some, query)[0]) + OUTPUTS for some, query in zip(shown, stream.queries, strict=True)]
    fixed, request = len(texts.prefix(always)), float(np.mean(lengths))
    return {block: _blocks(fixed, request, block) for block in BLOCKS}


def _blocks(fixed: int, request: float, block: int) -> int:
    return 2 * math.ceil(fixed / block) + CONCURRENCY * math.ceil(request / block) + 1


def simulated(lines: Mapping[str, PolicyRequests]) -> Table:
    table = Table("policy", "injected", *(f"uncached, blocks of {block}" for block in BLOCKS), "of the 3 nearest")
    for name, one in lines.items():
        left = [
            one.uncached(found_tokens(one.requests, BlockCache(cache_blocks(lines, block), block), CONCURRENCY))
            for block in BLOCKS
        ]
        table.add_row(name, f"{np.mean(one.injected):.0f}", *(f"{n:.1f}" for n in left), f"{one.near:.2f}")
        if "sets" in name:
            left = [over_two_servers(one, cache_blocks(lines, block), block) for block in BLOCKS]
            table.add_row("the same, over two servers", "", *(f"{n:.1f}" for n in left), "")
    return table


def over_two_servers(one: PolicyRequests, blocks: int, block: int) -> float:
    """Return the uncached tokens with two servers. Each has its own blocks, and half of the queries and clients."""
    left = 0.0
    for server in range(2):
        mine = [n for n, request in enumerate(one.requests) if zlib.crc32(repr(request.tokens).encode()) % 2 == server]
        part = PolicyRequests([one.requests[n] for n in mine], [one.injected[n] for n in mine], one.near)
        found = found_tokens(part.requests, BlockCache(blocks, block), CONCURRENCY // 2)
        left += part.uncached(found) * len(mine)
    return left / len(one.requests)


def served(lines: Mapping[str, PolicyRequests], names: Sequence[str], block: int) -> Table:
    """Return the uncached tokens of each policy by the counters of a real server."""
    table = Table("policy", "injected", f"uncached, blocks of {block}", "simulated", "cached share of injected")
    for name in names:
        one, blocks = lines[name], cache_blocks(lines, block)
        with real.served(block, blocks) as url:
            found = asyncio.run(real.measure_stream(url, one.requests, CONCURRENCY))
        expected = one.uncached(found_tokens(one.requests, BlockCache(blocks, block), CONCURRENCY))
        left, injected = one.uncached(found), float(np.mean(one.injected))
        table.add_row(name, f"{injected:.0f}", f"{left:.1f}", f"{expected:.1f}", f"{1 - left / injected:.3f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--bundle", type=bundle_directory, default=default_bundle_directory(), help="a bundle other than the default"
    )
    parser.add_argument("--real", action="store_true", help="also measure on a real vLLM")
    parser.add_argument("--block", type=int, default=32, help="block size of the real vLLM (%(default)s)")
    parser.add_argument(
        "--policy", action="append", help="only policies whose name begins so, on the real vLLM; repeatable"
    )
    parser.add_argument("--routed", action="store_true", help="two real servers, chosen by the proxy or by vllm-router")
    parser.add_argument(
        "--conversations", type=int, default=CONVERSATIONS, help="conversations of two turns for --routed (%(default)s)"
    )
    parser.add_argument("--time", action="store_true", help="time to the first token, on a real vLLM")
    options = parser.parse_args()
    tokenizer = model_folder(BASE, environment(print), print) / "tokenizer.json"
    embedder = open_embedder(read_manifest(options.bundle).embedder.name)
    bundle, stream = load_bundle(options.bundle, embedder), read_stream(embedder)
    texts, always = Texts(bundle, tokenizer), pinned(bundle)
    shown = policies(bundle, stream, tokenizer)
    lines = {name: requests_of(some, shown["similar_last"], always, stream, texts) for name, some in shown.items()}
    console = Console(width=150)
    console.print(
        f"{len(stream.queries)} queries; blocks: {json.dumps({block: cache_blocks(lines, block) for block in BLOCKS})}"
    )
    console.print(simulated(lines))
    wanted = [name for name in lines if any(name.startswith(one) for one in options.policy or [""])]
    if options.real:
        console.print(served(lines, wanted, options.block))
    if options.routed:
        cost = cost_of(bundle.examples, lambda examples: len(texts.prefix(examples)))
        few = cache_blocks(lines, options.block)
        console.print(*HEADINGS, sep=" | ")
        opened = stream.queries[: options.conversations]
        for row in measure_routed(
            options.policy or [""], options.bundle, opened, cost, options.block, few, CONCURRENCY
        ):
            console.print(*row, sep=" | ")
    if options.time:
        timed = {name: list(zip(lines[name].requests, lines[name].injected, strict=True)) for name in wanted}
        console.print(*real.measure_time(timed, texts.raw(stream.queries), options.block))


if __name__ == "__main__":
    main()
