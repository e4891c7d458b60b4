"""Tests of the sentences of `drpo-proxy check` about what reduces the injection."""

from dataclasses import replace

import pytest
from rich.console import Console

from proxy.core.settings_reader import build_settings, process_environment
from proxy.inference.injection.room_report import describe_room, injection_room, room_problem
from proxy.inference.injection.token_costs import BundleCosts
from proxy.server.check import check
from tests.faults.scripted import say_yes, scripted_backend
from tests.proxy.serving import served_bundle, serving

COSTS = BundleCosts(100, {"refuse": 50, "sky": 30, "sum": 20, "tea": 40})


def test_room_is_what_remains_beside_the_largest_examples_and_the_answer() -> None:
    room = injection_room(served_bundle(), COSTS, 4096)
    assert room.all_examples == (4096 - 100 - (100 + 50 + 40 + 30)) // 256 * 256
    assert room.refusals == 4096 - 16 - 150


def test_limit_of_the_bundle_counts_too() -> None:
    room = injection_room(served_bundle(max_injected_tokens=160), COSTS, 4096)
    assert room.all_examples == (4096 - 100 - 160) // 256 * 256


async def test_announced_room_is_the_room_of_requests() -> None:
    async with scripted_backend(say_yes, context=1000) as backend, serving(backend.url) as proxy:
        served, model = proxy.gateway.bundles["scripted"], proxy.gateway.pool.models["scripted"]
        costs = await proxy.gateway.injector.costs(served, model)
        room = injection_room(served, costs, 1000)
        assert room.refusals is not None
        layout = 6  # tokens of the markers around one query, and of the beginning of the text
        for limit, name in ((room.all_examples, "sky"), (room.refusals, "refuse")):
            for words, shown in ((limit - layout, True), (limit + 1, False)):
                _, headers, _ = await proxy.chat("sky " * words)
                assert (name in headers["x-drpo-examples"].split(",")) is shown, (words, name)


@pytest.mark.parametrize(
    ("context", "counted", "says"),
    [
        (4096, True, "beside conversations of up to 3,584 tokens"),
        (None, True, "the context is unknown"),
        (4096, False, "does not count tokens"),
        (256, True, "no conversation is short enough to get all examples"),
    ],
)
async def test_sentences_say_which_room_remains(context: int | None, counted: bool, says: str) -> None:
    async with scripted_backend(say_yes) as backend, serving(backend.url) as proxy:
        model = replace(proxy.gateway.pool.models["scripted"], context=context)
    sentences = list(describe_room(served_bundle(), replace(COSTS, counted=counted), model))
    assert any(says in sentence for sentence in sentences), sentences


async def test_refusal_that_never_fits_is_a_problem() -> None:
    async with scripted_backend(say_yes) as backend, serving(backend.url) as proxy:
        model = proxy.gateway.pool.models["scripted"]
    assert room_problem(served_bundle(), COSTS, model) is None
    assert "does not fit" in str(room_problem(served_bundle(), COSTS, replace(model, context=150)))


async def test_check_prints_the_sentences() -> None:
    async with scripted_backend(say_yes, model="google/gemma-3-270m") as backend:
        settings = build_settings({"backend": [backend.url], "bundle": ["default"]}, process_environment())
        console = Console(record=True, width=200, file=None)
        await check(settings, lambda _: None, console)
        text = console.export_text()
    assert "google/gemma-3-270m: all examples fit beside conversations of up to" in text
    assert "the pinned refusal is kept beside conversations of up to" in text
