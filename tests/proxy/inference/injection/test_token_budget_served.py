"""Tests of the token budget in a running proxy: examples are left out only if there is no room."""

from typing import Any

import pytest

from proxy.core.lru_cache import LruCache
from proxy.inference.injection import token_costs
from proxy.inference.injection.injection import Injection
from proxy.inference.injection.retrieval_worker import RetrievalResult
from tests.faults.scripted import say_yes, scripted_backend
from tests.proxy.serving import Serving, serving

WORDS = "word " * 300  # 1,500 bytes and 300 tokens of the scripted backend


@pytest.mark.parametrize("tokenize_reply", [404, 500, [1, 2], {"count": None}, "nothing"])
async def test_backend_that_cannot_count_gets_estimates_and_a_usable_cap(tokenize_reply: Any) -> None:
    async with scripted_backend(say_yes, context=1000, tokenize_reply=tokenize_reply) as backend:
        async with serving(backend.url) as proxy:
            _, headers, _ = await proxy.chat(WORDS)
            assert len(headers["x-drpo-examples"].split(",")) >= 2
            assert backend.generating[-1].json["max_tokens"] == 100
            await proxy.chat(WORDS, model="scripted@raw")
            assert backend.generating[-1].json["max_tokens"] > 100


@pytest.mark.parametrize("kind", ["chat", "completion"])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_large_max_tokens_of_a_client_removes_no_example(kind: str, name: str) -> None:
    async with scripted_backend(say_yes, kind=kind) as backend, serving(backend.url) as proxy:
        usual = (await proxy.chat())[1]["x-drpo-examples"]
        for cap in (1, 4000, 4096, 10**9):
            _, headers, _ = await proxy.chat(**{name: cap})
            assert headers["x-drpo-examples"] == usual
        assert usual


@pytest.mark.parametrize("kind", ["chat", "completion"])
async def test_tokens_of_a_long_query_are_counted(kind: str) -> None:
    async with scripted_backend(say_yes, kind=kind, context=1000) as backend, serving(backend.url) as proxy:
        _, headers, _ = await proxy.chat(WORDS)
        assert len(headers["x-drpo-examples"].split(",")) == 3
        assert "x-drpo-reduced" not in headers


@pytest.mark.parametrize("kind", ["chat", "completion"])
async def test_reply_reports_a_context_without_room_for_examples(kind: str) -> None:
    async with scripted_backend(say_yes, kind=kind, context=1000) as backend, serving(backend.url) as proxy:
        _, headers, _ = await proxy.chat("word " * 900)
        assert (headers["x-drpo-examples"], headers["x-drpo-reduced"]) == ("refuse", "context")
        _, headers, _ = await proxy.chat("word " * 970)
        assert (headers["x-drpo-examples"], headers["x-drpo-reduced"]) == ("", "context")
        assert headers["x-drpo-refusal"] == "left-out"


@pytest.mark.parametrize("kind", ["chat", "completion"])
async def test_text_longer_than_any_context_is_not_counted(kind: str) -> None:
    async with scripted_backend(say_yes, kind=kind, context=1000) as backend, serving(backend.url) as proxy:
        text = "word " * 60_000
        _, headers, _ = await proxy.chat(text)
        assert (headers["x-drpo-examples"], headers["x-drpo-reduced"]) == ("", "context_prompt")
        counted = [one for one in backend.received if one.path == "/tokenize"]
        assert counted
        assert not [one for one in counted if text in str(one.json)]


async def test_client_cap_of_zero_is_passed_to_the_backend() -> None:
    async with scripted_backend(say_yes) as backend, serving(backend.url) as proxy:
        await proxy.chat(max_tokens=0)
        assert backend.generating[-1].json["max_tokens"] == 0


async def test_failed_count_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted_backend(say_yes) as backend, serving(backend.url) as proxy:
        costs = proxy.gateway.injector._costs
        count, calls = costs._count, 0

        async def fails_once(*arguments: Any) -> int | None:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise OSError("once")
            return await count(*arguments)

        monkeypatch.setattr(costs, "_count", fails_once)
        assert (await proxy.chat())[0] == 500
        assert (await proxy.chat())[0] == 200


async def test_estimates_are_replaced_when_the_backend_can_count_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_costs, "_RECOUNT_AFTER", 0.0)
    async with scripted_backend(say_yes, tokenize_reply=503) as backend, serving(backend.url) as proxy:
        await proxy.chat()
        costs = proxy.gateway.injector._costs
        served, model = proxy.gateway.bundles["scripted"], proxy.gateway.pool.models["scripted"]
        estimated = (await costs.of(served, model)).examples["sum"]
        backend.tokenize_reply = None
        assert (await costs.of(served, model)).examples["sum"] < estimated


async def test_examples_allowed_by_estimates_are_selected_again_from_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted_backend(say_yes, tokenize_reply=503) as backend, serving(backend.url) as proxy:
        estimated = await injected(proxy)
        backend.tokenize_reply = None
        monkeypatch.setattr(token_costs, "_RECOUNT_AFTER", 0.0)
        counted = await injected(proxy)
        assert counted.tokens < estimated.tokens
        assert await injected(proxy) is counted, "nothing changed: nothing is worked out"


async def test_failed_retrieval_is_reported_for_a_query_without_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted_backend(say_yes) as backend, serving(backend.url) as proxy:
        found = iter([RetrievalResult(), RetrievalResult(degraded="timeout"), RetrievalResult()])

        async def find(*_: object) -> RetrievalResult:
            return next(found)

        monkeypatch.setattr(proxy.gateway.injector._retrieval, "find_by_turns", find)
        assert [(await injected(proxy)).reduced for _ in range(3)] == [(), ("timeout",), ()]


async def injected(proxy: Serving) -> Injection:
    served, model = proxy.gateway.bundles["scripted"], proxy.gateway.pool.models["scripted"]
    return await proxy.gateway.injector.choose_examples(served, model, ["hello"], None, "hello", {})


async def test_examples_of_a_large_bank_are_counted_when_first_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with scripted_backend(say_yes) as backend, serving(backend.url) as proxy:
        usual = (await proxy.chat())[1]
        monkeypatch.setattr(token_costs, "_MAX_COUNTED_AHEAD", 1)
        monkeypatch.setattr(proxy.gateway.injector._costs, "_bundles", LruCache(1))
        counted: list[str] = []
        count = proxy.gateway.injector._costs._count

        async def watched(model: Any, text: str) -> int | None:
            counted.append(text)
            return await count(model, text)

        monkeypatch.setattr(proxy.gateway.injector._costs, "_count", watched)
        for _ in range(2):
            headers = (await proxy.chat())[1]
            assert headers["x-drpo-examples"] == usual["x-drpo-examples"]
        told = [text for text in counted if text]
        assert told
        assert len(told) == len(set(told))
