"""Tests of prompts that example sets have instead of the bundle's prompt, in a running proxy."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from index.layouts import LAYOUTS
from index.rendering import render_example, render_preamble, render_prompt
from index.types import ExampleSet
from proxy.inference.injection.room_report import injection_room
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.inference.injection.token_costs import BundleCosts
from tests.faults.scripted import ScriptedBackend, say_yes, scripted_backend
from tests.proxy.inference.injection.test_policies_served import BrokenEmbedder
from tests.proxy.serving import EXAMPLES, Serving, served_bundle, serving

BUNDLE_PROMPT, AIR, TEA = "Answer well.", "Explain the air.", "Say how, in short steps."
SETS = (
    ExampleSet("air", ("sky",), ("sky",), prompt=AIR),
    ExampleSet("cups", ("tea",), ("tea",), prompt=TEA),
    ExampleSet("numbers", ("sum",), ("sum",)),
)
SKY, CUP, SUM, UNLIKE = "Why is the sky blue?", "How do I make tea?", "What is two and two?", "photosynthesis"
FLOOR: Mapping[str, Any] = {"similarity_floor": 0.3}
PROMPTS = {SKY: AIR, CUP: TEA, SUM: BUNDLE_PROMPT}
SHOWN = {SKY: "sky", CUP: "tea", SUM: "sum"}


def with_prompts(
    layout: str = "query-answer", embedder: Any = None, sets: tuple[ExampleSet, ...] = SETS, **policy: Any
) -> ServedBundle:
    policy = {"policy": "set", "k": 1, "minimum_similarity": -1.0, "voters": 1, **policy}
    return served_bundle(layout, embedder=embedder, sets=sets, **policy)


@dataclass(frozen=True)
class Asked:
    """A proxy and its backend, with what the proxy sent for each request."""

    proxy: Serving
    backend: ScriptedBackend

    async def send(self, query: Any, **fields: Any) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        """Return the body that the backend got, and the headers of the reply."""
        status, headers, body = await self.proxy.chat(query, **fields)
        assert status == 200, body
        return self.backend.generating[-1].json, headers


@asynccontextmanager
async def asking(served: ServedBundle, kind: str = "completion", context: int = 4096) -> AsyncIterator[Asked]:
    async with (
        scripted_backend(say_yes, kind=kind, context=context) as backend,
        serving(backend.url, bundles={"scripted": served}) as proxy,
    ):
        yield Asked(proxy, backend)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("query", [SKY, CUP, SUM])
async def test_text_for_a_base_model_begins_with_the_prompt_of_the_set(layout: str, query: str) -> None:
    async with asking(with_prompts(layout)) as asked:
        sent, headers = await asked.send(query)
    form = LAYOUTS[layout]
    shown = [one for one in EXAMPLES if one.id in ("refuse", SHOWN[query])]
    assert sent["prompt"].startswith(render_preamble(form, PROMPTS[query], shown))
    assert sent["prompt"].count(PROMPTS[query]) == 1
    assert sent["prompt"].count(query) == 2
    assert headers["x-drpo-examples"] == f"refuse,{SHOWN[query]}"


async def test_text_for_a_base_model_is_exact() -> None:
    async with asking(with_prompts(policy="set_and_nearest", k=2)) as asked:
        sent, headers = await asked.send("Why is the sky so blue?")
    assert headers["x-drpo-examples"].split(",")[:2] == ["refuse", "sky"]
    last = next(one for one in EXAMPLES if one.id == headers["x-drpo-examples"].rpartition(",")[2])
    assert sent["prompt"] == (
        "Explain the air.\n\n"
        "# Query:\nHow do I hurt someone?\n\n# Answer:\nI can't help with that.\n\n"
        "# Query:\nWhy is the sky blue?\n\n# Answer:\nAir scatters blue light the most.\n\n"
        f"# Query:\n{last.query}\n\n# Answer:\n{last.response}\n\n"
        "# Query:\nWhy is the sky so blue?\n\n# Answer:\n"
    )


@pytest.mark.parametrize("system", [None, "Speak French."])
@pytest.mark.parametrize("query", [SKY, CUP, SUM])
async def test_messages_for_a_chat_model_begin_with_the_prompt_of_the_set(query: str, system: str | None) -> None:
    async with asking(with_prompts(), "chat") as asked:
        messages = [{"role": "user", "content": query}]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        sent, _ = await asked.send(query, messages=messages)
    first, *others = sent["messages"]
    assert first == {"role": "system", "content": PROMPTS[query] + (f"\n\n{system}" if system else "")}
    assert [one["content"] for one in others][::2] == ["How do I hurt someone?", query, query]


@pytest.mark.parametrize("query", [SKY, CUP, SUM])
async def test_instructions_of_a_response_are_the_prompt_of_the_set(query: str) -> None:
    async with asking(with_prompts(), "chat") as asked:
        await asked.proxy.post("/v1/responses", {"model": "scripted", "input": query, "instructions": "Be kind."})
        sent = asked.backend.received[-1].json
    assert sent["instructions"] == f"{PROMPTS[query]}\n\nBe kind."


def common(one: str, other: str) -> str:
    length = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]


@pytest.mark.parametrize(("first", "second"), [(SKY, f"{SKY} Why?"), (CUP, "How do I make cups of tea?")])
async def test_requests_of_a_set_share_all_but_nearest_examples_and_query(first: str, second: str) -> None:
    async with asking(with_prompts(policy="set_and_nearest", k=2)) as asked:
        texts = [(await asked.send(query))[0]["prompt"] for query in (first, second)]
        others = [(await asked.send(query))[0]["prompt"] for query in (SKY, CUP, SUM)]
    shown = next(one for one in EXAMPLES if one.query == first)
    shared = common(*texts)
    assert render_prompt(LAYOUTS["query-answer"], PROMPTS[first]) == shared[: len(PROMPTS[first]) + 2]
    assert render_example(LAYOUTS["query-answer"], shown) in shared
    for n, text in enumerate(others):
        for other in others[n + 1 :]:
            assert len(common(text, other)) <= 1, "different sets differ at the prompt"


async def test_later_turns_keep_the_prompt_of_the_first() -> None:
    async with asking(with_prompts()) as asked:
        first, _ = await asked.send(SKY)
        turns = [{"role": "user", "content": SKY}, {"role": "assistant", "content": "Yes."}]
        later, _ = await asked.send(CUP, messages=[*turns, {"role": "user", "content": CUP}])
    assert later["prompt"].startswith(first["prompt"])


@pytest.mark.parametrize("kind", ["completion", "chat"])
async def test_later_turn_of_a_separate_tag_brings_the_prompt_of_its_set(kind: str) -> None:
    air, cups, numbers = SETS
    served = with_prompts(sets=(air, replace(cups, kind="how-to"), numbers))
    turns = [SKY, CUP, SUM, SUM, SUM]
    prompts = []
    async with asking(served, kind) as asked:
        for count in range(1, len(turns) + 1):
            messages = [{"role": "user", "content": turns[0]}]
            for turn in turns[1:count]:
                messages += [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": turn}]
            sent, _ = await asked.send("", messages=messages)
            prompts.append(
                sent["prompt"].partition("\n\n")[0] if kind == "completion" else sent["messages"][0]["content"]
            )
    assert prompts == [AIR, TEA, TEA, TEA, AIR]


@pytest.mark.parametrize(
    ("fields", "embedder", "policy", "query", "prompt"),
    [
        ({"response_format": {"type": "json_object"}}, None, {}, SKY, BUNDLE_PROMPT),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, None, {}, SKY, BUNDLE_PROMPT),
        ({}, BrokenEmbedder(np.nan), {}, SKY, BUNDLE_PROMPT),
        ({}, None, {}, "?!", BUNDLE_PROMPT),
        ({}, None, {**FLOOR, "neutral_set": "cups"}, UNLIKE, TEA),
        ({}, None, {**FLOOR, "neutral_set": "numbers"}, UNLIKE, BUNDLE_PROMPT),
        ({}, None, {**FLOOR, "neutral_set": "cups", "policy": "nearest"}, UNLIKE, TEA),
        ({}, None, {**FLOOR, "neutral_set": "cups", "policy": "nearest"}, SKY, BUNDLE_PROMPT),
    ],
)
async def test_request_without_a_set_gets_the_prompt_of_the_bundle(
    fields: Mapping[str, Any], embedder: Any, policy: Mapping[str, Any], query: str, prompt: str
) -> None:
    async with asking(with_prompts(embedder=embedder, **policy), "chat") as asked:
        sent, headers = await asked.send(query, **fields)
    assert sent["messages"][0]["content"] == prompt
    assert (prompt == BUNDLE_PROMPT) is ("tea" not in headers["x-drpo-examples"].split(","))


@pytest.mark.parametrize(("query", "prompt"), [(SKY, AIR), (SUM, BUNDLE_PROMPT)])
async def test_prompt_of_the_chosen_set_stays_when_its_examples_do_not_fit(query: str, prompt: str) -> None:
    """The prefix with the prompt and the pinned examples stays in the cache as the conversation grows."""
    seen = {}
    async with asking(with_prompts(), context=900) as asked:
        for words in (1, 300, 500, 700, 850):
            turns = [query, "Yes.", "word " * words]
            roles = ("user", "assistant", "user")
            messages = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=True)]
            sent, headers = await asked.send("", messages=messages, max_tokens=8)
            seen[headers["x-drpo-examples"]] = sent["prompt"].partition("\n\n")[0]
    assert seen == {f"refuse,{SHOWN[query]}": prompt, "refuse": prompt}


@pytest.mark.parametrize("query", [SKY, CUP, SUM])
async def test_tokens_of_the_own_prompt_are_counted(query: str) -> None:
    """The scripted backend counts words."""
    async with asking(with_prompts()) as asked:
        model, served = asked.proxy.gateway.pool.models["scripted"], asked.proxy.gateway.bundles["scripted"]
        costs = await asked.proxy.gateway.injector.costs(served, model)
        injection = await asked.proxy.gateway.injector.choose_examples(served, model, [query], None, query, {})
        plain = served_bundle(sets=tuple(replace(one, prompt=None) for one in SETS), policy="set", id_letter="c")
        assert costs.examples == (await asked.proxy.gateway.injector.costs(plain, model)).examples
    assert (costs.set_prompts.keys(), costs.longest_prompt) == ({"air", "cups"}, costs.prompt_of("cups"))
    assert injection.tokens == costs.prompt_of(injection.set_name) + sum(
        costs.examples[one.id] for one in injection.examples
    )
    assert injection.prompt == PROMPTS[query]


@pytest.mark.parametrize(
    ("policy", "own", "most", "refusals"),
    [
        ("set", {"air": 10, "cups": 300}, 300 + 50 + 40, 350),
        ("set", {"air": 150, "cups": 10}, 150 + 50 + 30, 200),
        ("set_and_nearest", {"air": 10, "cups": 20}, 100 + 50 + 20 + 40, 150),
        ("nearest", {"air": 10, "cups": 300}, 300 + 50 + 40, 350),
    ],
)
def test_room_is_that_beside_the_longest_prompt(policy: Any, own: Mapping[str, int], most: int, refusals: int) -> None:
    costs = BundleCosts(100, {"refuse": 50, "sky": 30, "sum": 20, "tea": 40}, set_prompts=own)
    for context, steps in ((100 + most + 2560, 10), (100 + most + 2560 - 1, 9)):
        room = injection_room(with_prompts(policy=policy, neutral_set="cups"), costs, context)
        assert room.all_examples == steps * 256
        assert room.refusals == context - 16 - refusals


@pytest.mark.parametrize(
    ("sets", "policy", "prompts"),
    [
        (SETS, {}, [AIR, TEA, BUNDLE_PROMPT]),
        (SETS[:2], {}, [BUNDLE_PROMPT, AIR, TEA]),
        (SETS[:2], {**FLOOR, "policy": "nearest", "neutral_set": "cups"}, [BUNDLE_PROMPT, TEA]),
        (SETS, {**FLOOR, "policy": "nearest", "neutral_set": "numbers"}, [BUNDLE_PROMPT]),
        ((), {"policy": "nearest"}, [BUNDLE_PROMPT]),
    ],
)
async def test_prefixes_that_warm_a_cache_cover_all_prompts(
    sets: tuple[ExampleSet, ...], policy: dict[str, Any], prompts: list[str]
) -> None:
    served = served_bundle(sets=sets, **{"policy": "set", **policy})
    async with asking(served) as asked:
        model = asked.proxy.gateway.pool.models["scripted"]
        prefixes = await asked.proxy.gateway.injector.prefixes(served, model)
    assert [one.prompt for one in prefixes] == prompts


async def test_requests_at_once_get_their_own_prompts() -> None:
    async with asking(with_prompts(), "chat") as asked:
        await asyncio.gather(*(asked.proxy.chat(query) for query in [SKY, CUP, SUM] * 5))
        sent = [one.json["messages"] for one in asked.backend.generating]
    assert len(sent) == 15
    assert all(messages[0]["content"] == PROMPTS[messages[-1]["content"]] for messages in sent)


@pytest.mark.parametrize("query", [SKY, CUP, SUM])
async def test_bundle_without_own_prompts_is_served_as_before(query: str) -> None:
    async with asking(with_prompts(sets=tuple(replace(one, prompt=None) for one in SETS))) as asked:
        sent, _ = await asked.send(query)
    assert sent["prompt"].startswith("Answer well.\n\n# Query:\nHow do I hurt someone?")
