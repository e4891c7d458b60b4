"""The simulation of the prefix cache (tests/bench/prefix_cache/block_cache.py) against the counters of a real server.

Requests are given as tokens, from few families of prefixes, more than the server's few blocks can hold, so that blocks
are found, shared, overwritten and computed again. Layers that see a window alone have a cache of their own in vLLM,
which is not simulated: the server is told to treat all layers alike.
"""

import random
from dataclasses import replace
from typing import Final

import pytest

from tests.bench.prefix_cache.block_cache import BlockCache, TokenRequest, found_tokens
from tests.bench.prefix_cache.served import measure_stream
from tests.vllm.models import BASE
from tests.vllm.server import BLOCK, OneServer

_BLOCKS: Final = 60
_FLAGS: Final = (
    "--disable-hybrid-kv-cache-manager",
    "--num-gpu-blocks-override",
    str(_BLOCKS),
    "--max-model-len",
    "1024",
)
_FEW: Final = replace(BASE, serving=_FLAGS)
_REQUESTS: Final = 60


@pytest.fixture(scope="session")
def few_blocks(servers: OneServer) -> str:
    """A server with few blocks, without /v1."""
    return servers.url(_FEW)


def stream(seed: int) -> list[TokenRequest]:
    """Requests of six families: a prefix that all share, one of the family's own, and one of the request's."""
    draw = random.Random(seed)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(1_000, 200_000) for _ in range(count))

    common, families = (2, *tokens(69)), [tokens(length) for length in (30, 90, 130, 58, 200, 161)]
    return [
        TokenRequest(common + draw.choice(families) + tokens(draw.randrange(1, 90)), draw.randrange(1, 40))
        for _ in range(_REQUESTS)
    ]


async def test_one_after_the_other_every_request_finds_what_the_simulation_says(few_blocks: str) -> None:
    requests = stream(1)
    expected = found_tokens(requests, BlockCache(_BLOCKS, BLOCK), 1)
    assert await measure_stream(few_blocks, requests, 1) == expected
    # Neither everything nor only what all share is found: blocks of the families come, and are overwritten.
    assert len(set(expected)) > 4


async def test_eight_at_once_find_as_much_in_all_as_the_simulation_says(few_blocks: str) -> None:
    requests = stream(2)
    expected = sum(found_tokens(requests, BlockCache(_BLOCKS, BLOCK), 8))
    assert sum(await measure_stream(few_blocks, requests, 8)) == pytest.approx(expected, rel=0.1)
