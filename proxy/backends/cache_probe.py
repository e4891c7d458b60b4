"""Finds out whether a model server's prefix cache works: sends a long prompt twice, and looks at the second reply.

Some servers report how many tokens of the second prompt came from the cache. For the other servers, the times decide: a
working cache saves nearly the whole time that the server needs for the prompt. Each prompt begins with random
characters, so it cannot be in the cache before the module sends it.
"""

import asyncio
import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from proxy.backends.dialects.base import Fetch
from proxy.backends.discovery import Model
from proxy.backends.fetcher import fetch_reply
from proxy.core.errors import ProxyError
from proxy.core.json_types import Json
from proxy.core.progress import ProgressCallback

_WORDS: Final = (
    "apple bridge cloud door early field green house island jacket kitchen lemon morning north orange paper quiet "
    "river stone table under village water yellow winter summer autumn garden window mirror basket candle"
)
_PROMPT_WORDS: Final = 640  # about 640 tokens: five blocks of 128, the largest block size that servers use
_MIN_PROMPT_WORDS: Final = 100
_REPEATS: Final = 5  # long prompts that are sent if the times must decide
_MIN_REPEATS: Final = 3  # the same for a slow server, and for one that reports misses (a router may cause one miss)
_PATIENCE: Final = 60.0  # seconds of testing after which a server counts as slow
_MIN_SHARE: Final = 0.5  # a reply is a hit if at least this share of its prompt came from the cache
_MIN_SAVED: Final = 0.6  # a working cache saves at least this share of a prompt's time
_MAX_SAVED: Final = 0.25  # without a working cache, a prompt's time varies by at most this share
_MIN_PROMPT_TIME: Final = 0.02  # seconds; a shorter time cannot be distinguished from the noise of a network


@dataclass(frozen=True, slots=True)
class CacheFinding:
    """Whether a prefix cache works.

    Attributes:
        works: Whether the prefix cache works; None if the replies do not show it.
        evidence: The reason for `works`, as a sentence without a full stop.
    """

    works: bool | None
    evidence: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What one reply shows.

    Attributes:
        seconds: The time from the request to the end of the reply.
        prompt: The number of tokens of the prompt; 0 if the server does not report it.
        cached: How many tokens of the prompt were in the cache; None if the server does not report it.
    """

    seconds: float
    prompt: int = 0
    cached: int | None = None

    @property
    def is_cached(self) -> bool:
        """Whether the server reports that most of the prompt was in the cache."""
        return bool(self.cached and self.cached >= _MIN_SHARE * self.prompt)

    @property
    def shown(self) -> str:
        """The numbers of tokens that the server reports, as a sentence without a full stop."""
        return f"{self.cached} of {self.prompt or 'an unknown number of'} tokens of a repeated prompt were in the cache"


@dataclass(frozen=True, slots=True)
class Repeat:
    """The replies to a new long prompt, to the same prompt again, and to a short prompt. Each answer has one token."""

    first: Reply
    again: Reply
    short: Reply

    @property
    def prompt_time(self) -> float:
        """The seconds that the server needs for the long prompt."""
        return self.first.seconds - self.short.seconds

    @property
    def saved_time(self) -> float:
        """How many seconds less the server needs when it gets the same prompt again."""
        return self.first.seconds - self.again.seconds


async def probe_cache(model: Model, fetch: Fetch, report: ProgressCallback) -> CacheFinding:
    """Find out whether the prefix cache of a model's server works.

    Args:
        model: The model.
        fetch: A function that sends a request to the server.
        report: Called with a line of text for each prompt.
    """
    words = min(_PROMPT_WORDS, _PROMPT_WORDS if model.context is None else model.context // 3)
    if words < _MIN_PROMPT_WORDS:
        return CacheFinding(None, f"a context of {model.context} tokens is too short for a test of the cache")
    prober = _Prober(model, fetch)
    try:
        return await _probe(prober, words, report)
    except ProxyError as error:
        return CacheFinding(None, str(error).rstrip("."))


async def _probe(prober: "_Prober", words: int, report: ProgressCallback) -> CacheFinding:
    loop = asyncio.get_running_loop()
    started, repeats = loop.time(), list[Repeat]()
    await prober.ask(_prompt(1))  # the first request may open a connection, or load a model
    while True:
        report(f"Sending {prober.model.id} a prompt of {words} words twice, to test the prefix cache")
        prompt = _prompt(words)
        repeats.append(Repeat(await prober.ask(prompt), await prober.ask(prompt), await prober.ask(_prompt(1))))
        again = repeats[-1].again
        enough = _MIN_REPEATS if again.cached is not None or loop.time() - started > _PATIENCE else _REPEATS
        if again.is_cached or len(repeats) >= enough:
            return decide(repeats)


def decide(repeats: Sequence[Repeat]) -> CacheFinding:
    """Decide by the cached tokens that the server reports, or else by the times.

    One reported hit shows that the cache works. If the server reports only misses, the times may still show it.

    Args:
        repeats: One repeat whose second prompt was reported as cached, or at least three repeats.
    """
    hit = next((one.again for one in repeats if one.again.is_cached), None)
    if hit is not None:
        return CacheFinding(True, hit.shown)
    by_time = decide_by_time(repeats)
    missed = next((one.again for one in repeats if one.again.cached is not None), None)
    return by_time if missed is None or by_time.works else CacheFinding(False, missed.shown)


def decide_by_time(repeats: Sequence[Repeat]) -> CacheFinding:
    """Decide by the times of at least three repeats.

    Of five repeats, the one that saved the least time and the one that saved the most time are ignored.
    """
    prompt_time = median(one.prompt_time for one in repeats)
    first, again = median(one.first.seconds for one in repeats), median(one.again.seconds for one in repeats)
    times = f"a new long prompt takes {_shown(first)}, and the same prompt again {_shown(again)}"
    if prompt_time < max(_MIN_PROMPT_TIME, 2 * _spread([one.short.seconds for one in repeats])):
        return CacheFinding(
            None, f"the server reports no cached tokens, and a long prompt takes no measurable time: {times}"
        )
    shares = sorted(one.saved_time / prompt_time for one in repeats)
    agreeing = shares[1:-1] if len(repeats) >= _REPEATS else shares
    if agreeing[0] >= _MIN_SAVED:
        return CacheFinding(True, times)
    if agreeing[0] >= -_MAX_SAVED and agreeing[-1] <= _MAX_SAVED:
        return CacheFinding(False, times)
    return CacheFinding(None, f"the server reports no cached tokens, and the times contradict each other: {times}")


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values)


def _shown(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def _prompt(words: int) -> str:
    """Return a prompt that was certainly never sent before."""
    draw = random.Random()  # noqa: S311 - not for security
    return " ".join([secrets.token_hex(8), *draw.choices(_WORDS.split(), k=words)])


@dataclass(frozen=True, slots=True)
class _Prober:
    """Sends prompts to one model, and asks for an answer of one token each time."""

    model: Model
    fetch: Fetch = field(repr=False)

    async def ask(self, prompt: str) -> Reply:
        """Send a prompt, and return what the reply shows.

        Raises:
            ProxyError: The server does not answer, or it refuses the prompt.
        """
        path, body = _request(self.model, prompt)
        loop = asyncio.get_running_loop()
        started = loop.time()
        reply = await fetch_reply(self.fetch, path, body)
        return _read(reply, loop.time() - started)


def _request(model: Model, prompt: str) -> tuple[str, Json]:
    base = {"model": model.id, "max_tokens": 1}
    if model.kind == "chat":
        return "/v1/chat/completions", {**base, "messages": [{"role": "user", "content": prompt}]}
    return "/v1/completions", model.dialect.completion_request({**base, "prompt": prompt})


def _read(reply: Any, seconds: float) -> Reply:
    usage = _object(reply, "usage")
    return Reply(seconds, _number(usage, "prompt_tokens") or 0, _cached(reply, usage))


def _cached(reply: Any, usage: Mapping[str, Any]) -> int | None:
    """Return the number of cached tokens from the field of OpenAI, DeepSeek or llama.cpp; None if there is none."""
    found = _number(_object(usage, "prompt_tokens_details"), "cached_tokens")
    if found is None:
        found = _number(usage, "prompt_cache_hit_tokens")
    return _number(_object(reply, "timings"), "cache_n") if found is None else found


def _object(parent: Any, name: str) -> Mapping[str, Any]:
    found = parent.get(name) if isinstance(parent, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _number(parent: Mapping[str, Any], name: str) -> int | None:
    found = parent.get(name)
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None
