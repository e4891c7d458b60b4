"""Tests of conversations in a running proxy: which turn chooses the examples, in both APIs, for both kinds of models.

The small bundle has a set of a separate tag with the example about tea.
"""

from itertools import pairwise
from typing import Any

import pytest

from proxy.backends.set_plan import set_key
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.openai.conversation import read_chat, read_completion, read_response
from tests.faults.scripted import say_yes, scripted_backend
from tests.proxy.inference.injection.test_turns import FOLLOW_UP, SETS, SKY, SUM, TEA
from tests.proxy.serving import Serving, served_bundle, serving

AIR, APART = ["refuse", "sky"], ["refuse", "tea"]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
WITH_DOCUMENTS = f"### Task:\nAnswer from the context.\n<context>\nWhy is the sky blue?\n</context>\n\n{TEA}"
CALL = {"type": "function_call", "call_id": "1", "name": "kettle", "arguments": "{}"}
CALL_OUTPUT = {"type": "function_call_output", "call_id": "1", "output": TEA}


def bundle() -> ServedBundle:
    return served_bundle(sets=SETS, policy="set_and_nearest", k=1, similarity_floor=0.2, neutral_set="numbers")


def conversation(*turns: Any) -> list[dict[str, Any]]:
    """Return the messages of a conversation, of which these are the user turns."""
    messages: list[dict[str, Any]] = []
    for turn in turns:
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": "Yes."}]
    return messages[:-1]


async def examples(proxy: Serving, path: str, messages: list[dict[str, Any]]) -> list[str]:
    name = "input" if path == "/v1/responses" else "messages"
    status, headers, reply = await proxy.post(path, {"model": "scripted", name: messages})
    assert status == 200, reply
    return str(headers["x-drpo-examples"]).split(",")


@pytest.mark.parametrize("kind", ["chat", "completion"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
async def test_turn_of_a_separate_tag_changes_the_examples_for_three_turns(kind: str, path: str) -> None:
    async with (
        scripted_backend(say_yes, kind=kind) as backend,
        serving(backend.url, bundles={"scripted": bundle()}) as proxy,
    ):
        turns = (SKY, SUM, FOLLOW_UP, TEA, FOLLOW_UP, SKY, SUM, FOLLOW_UP)
        seen = [await examples(proxy, path, conversation(*turns[:count])) for count in range(1, len(turns) + 1)]
        assert seen == [AIR] * 3 + [APART] * 3 + [AIR] * 2
        if kind == "completion":
            prompts = [request.json["prompt"] for request in backend.generating[-8:]]
            extends = [later.startswith(before) for before, later in pairwise(prompts)]
            assert extends == [True, True, False, True, True, False, True]
            assert prompts[6].startswith(prompts[2])  # what the cache of its backend holds


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (conversation(SKY, [{"type": "text", "text": TEA}, IMAGE]), APART),
        (conversation(SKY, [IMAGE]), AIR),
        (conversation([IMAGE], SKY, TEA), APART),
        ([{"role": "system", "content": TEA}, *conversation(SKY, SUM)], AIR),
        ([*conversation(SKY, SUM), {"role": "system", "content": TEA}, {"role": "user", "content": SUM}], AIR),
        ([{"role": "system", "content": "Be brief."}, *conversation(SKY, TEA)], APART),
        ([*conversation(SKY), {"role": "assistant", "content": TEA}, {"role": "user", "content": SUM}], AIR),
        (conversation(SKY, WITH_DOCUMENTS, FOLLOW_UP), APART),
        (conversation(SKY, "!!!", "..."), AIR),
    ],
)
async def test_only_what_the_user_wrote_decides(messages: list[dict[str, Any]], expected: list[str]) -> None:
    async with (
        scripted_backend(say_yes, kind="chat") as backend,
        serving(backend.url, bundles={"scripted": bundle()}) as proxy,
    ):
        assert await examples(proxy, "/v1/chat/completions", messages) == expected


async def test_conversation_goes_to_the_backend_of_the_set_that_it_is_shown() -> None:
    async with scripted_backend(say_yes) as one, scripted_backend(say_yes) as two:
        async with serving(one.url, two.url, bundles={"scripted": bundle()}) as proxy:
            for turns, name in (((SKY,), "air"), ((SKY, TEA), "apart"), ((SKY, TEA, SUM), "apart")):
                before = len(one.generating)
                await examples(proxy, "/v1/chat/completions", conversation(*turns))
                wanted: Any = proxy.gateway.pool.backends_of_set("scripted", set_key("b" * 12, name))
                assert (len(one.generating) > before) == (str(wanted[0].url) == one.url)


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([], []),
        (conversation(SKY, SUM), [SKY, SUM]),
        (conversation("?", SKY, " \n", SUM), [SKY, SUM]),
        (conversation("?", [IMAGE]), []),
        (conversation(WITH_DOCUMENTS, SUM), [TEA, SUM]),
        ([{"role": "system", "content": "S"}, {"role": "assistant", "content": "A"}], []),
        ([*conversation(SKY), {"role": "tool", "content": TEA}], [SKY]),
    ],
)
def test_queries_are_the_user_turns_with_words(messages: list[dict[str, Any]], expected: list[str]) -> None:
    assert list(read_chat({"messages": messages}).queries) == expected
    assert list(read_response({"input": [*messages, CALL, CALL_OUTPUT]}).queries) == expected


def test_input_of_one_text_is_the_only_query() -> None:
    assert list(read_response({"input": SKY}).queries) == [SKY]
    assert list(read_completion({"prompt": SKY}).queries) == []
