"""Guards the decision whether a prefix cache works: by reported tokens, or by times."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from proxy.backends.cache_probe import CacheFinding, Repeat, Reply, decide, probe_cache
from proxy.backends.dialects.llama_cpp import LLAMA_CPP
from proxy.backends.dialects.unknown import UNKNOWN
from proxy.backends.dialects.vllm import VLLM
from proxy.backends.discovery import Model
from proxy.core.errors import BackendTimeoutError
from proxy.core.settings import Kind
from tests.clock import MovedClock
from tests.faults.scripted import completion

Usage = Callable[[int, int], Mapping[str, Any]]
"""A function of the prompt's tokens and the cached tokens. It returns the fields of the reply."""


def timed(first: float, again: float, short: float) -> Repeat:
    return Repeat(Reply(first), Reply(again), Reply(short))


@pytest.mark.parametrize(
    ("repeats", "works"),
    [
        pytest.param([timed(1.7, 0.11, 0.07)] * 3, True, id="clear hit"),
        pytest.param([timed(1.7, 1.7, 0.07)] * 3, False, id="clear miss"),
        pytest.param([timed(1.7, 1.6, 0.07), timed(1.8, 1.9, 0.08), timed(1.6, 1.6, 0.07)], False, id="noisy miss"),
        pytest.param(
            [timed(0.12, 0.05, 0.04), timed(0.13, 0.05, 0.04), timed(0.4, 0.4, 0.04), *[timed(0.12, 0.05, 0.04)] * 2],
            True,
            id="one outlier among five hits",
        ),
        pytest.param(
            [timed(0.12, 0.12, 0.04), timed(0.4, 0.05, 0.04), *[timed(0.12, 0.12, 0.04)] * 3],
            False,
            id="one outlier among five misses",
        ),
        pytest.param([timed(0.12, 0.05, 0.04), timed(0.12, 0.12, 0.04), timed(0.2, 0.1, 0.05)], None, id="mixed"),
        pytest.param([timed(1.0, 0.6, 0.1)] * 5, None, id="half of the time"),
        pytest.param([timed(0.012, 0.012, 0.01)] * 5, None, id="too fast"),
        pytest.param([timed(0.012, 0.004, 0.003)] * 5, None, id="too fast to trust"),
        pytest.param(
            [timed(0.1, 0.04, 0.03), timed(0.1, 0.04, 0.2), timed(0.1, 0.04, 0.03)], None, id="noisy short prompts"
        ),
        pytest.param(
            [timed(1.0, 3.0, 0.1), timed(1.0, 1.0, 0.1), timed(3.0, 1.0, 0.1), timed(1.0, 4.0, 0.1)],
            None,
            id="wild times",
        ),
        pytest.param([timed(0.1, 0.1, 0.4)] * 3, None, id="short is slower"),
    ],
)
def test_times_decide_only_if_they_are_clear(repeats: list[Repeat], works: bool | None) -> None:
    assert decide(repeats).works is works


@pytest.mark.parametrize("first", [0.1, 2.0])
@pytest.mark.parametrize(
    ("cached", "works"),
    [([600], True), ([0, 600], True), ([0, 0, 0], False), ([16, 0, 40], False), ([0, 600, 0], True)],
)
def test_reported_tokens_decide_whatever_the_times(cached: list[int], works: bool, first: float) -> None:
    repeats = [Repeat(Reply(first, 640, 0), Reply(first, 640, one), Reply(0.1, 9, 0)) for one in cached]
    assert decide(repeats).works is works


def test_times_of_a_working_cache_outweigh_reported_misses() -> None:
    repeats = [Repeat(Reply(1.7, 640, 0), Reply(0.1, 640, 0), Reply(0.07, 9, 0))] * 3
    assert decide(repeats).works is True


def openai_usage(prompt: int, cached: int) -> Mapping[str, Any]:
    return {"usage": {"prompt_tokens": prompt, "prompt_tokens_details": {"cached_tokens": cached}}}


def vllm_usage(prompt: int, cached: int) -> Mapping[str, Any]:
    """Return the usage as vLLM reports it: without details if no token was cached."""
    return (
        openai_usage(prompt, cached) if cached else {"usage": {"prompt_tokens": prompt, "prompt_tokens_details": None}}
    )


def llama_usage(prompt: int, cached: int) -> Mapping[str, Any]:
    return {"usage": {"prompt_tokens": prompt}, "timings": {"cache_n": cached, "prompt_n": prompt - cached}}


def deepseek_usage(prompt: int, cached: int) -> Mapping[str, Any]:
    return {"usage": {"prompt_tokens": prompt, "prompt_cache_hit_tokens": cached}}


def no_usage(prompt: int, cached: int) -> Mapping[str, Any]:
    return {}


class Server:
    """A server with or without a prefix cache, in which a new word of a prompt takes a time."""

    def __init__(self, usage: Usage, *, caches: bool, seconds_per_word: float = 0.0, status: int = 200) -> None:
        self._clock = MovedClock()
        self.prompts: list[str] = []
        self.paths: set[str] = set()
        self._usage, self._caches, self._seconds, self._status = usage, caches, seconds_per_word, status

    async def __call__(self, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        assert body is not None
        assert body["max_tokens"] == 1
        self.paths.add(path)
        prompt = body["prompt"] if "prompt" in body else body["messages"][0]["content"]
        words, known = len(prompt.split()), self._caches and prompt in self.prompts
        self.prompts.append(prompt)
        await self._clock.forward(self._seconds * (0 if known else words))
        return self._status, {**completion(""), "usage": {}, **self._usage(words, words - 1 if known else 0)}


def a_model(kind: Kind = "completion", context: int | None = 4096, **fields: Any) -> Model:
    return Model("m", {}, kind, **{"dialect": UNKNOWN, "context": context, **fields})


async def probed(server: Server, model: Model | None = None) -> CacheFinding:
    return await probe_cache(model or a_model(), server, lambda _: None)


@pytest.mark.parametrize("kind", ["chat", "completion"])
@pytest.mark.parametrize("usage", [openai_usage, vllm_usage, llama_usage, deepseek_usage])
async def test_cache_that_reports_its_tokens_works_after_two_prompts(usage: Usage, kind: Kind) -> None:
    server = Server(usage, caches=True)
    assert (await probed(server, a_model(kind))).works is True
    long = [prompt for prompt in server.prompts if len(prompt.split()) > 9]
    assert len(long) == 2
    assert long[0] == long[1]
    assert server.paths == {"/v1/chat/completions" if kind == "chat" else "/v1/completions"}


@pytest.mark.parametrize("usage", [openai_usage, llama_usage, deepseek_usage])
async def test_cache_that_reports_zero_tokens_does_not_work(usage: Usage) -> None:
    finding = await probed(Server(usage, caches=False))
    assert finding == CacheFinding(False, "0 of 641 tokens of a repeated prompt were in the cache")


@pytest.mark.parametrize("usage", [no_usage, vllm_usage])
@pytest.mark.parametrize("caches", [True, False])
async def test_time_decides_if_nothing_is_reported(usage: Usage, caches: bool) -> None:
    finding = await probed(Server(usage, caches=caches, seconds_per_word=0.05))
    assert finding.works is caches


async def test_fast_server_that_reports_nothing_cannot_be_judged() -> None:
    finding = await probed(Server(no_usage, caches=False))
    assert finding.works is None
    assert "no measurable time" in finding.evidence


async def test_prompts_are_new_each_time() -> None:
    server = Server(openai_usage, caches=False)
    await probed(server)
    assert len({prompt.split()[0] for prompt in server.prompts}) == len(set(server.prompts))


@pytest.mark.parametrize(("context", "works", "words"), [(600, True, 201), (4096, True, 641), (200, None, 0)])
async def test_prompt_fits_into_the_context(context: int, works: bool | None, words: int) -> None:
    server = Server(openai_usage, caches=True)
    assert (await probed(server, a_model(context=context))).works is works
    assert max((len(prompt.split()) for prompt in server.prompts), default=0) == words


@pytest.mark.parametrize("status", [400, 404, 429, 500])
async def test_refusal_is_no_verdict(status: int) -> None:
    assert await probed(Server(no_usage, caches=True, status=status)) == CacheFinding(
        None, f"/v1/completions answered {status}"
    )


async def test_silence_is_no_verdict() -> None:
    async def silent(path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        raise BackendTimeoutError(f"{path} was not answered within 60 s.")

    finding = await probe_cache(a_model(), silent, lambda _: None)
    assert finding == CacheFinding(None, "/v1/completions was not answered within 60 s")


@pytest.mark.parametrize("reply", [None, [], {"usage": []}, {"usage": {"prompt_tokens": "9"}}, {"timings": 5}])
async def test_reply_of_any_shape_is_no_verdict(reply: Any) -> None:
    async def answer(path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        return 200, reply

    assert (await probe_cache(a_model(), answer, lambda _: None)).works is None


def test_advice_names_the_flag_of_the_server() -> None:
    assert "--enable-prefix-caching" in VLLM.cache_advice
    assert "--no-cache-prompt" in LLAMA_CPP.cache_advice
    assert "--enable-prefix-caching" in UNKNOWN.cache_advice
