"""Plans the requests of a step: when they arrive (a Poisson process), and what they ask. This module has no I/O."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson

GATEWAY, DIRECT = 0, 1  # targets: the gateway, and the backend itself
QUERY_LENGTH: Final = 2_000  # characters
KNOWN_QUERIES: Final = 100
_HEAD: Final = np.dtype([("arrivals", "u4"), ("targets", "u4"), ("ports", "u4", 2)])
_ARRIVAL: Final = np.dtype(
    [("at", "f8"), ("offset", "u8"), ("length", "u4"), ("target", "u4"), ("tokens", "u4"), ("padding", "u4")]
)
_MIN_DIRECT_RATE: Final = 5.0  # requests per second straight to the backend, for each step
_DIRECT_SHARE: Final = 0.05  # of the arrival rate, if this share is more

_WARM_UP_RATE: Final = 50.0  # requests per second
_WARM_UP_REPEATS: Final = 4


@dataclass(frozen=True, slots=True)
class Shape:
    """What the requests of a step have in common.

    Attributes:
        name: Its name in the tables.
        tokens: The length of each answer in tokens.
        new: The share of the queries that were never asked before. All others are from a fixed set.
    """

    name: str
    tokens: int
    new: float


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go: the port on this machine, the name of the model, and the headers that requests need."""

    port: int
    model: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request: its time in seconds after the start, its target (GATEWAY or DIRECT), and its query."""

    at: float
    target: int
    query: str


def poisson(rate: float, seconds: float, source: random.Random) -> Iterator[float]:
    """Yield the times of a Poisson process of `rate` per second, from 0 to `seconds`."""
    at = source.expovariate(rate)
    while at < seconds:
        yield at
        at += source.expovariate(rate)


def arrivals(rate: float, seconds: float, shape: Shape, words: Sequence[str], seed: str) -> list[Arrival]:
    """Return the requests of a step, in the order of time.

    The requests that go straight to the backend come in addition to `rate`. They show how much time client and backend
    need at this load.

    Args:
        rate: Requests per second to the gateway.
        seconds: The length of the period in which requests arrive, in seconds.
        shape: What is asked.
        words: The words that queries consist of.
        seed: Steps with different seeds have different times and different new queries.
    """
    source = random.Random(seed)
    known = known_queries(words)
    times = [(at, GATEWAY) for at in poisson(rate, seconds, source)]
    times += [(at, DIRECT) for at in poisson(max(_MIN_DIRECT_RATE, _DIRECT_SHARE * rate), seconds, source)]
    return [
        Arrival(at, target, query(words, source) if source.random() < shape.new else source.choice(known))
        for at, target in sorted(times)
    ]


def warm_up_arrivals(words: Sequence[str]) -> list[Arrival]:
    """Return requests that ask each known query several times, in a mixed order and at a steady rate."""
    queries = _WARM_UP_REPEATS * known_queries(words)
    random.Random("warm up").shuffle(queries)
    return [Arrival(number / _WARM_UP_RATE, GATEWAY, text) for number, text in enumerate(queries)]


def known_queries(words: Sequence[str]) -> list[str]:
    """Return the fixed set of queries."""
    source = random.Random("known queries")
    return [query(words, source) for _ in range(KNOWN_QUERIES)]


def query(words: Sequence[str], source: random.Random) -> str:
    """Return a query of QUERY_LENGTH characters."""
    text = " ".join(source.choices(words, k=QUERY_LENGTH // 2))
    return text[:QUERY_LENGTH]


def encoded(planned: Sequence[Arrival], targets: Sequence[Target], tokens: int) -> bytes:
    """Return the plan in the format that client.c reads."""
    requests = [request(targets[one.target], one.query, tokens) for one in planned]
    head = np.zeros(1, _HEAD)
    head["arrivals"], head["targets"] = len(planned), len(targets)
    head["ports"][0, : len(targets)] = [target.port for target in targets]
    table = np.zeros(len(planned), _ARRIVAL)
    table["at"] = [one.at for one in planned]
    table["length"] = [len(one) for one in requests]
    table["offset"] = np.cumsum(table["length"], dtype="u8") - table["length"]
    table["target"] = [one.target for one in planned]
    table["tokens"] = tokens
    return head.tobytes() + table.tobytes() + b"".join(requests)


def request(target: Target, text: str, tokens: int) -> bytes:
    """Return the bytes of a request for a stream of `tokens` tokens."""
    body: dict[str, Any] = {"model": target.model, "messages": [{"role": "user", "content": text}]}
    payload = orjson.dumps({**body, "max_tokens": tokens, "stream": True})
    lines = ["POST /v1/chat/completions HTTP/1.1", f"Host: 127.0.0.1:{target.port}", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(payload)}", *(f"{name}: {value}" for name, value in target.headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + payload
