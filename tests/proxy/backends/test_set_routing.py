"""Tests of a running proxy with several backends and a bundle with example sets: which backend gets which request."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from index.types import ExampleSet
from proxy.backends.set_plan import set_key
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.server.cache_warming import warming
from tests.faults.scripted import ScriptedBackend, say_yes, scripted_backend
from tests.proxy.serving import Serving, make_settings, served_bundle, serving, until

SETS = tuple(ExampleSet(name, (name,), (name,)) for name in ("sky", "sum", "tea"))
QUERIES = {"sky": "Why is the sky blue {}?", "sum": "What is two and two {}?", "tea": "How do I make tea {}?"}


def with_sets() -> ServedBundle:
    return served_bundle(sets=SETS, policy="set", minimum_similarity=-1.0)


def hits(*backends: ScriptedBackend) -> list[int]:
    return [len(backend.generating) for backend in backends]


async def ask(proxy: Serving, name: str, number: int, *later: str) -> None:
    """Send the first turn of a conversation whose example set is `name`, or with `later` a later turn."""
    messages = [{"role": "user", "content": QUERIES[name].format(number)}]
    for text in later:
        messages += [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": text}]
    status, headers, reply = await proxy.chat(messages=messages)
    assert status == 200, reply
    assert headers["x-drpo-examples"] == f"refuse,{name}"


def preferred(proxy: Serving, name: str) -> str:
    """Return the URL of the backend that a set prefers."""
    found: Sequence[Any] = proxy.gateway.pool.backends_of_set("scripted", set_key("b" * 12, name))
    return str(found[0].url)


@pytest.mark.parametrize("name", ["sky", "sum", "tea"])
async def test_new_conversation_goes_to_the_backend_that_its_set_prefers(name: str) -> None:
    async with scripted_backend(say_yes) as one, scripted_backend(say_yes) as two:
        for _ in range(2):  # two processes without a common state
            async with serving(one.url, two.url, bundles={"scripted": with_sets()}) as proxy:
                before = hits(one, two)
                await ask(proxy, name, 1)
                grown = [now - then for now, then in zip(hits(one, two), before, strict=True)]
                assert grown == [int(preferred(proxy, name) == backend.url) for backend in (one, two)]


@pytest.mark.parametrize("kinds", [["sky"], ["sky"] * 4 + ["tea"], ["sky", "tea"], ["sky", "sum", "tea"]])
async def test_no_backend_gets_much_more_than_its_share_of_requests_one_at_a_time(kinds: list[str]) -> None:
    async with scripted_backend(say_yes) as one, scripted_backend(say_yes) as two:
        async with serving(one.url, two.url, bundles={"scripted": with_sets()}) as proxy:
            for number in range(60):
                await ask(proxy, kinds[number % len(kinds)], number)
            assert max(hits(one, two)) <= 1.3 * 30
            async with proxy.session.get(f"{proxy.url}/metrics") as reply:
                assert 'drpo_set_placements_total{choice="preferred"}' in await reply.text()


async def test_later_turns_go_where_the_first_turn_went_even_if_the_backend_has_its_share() -> None:
    async with scripted_backend(say_yes) as one, scripted_backend(say_yes) as two:
        async with serving(one.url, two.url, bundles={"scripted": with_sets()}) as proxy:
            await ask(proxy, "sky", 1)
            for turn in range(8):
                await ask(proxy, "sky", 1, *["And then?"] * (turn + 1))
            assert sorted(hits(one, two)) == [0, 9]


async def test_sets_of_a_backend_that_is_gone_are_served_by_the_other() -> None:
    async with scripted_backend(say_yes) as one, AsyncExitStack() as running:
        two = await running.enter_async_context(scripted_backend(say_yes))
        async with serving(one.url, two.url, bundles={"scripted": with_sets()}, health_interval=60.0) as proxy:
            for name in QUERIES:
                await ask(proxy, name, 1)
            await running.aclose()
            for name in QUERIES:
                await ask(proxy, name, 2)
        assert sum(hits(one, two)) == 6
        assert hits(one)[0] >= 3


async def test_routers_get_one_session_id_for_all_conversations_and_turns_with_a_set() -> None:
    async with scripted_backend(say_yes) as router:
        async with serving(router.url, bundles={"scripted": with_sets()}) as proxy:
            for number, later in ((1, []), (2, []), (1, ["And then?"])):
                await ask(proxy, "sky", number, *later)
            await ask(proxy, "tea", 1)
            for number in (1, 2):
                await proxy.chat(QUERIES["sky"].format(number), headers={"x-drpo-variant": "raw"})
        sky, other, later, tea, raw, other_raw = [one.headers["X-Session-ID"] for one in router.generating]
        assert sky == other == later != tea
        assert len({sky, tea, raw, other_raw}) == 4, "without a set, each conversation has its own"


@pytest.mark.parametrize("_round", range(3))  # each with other ports, and so with other preferences
async def test_sets_that_prefer_a_backend_are_last_when_its_cache_is_warmed(_round: int) -> None:
    values: dict[str, Any] = {"health_interval": 0.05}
    async with (
        scripted_backend(say_yes) as one,
        scripted_backend(say_yes) as two,
        serving(one.url, two.url, bundles={"scripted": with_sets()}, **values) as proxy,
        warming(proxy.gateway, make_settings(**values), proxy.shared),
    ):
        await until(lambda: min(hits(one, two)) >= 3)
        for backend in (one, two):
            prompts = [request.json["prompt"] for request in backend.generating]
            order = [next(name for name in QUERIES if QUERIES[name][:12] in prompt) for prompt in prompts]
            prefers = [preferred(proxy, name) == backend.url for name in order]
            assert prefers == sorted(prefers)
