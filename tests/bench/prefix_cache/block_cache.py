"""Simulates vLLM's prefix cache: which tokens of a stream of requests are computed, and which are found in the cache.

It follows vLLM 0.32 (vllm/v1/core/block_pool.py, kv_cache_manager.py) for a model whose layers all have full attention:

- Only complete blocks are cached. A block is identified by its tokens and all tokens before it.
- The last token of a prompt is never taken from the cache.
- The blocks of a finished request stay in the cache. The last block of a request is overwritten first.
- Incomplete blocks are overwritten before all others.

This module depends only on tokens, and not on a model, on texts or on time. tests/vllm/test_block_cache.py compares it
with the counters of a real server.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A request.

    Attributes:
        tokens: The tokens of the prompt.
        outputs: The number of tokens to generate, at least one.
    """

    tokens: tuple[int, ...]
    outputs: int


@dataclass(slots=True)
class _Running:
    """A request that is being served.

    Attributes:
        number: Its position in the stream.
        tokens: The tokens of the prompt and of the answer until now.
        left: The number of tokens that are still to be generated.
        blocks: The numbers of its blocks, in order.
        hashes: The hashes of its complete blocks, in order.
    """

    number: int
    tokens: list[int]
    left: int
    blocks: list[int] = field(default_factory=list)
    hashes: list[int] = field(default_factory=list)


class BlockCache:
    """The blocks of one server."""

    def __init__(self, blocks: int, block_size: int) -> None:
        """Create an empty cache.

        Args:
            blocks: The number of blocks as vLLM counts it. vLLM reserves one of them.
            block_size: Tokens in a block.
        """
        self._size = block_size
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(blocks - 1))
        self._uses = [0] * (blocks - 1)
        self._hash_of: dict[int, int] = {}
        self._blocks_of: dict[int, OrderedDict[int, None]] = {}

    def begin(self, request: _Running) -> int | None:
        """Allocate the blocks of a request. Returns the number of cached tokens; None if there are too few blocks."""
        hashes = self._hashes(request.tokens)
        findable = hashes[: (len(request.tokens) - 1) // self._size]
        found = [next(iter(self._blocks_of[one])) for one in takewhile(self._blocks_of.__contains__, findable)]
        needed = -(-len(request.tokens) // self._size) - len(found)
        if needed > len(self._free) - sum(not self._uses[block] for block in found):
            return None
        for block in found:
            self._free.pop(block, None)
            self._uses[block] += 1
        request.blocks = found + [self._take() for _ in range(needed)]
        request.hashes = []
        self._remember(request, hashes)
        return len(found) * self._size

    def grow(self, request: _Running, token: int) -> bool:
        """Append a token. Returns whether there was a block for it."""
        if len(request.tokens) == len(request.blocks) * self._size:
            if not self._free:
                return False
            request.blocks.append(self._take())
        request.tokens.append(token)
        if len(request.tokens) % self._size == 0:
            before = request.hashes[-1] if request.hashes else 0
            self._remember(request, [*request.hashes, self._hash(before, request.tokens[-self._size :])])
        return True

    def end(self, request: _Running) -> None:
        """Free the blocks, the last one first."""
        for block in request.blocks:
            self._uses[block] -= 1
        unused = [block for block in reversed(request.blocks) if not self._uses[block]]
        for block in unused:
            self._free[block] = None
        for block in reversed([block for block in unused if block not in self._hash_of]):
            self._free.move_to_end(block, last=False)
        request.blocks, request.hashes = [], []

    def _take(self) -> int:
        block, _ = self._free.popitem(last=False)
        self._uses[block] = 1
        if (known := self._hash_of.pop(block, None)) is not None:
            del self._blocks_of[known][block]
            if not self._blocks_of[known]:
                del self._blocks_of[known]
        return block

    def _remember(self, request: _Running, hashes: Sequence[int]) -> None:
        """Register the complete blocks of a request. As in vLLM, this happens before the blocks are computed."""
        for block, known in zip(request.blocks, hashes, strict=False):
            if block not in self._hash_of:
                self._hash_of[block] = known
                self._blocks_of.setdefault(known, OrderedDict())[block] = None
        request.hashes = list(hashes)

    def _hashes(self, tokens: Sequence[int]) -> list[int]:
        hashes, before = [], 0
        for start in range(0, len(tokens) - self._size + 1, self._size):
            before = self._hash(before, tokens[start : start + self._size])
            hashes.append(before)
        return hashes

    @staticmethod
    def _hash(before: int, tokens: Sequence[int]) -> int:
        return hash((before, *tokens))


@dataclass(frozen=True, slots=True)
class Begun:
    """A request whose answer is complete but whose blocks are still in use.

    Attributes:
        found: The number of cached tokens of its prompt.
        end: Frees the blocks.
    """

    found: int
    end: Callable[[], None]


def start(request: TokenRequest, number: int, cache: BlockCache) -> Begun | None:
    """Start a request and generate its answer. Returns None if there are too few blocks.

    Args:
        request: The request.
        number: Its number. Requests with different numbers have different answers.
        cache: The blocks of the server.
    """
    running = _Running(number, list(request.tokens), 0)
    found = cache.begin(running)
    if found is None:
        return None
    for _ in range(request.outputs - 1):
        if not cache.grow(running, -1 - number):
            cache.end(running)
            return None
    return Begun(found, lambda: cache.end(running))


def found_tokens(requests: Sequence[TokenRequest], cache: BlockCache, concurrency: int) -> list[int]:
    """Return the number of cached tokens of each prompt. Up to `concurrency` requests are served at the same time.

    In each step every running request gets one token. Then waiting requests start in their order while there are free
    blocks. If there is no block for the next token of a request, the request that started last is preempted.
    """
    waiting = deque(_Running(n, list(one.tokens), one.outputs - 1) for n, one in enumerate(requests))
    running: list[_Running] = []
    found: dict[int, int] = {}
    while waiting or running:
        _grow_all(running, waiting, cache)
        while waiting and len(running) < concurrency and (here := cache.begin(waiting[0])) is not None:
            running.append(waiting.popleft())
            found.setdefault(running[-1].number, here)
        if not running:
            raise ValueError("a request does not fit into the cache alone: give it more blocks")
        for request in [one for one in running if not one.left]:
            running.remove(request)
            cache.end(request)
    return [found[n] for n in range(len(requests))]


def _grow_all(running: list[_Running], waiting: deque[_Running], cache: BlockCache) -> None:
    """Append a token to each running request. The last token of an answer is never stored in a block."""
    for request in list(running):
        # Each request has another output, so that no request finds the output of another request in the cache.
        while request in running and not cache.grow(request, -1 - request.number):
            waiting.appendleft(running.pop())
            cache.end(waiting[0])
        request.left -= request in running
