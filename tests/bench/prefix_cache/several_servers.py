"""Simulates several servers with little cache, and compares ways to choose the server of a new conversation.

    python -m tests.bench.prefix_cache.several_servers [--servers 2 4] [--requests 2000]

The queries are train rows. Every sixth query is a sensitive one, and all others are general ones. They are drawn with
replacement, so that the shares of the example sets are those among the rows (`real`), proportional to 1/1, 1/2, 1/3 ...
(`zipf`), equal (`equal`), or 80 % for one set (`hot`). Each request has new words of the user, and eight requests are
in flight. "One server" has the room of all servers together. The first quarter of the requests fills the caches. These
requests count for the shares, but not for the uncached tokens. At the end, one server leaves. "Moved" is the share of
the conversations on other servers that change their server then.
"""

import argparse
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Final, Protocol

from rich.console import Console
from rich.table import Table

from index.bundle.bundle import default_bundle_directory, load_bundle, read_manifest
from index.embedders.registry import open_embedder
from index.retrieval.retriever import Retriever, pinned
from index.retrieval.selection import select_without_costs
from proxy.backends.load_balancing import Affinity, BackendLoad, rank_backends
from proxy.backends.set_placement import SetPlacement
from tests.bench.prefix import Texts
from tests.bench.prefix_cache.block_cache import BlockCache, TokenRequest, start
from tests.measurement import TRAIN, rows_of
from tests.vllm.environment import environment
from tests.vllm.models import BASE, model_folder

BLOCK: Final = 32
IN_FLIGHT: Final = 8
OUTPUTS: Final = 16
SETS_IN_CACHE: Final = 4  # of twelve: a cache has room for these, the fixed prefix and the requests in flight
HOT: Final = 0.8  # the share of the requests for one set in the distribution `hot`
SEEDS: Final = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Query:
    """A query of the data, as tokens: those of prompt and examples, and how many tokens the user's words have."""

    example_set: str
    injected: tuple[int, ...]
    words: int


class Chooser(Protocol):
    """A way to choose a server for a new conversation."""

    def __call__(self, example_set: str, conversation: str, loads: Sequence[BackendLoad], /) -> int: ...


def by_chance(_set: str, conversation: str, loads: Sequence[BackendLoad]) -> int:
    return random.Random(conversation).randrange(len(loads))


def least_loaded(_set: str, _conversation: str, loads: Sequence[BackendLoad]) -> int:
    return rank_backends(loads, None)[0]


def by_conversation(_set: str, conversation: str, loads: Sequence[BackendLoad]) -> int:
    return rank_backends(loads, conversation)[0]


@dataclass(frozen=True, slots=True)
class BySet:
    """The rule of the proxy for requests with an example set."""

    placement: SetPlacement = field(default_factory=SetPlacement)

    def __call__(self, example_set: str, conversation: str, loads: Sequence[BackendLoad], /) -> int:
        return self.placement.place(loads, Affinity(conversation, example_set, True), example_set).positions[0]


CHOOSERS: Final[Mapping[str, Callable[[], Chooser]]] = {
    "by chance": lambda: by_chance,
    "the least loaded": lambda: least_loaded,
    "by conversation (the rule before)": lambda: by_conversation,
    "**by set, bounded load**": BySet,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a simulation: uncached injected tokens, the busiest server's share, and moved conversations."""

    uncached: float
    busiest: float
    moved: float = 0.0


@dataclass(slots=True)
class Servers:
    """Simulated servers, and the requests in flight."""

    caches: Sequence[BlockCache]
    draw: random.Random
    running: list[tuple[int, Callable[[], None]]] = field(default_factory=list)
    requests: int = 0

    def loads(self, without: int | None = None) -> list[BackendLoad]:
        busy = Counter(server for server, _ in self.running)
        return [BackendLoad(f"http://vllm-{n}:8000", n != without, 1.0, busy[n]) for n in range(len(self.caches))]

    def make_room(self) -> None:
        """End requests until fewer than IN_FLIGHT are running."""
        while len(self.running) >= IN_FLIGHT:
            self.running.pop(self.draw.randrange(len(self.running)))[1]()

    def send(self, server: int, query: Query) -> int:
        """Start a request and return its cached tokens."""
        words = [self.draw.randrange(1_000, 200_000) for _ in range(query.words)]
        request, self.requests = TokenRequest((*query.injected, *words), OUTPUTS), self.requests + 1
        while (begun := start(request, self.requests, self.caches[server])) is None:
            self.running.pop(0)[1]()
        self.running.append((server, begun.end))
        return begun.found


def simulate(
    servers: int, blocks: int, chooser: Chooser, queries: Mapping[str, Sequence[Query]], shares: Mapping[str, float],
    requests: int, seed: int,
) -> Outcome:  # fmt: skip
    draw = random.Random(seed)
    pool = Servers([BlockCache(blocks, BLOCK) for _ in range(servers)], draw)
    got: Counter[int] = Counter()
    uncached: list[int] = []
    wanted = draw.choices(list(shares), list(shares.values()), k=requests)
    for number, name in enumerate(wanted):
        pool.make_room()
        server = chooser(name, f"{seed} {number}", pool.loads())
        query = draw.choice(queries[name])
        found = pool.send(server, query)
        got[server] += 1
        if number >= requests // 4:
            uncached.append(max(0, len(query.injected) - found))
    return Outcome(mean(uncached), max(got.values()) / requests * servers, _moved(chooser, wanted, pool))


def _moved(chooser: Chooser, wanted: Sequence[str], pool: Servers) -> float:
    """Return the share of new conversations on the other servers that change their server when one server leaves."""
    servers = len(pool.caches)
    if servers < 2:
        return 0.0
    pairs = [
        tuple(chooser(name, f"move {n}", pool.loads(without)) for n, name in enumerate(wanted[:400]))
        for without in (None, servers - 1)
    ]
    stayed = [(old, new) for old, new in zip(*pairs, strict=True) if old != servers - 1]
    return sum(old != new for old, new in stayed) / len(stayed)


def room(queries: Mapping[str, Sequence[Query]], fixed: int, servers: int) -> int:
    """Return the number of cache blocks of a server."""
    longest = max(len(one.injected) for some in queries.values() for one in some)
    own = IN_FLIGHT // min(servers, IN_FLIGHT) * 20
    return 2 * (fixed // BLOCK) + own + SETS_IN_CACHE * ((longest - fixed) // BLOCK + 1)


def distributions(counts: Mapping[str, int]) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Yield the shares of the sets, by name."""
    names = sorted(counts, key=lambda name: -counts[name])
    yield "real", {name: float(count) for name, count in counts.items()}
    yield "zipf", {name: 1 / rank for rank, name in enumerate(names, 1)}
    yield "equal", dict.fromkeys(names, 1.0)
    yield "hot", {name: HOT if n == 0 else (1 - HOT) / (len(names) - 1) for n, name in enumerate(names)}


def read_queries() -> tuple[Mapping[str, Sequence[Query]], int]:
    """Return the queries by their example set in the default bundle, and the tokens of the fixed prefix."""
    directory = default_bundle_directory()
    embedder = open_embedder(read_manifest(directory).embedder.name)
    bundle = load_bundle(directory, embedder)
    texts = Texts(bundle, model_folder(BASE, environment(print), print) / "tokenizer.json")
    rows = [row["query"] for row in rows_of("references.jsonl", TRAIN)]
    rows += [row["query"] for row in rows_of("xstest_prompts.jsonl", TRAIN)][: len(rows) // 5]
    retriever, policy, always = Retriever(bundle), bundle.manifest.retrieval, pinned(bundle)
    found: dict[str, list[Query]] = {}
    for text in rows:
        retrieved = retriever.choose(embedder.embed([text[:2_000]])[0])
        examples = select_without_costs(policy, always, retrieved).in_order(policy.order)
        tokens, injected = texts.tokens(examples, text, bundle.prompt_of(retrieved.set_name))
        found.setdefault(retrieved.set_name, []).append(
            Query(retrieved.set_name, tokens[:injected], len(tokens) - injected)
        )
    return found, len(texts.prefix(always))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--servers", type=int, nargs="+", default=[2, 4], help="numbers of servers (%(default)s)")
    parser.add_argument("--requests", type=int, default=2_000, help="requests of a simulation (%(default)s)")
    options = parser.parse_args()
    queries, fixed = read_queries()
    counts = {name: len(some) for name, some in queries.items()}
    console = Console(width=150)
    console.print(f"requests of each set: {json.dumps(counts)}")
    table = Table("servers", "shares of sets", "server chosen", "uncached", "busiest, of its share", "moved")
    for servers in options.servers:
        blocks = room(queries, fixed, servers)
        for shape, shares in distributions(counts):
            runs = {"one server with the room of all": (1, servers * blocks, CHOOSERS["the least loaded"])}
            runs |= {name: (servers, blocks, make) for name, make in CHOOSERS.items()}
            for name, (count, size, make) in runs.items():
                outcomes = [simulate(count, size, make(), queries, shares, options.requests, seed) for seed in SEEDS]
                table.add_row(
                    *(str(servers), shape, name, f"{mean(one.uncached for one in outcomes):.1f}"),
                    *(f"{max(one.busiest for one in outcomes):.2f}", f"{mean(one.moved for one in outcomes):.0%}"),
                )
    console.print(table)


if __name__ == "__main__":
    main()
