"""Simulates how many injected tokens are computed again for each request, for many retrieval policies at once.

    python -m tests.bench.policies.frontier                             the grid of the flags' defaults
    ... --sets 0 4 8 12 --tokens 384 544 --nearest 0 1 2 3 4 5 6      other sets; 0 for no sets
    ... --within 64 96 --floor 0.3                                    limits of the nearest examples' tokens; a floor
    ... --policy "sets and 1 nearest" --json points.json              single policies; the figures as JSON

Every policy has the same queries and the same room in the cache as in `tests.bench.prefix`. `tests.bench.policy_answers
--policy` takes the same names of policies, so that a policy can be found in both tables. "Nearest shown" is the share
of requests that contain the nearest example, in the set or after it. Requests whose query is below the similarity floor
do not count for it.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from index.bundle.bundle import default_bundle_directory, load_bundle, read_manifest
from index.embedders.registry import open_embedder
from index.errors import BundleError
from index.retrieval.retriever import Retriever, pinned
from index.retrieval.selection import select_within_policy
from index.types import Bundle
from tests.bench.policies.bundle_names import bundle_directory
from tests.bench.policies.spec import PolicySpec, parse_policy, with_policy
from tests.bench.prefix import BLOCKS, CONCURRENCY, OUTPUTS, Stream, Texts, cache_room, read_stream, token_costs
from tests.bench.prefix_cache.block_cache import BlockCache, TokenRequest, found_tokens
from tests.vllm.environment import environment
from tests.vllm.models import BASE, model_folder


@dataclass(frozen=True, slots=True)
class Point:
    """The cost of a policy.

    Attributes:
        policy: The name of the policy.
        injected: The mean number of tokens of prompt and examples.
        uncached: The mean number of these tokens that are computed again, by the number of tokens of a cache block.
        nearest_shown: The share of requests that contain the nearest example, among requests whose query is not below
            the floor.
        below_floor: The share of the requests below the floor.
    """

    policy: str
    injected: float
    uncached: dict[int, float]
    nearest_shown: float
    below_floor: float


def point(bundle: Bundle, name: str, stream: Stream, texts: Texts, tokenizer: Path, room: Mapping[int, int]) -> Point:
    """Return the cost of a policy. `bundle` has the policy, and `room` is the number of blocks by the block's size."""
    prompts, costs = token_costs(bundle, tokenizer)
    always, policy, retriever = pinned(bundle), bundle.manifest.retrieval, Retriever(bundle)
    requests, injected, shown, below = [], [], [], 0
    for query, vector in zip(stream.queries, stream.vectors, strict=True):
        retrieved = retriever.choose(vector)
        chosen = retrieved.set_name
        examples = select_within_policy(policy, prompts[chosen], costs, always, retrieved).in_order(policy.order)
        tokens, own = texts.tokens(examples, query, bundle.prompt_of(chosen))
        requests.append(TokenRequest(tokens, OUTPUTS))
        injected.append(own)
        below += retrieved.is_below_floor
        if not retrieved.is_below_floor and (best := retriever.most_similar(vector)) is not None:
            shown.append(best.example in examples)
    uncached = {}
    for block, blocks in room.items():
        found = found_tokens(requests, BlockCache(blocks, block), CONCURRENCY)
        uncached[block] = float(np.mean([max(0, own - one) for own, one in zip(injected, found, strict=True)]))
    return Point(name, float(np.mean(injected)), uncached, float(np.mean(shown or [0])), below / len(requests))


def grid(options: argparse.Namespace) -> Iterator[PolicySpec]:
    """Yield the policies of the flags."""
    yield from options.policy or ()
    if options.policy and not options.grid:
        return
    ends = [f" within {one}" if one else "" for one in options.within]
    floors = [f" floor {one:g}" if one is not None else "" for one in options.floor]
    for count in options.sets:
        for tokens in options.tokens if count else (0,):
            for nearest in options.nearest if count else [one for one in options.nearest if one]:
                begin = f"{count} sets of {tokens}" if count else ""
                more = f"{nearest} nearest" if nearest else ""
                for end in ends if nearest else ("",):
                    for floor in floors:
                        yield parse_policy(" and ".join(part for part in (begin, more) if part) + end + floor)


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=bundle_directory, default=default_bundle_directory())
    parser.add_argument("--tokenizer", type=Path, help="the model's tokenizer.json (that of the base model of vLLM)")
    parser.add_argument("--sets", type=int, nargs="+", default=[0, 6, 12], help="numbers of sets (%(default)s)")
    parser.add_argument("--tokens", type=int, nargs="+", default=[384, 544], help="with the prompt (%(default)s)")
    parser.add_argument("--nearest", type=int, nargs="+", default=[0, 1, 2, 3], help="%(default)s")
    parser.add_argument("--within", type=int, nargs="+", default=[0], help="tokens of the nearest; 0: no limit")
    parser.add_argument("--floor", type=float, nargs="+", default=[None], help="similarity floors (that of the bundle)")
    parser.add_argument("--policy", type=parse_policy, action="append", help="single policies; repeatable")
    parser.add_argument("--grid", action="store_true", help="the grid, too, if --policy is given")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser


def main() -> None:
    options = command_line().parse_args()
    tokenizer = options.tokenizer or model_folder(BASE, environment(print), print) / "tokenizer.json"
    embedder = open_embedder(read_manifest(options.bundle).embedder.name)
    bundle, stream = load_bundle(options.bundle, embedder), read_stream(embedder)
    texts = Texts(bundle, tokenizer)
    room = cache_room(bundle, stream, texts, tokenizer)
    print(f"{len(stream.queries)} queries; blocks: {json.dumps(room)}\n")
    columns = ("policy", "injected", *(f"uncached, {block}" for block in BLOCKS), "nearest shown", "below floor")
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    points = []
    for spec in grid(options):
        try:
            made = with_policy(bundle, spec, tokenizer)
        except BundleError as error:
            print(f"{spec.name}: not possible: {error}", file=sys.stderr)
            continue
        points.append(point(made, spec.name, stream, texts, tokenizer, room))
        print(f"| {' | '.join(cells(points[-1]))} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in points], indent=1))


def cells(one: Point) -> Sequence[str]:
    uncached = (f"{one.uncached[block]:.1f}" for block in BLOCKS)
    return (one.policy, f"{one.injected:.0f}", *uncached, f"{one.nearest_shown:.3f}", f"{one.below_floor:.3f}")


if __name__ == "__main__":
    main()
