"""Tests of the simulated prefix cache (tests/bench/prefix_cache/block_cache.py) against the counters of a real server.

The requests are lists of tokens with few shared prefixes, and need more blocks than the server has. Blocks are
therefore found, shared, overwritten and computed again. In vLLM, layers with a sliding window can have their own cache,
which is not simulated. The server of this test is therefore set to treat all layers alike.
"""

import random
from typing import Final

import pytest

from tests.bench.prefix_cache.block_cache import BlockCache, TokenRequest, found_tokens
from tests.bench.prefix_cache.served import measure_stream
from tests.vllm.server import BLOCK, FEW_BLOCKS

_REQUESTS: Final = 60


def stream(seed: int) -> list[TokenRequest]:
    """Return requests of six groups. A prompt has a common prefix, a prefix of its group and its own tokens."""
    draw = random.Random(seed)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(1_000, 200_000) for _ in range(count))

    common, groups = (2, *tokens(69)), [tokens(length) for length in (30, 90, 130, 58, 200, 161)]
    return [
        TokenRequest(common + draw.choice(groups) + tokens(draw.randrange(1, 90)), draw.randrange(1, 40))
        for _ in range(_REQUESTS)
    ]


async def test_simulation_predicts_each_of_sequential_requests(few_blocks: str) -> None:
    requests = stream(1)
    expected = found_tokens(requests, BlockCache(FEW_BLOCKS, BLOCK), 1)
    assert await measure_stream(few_blocks, requests, 1) == expected
    # Different numbers show that blocks of the groups are cached and overwritten.
    assert len(set(expected)) > 4


async def test_simulation_predicts_the_sum_of_concurrent_requests(few_blocks: str) -> None:
    requests = stream(2)
    expected = sum(found_tokens(requests, BlockCache(FEW_BLOCKS, BLOCK), 8))
    assert sum(await measure_stream(few_blocks, requests, 8)) == pytest.approx(expected, rel=0.1)
