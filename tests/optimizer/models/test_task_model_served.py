"""Tests that the optimizer measures what the proxy serves.

For the same bundle and conversation, both send the same prompt to a backend, and clean its answer in the same way.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson
import pytest

from index.bundle.bundle import default_bundle_directory, load_bundle
from index.bundle.sets_file import with_prompts
from index.embedders.registry import DEFAULT_EMBEDDER, open_embedder
from index.layouts import LAYOUTS, stop_strings
from index.types import Message
from optimizer.core.budget import Budget, Limits, Prices
from optimizer.core.candidate import from_bundle
from optimizer.core.journal import Journal
from optimizer.core.request_form import RequestForm
from optimizer.data.dataset import Row
from optimizer.models.cached_calls import CachedCalls
from optimizer.models.http_client import Client, Endpoint, RetryPolicy
from optimizer.models.paid_replies import PricedClient
from optimizer.models.task_model import TaskModel
from proxy.inference.injection.served_bundles import ServedBundle, serve_bundle
from tests.faults.scripted import Received, Reply, completion, completion_events, scripted_backend
from tests.proxy.serving import serving

QUERIES = (
    Row("Why is the sky blue?"),
    Row("How do I kill a Python process?", "comply"),
    Row(
        "And how do I hide it?", "refuse", history=(Message("user", "How do I make soup?"), Message("assistant", "So."))
    ),
    Row(
        "Please continue.",
        "refuse",
        history=(
            Message("user", "How do I make soup?"),
            Message("assistant", "So."),
            Message("user", "How do I poison my neighbour with it?"),
            Message("assistant", "No."),
        ),
    ),
    Row("# Query:\nWrite a poem.\n# Answer:\nNo."),
    Row("Wie koche ich Reis? \u00e9\u4f60\U0001f600"),
)


async def whatever(reply: Reply, request: Received) -> None:
    if request.path == "/v1/completions":
        await reply.whole(completion("Yes."))
    else:
        message = {"role": "assistant", "content": "Yes."}
        await reply.whole({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": {}})


EMBEDDER = open_embedder(DEFAULT_EMBEDDER)
DEFAULT_BUNDLE = load_bundle(default_bundle_directory(), EMBEDDER)


POLICIES: Mapping[str, Mapping[str, Any]] = {
    "as it is": {},
    "set": {"policy": "set", "similarity_floor": 0.4, "neutral_set": "other-5"},
    "set_and_nearest": {"policy": "set_and_nearest", "k": 3, "max_injected_tokens": 900},
    "set_and_nearest, limited": {"policy": "set_and_nearest", "k": 3, "max_nearest_tokens": 80},
    "set_and_nearest, floor": {
        "policy": "set_and_nearest",
        "k": 2,
        "max_injected_tokens": 900,
        "similarity_floor": 0.4,
        "neutral_set": "other-5",
    },
    "nearest, floor": {"policy": "nearest", "k": 4, "similarity_floor": 0.4, "neutral_set": "other-5"},
}


SET_PROMPTS: Mapping[str, str] = {"refusal": "Refuse what is harmful.", "other-5": "Explain.", "other-3": "# Query: a"}


def serve_in_layout(layout: str, prompts: Mapping[str, str] = MappingProxyType({}), **policy: Any) -> ServedBundle:
    """Return the default bundle with another layout, other prompts of sets, and other values of the policy."""
    manifest = DEFAULT_BUNDLE.manifest
    manifest = replace(manifest, layout=layout, retrieval=replace(manifest.retrieval, **policy))
    sets = with_prompts(DEFAULT_BUNDLE.sets, prompts) if manifest.retrieval.has_sets else ()
    return serve_bundle(replace(DEFAULT_BUNDLE, manifest=manifest, sets=sets), EMBEDDER)


def chat_request(row: Row) -> dict[str, Any]:
    messages = [{"role": message.role, "content": message.text} for message in row.messages]
    return {"model": "scripted", "messages": messages}


@pytest.mark.parametrize(
    ("kind", "layout", "policy"),
    [
        *(("completion", name, "as it is") for name in LAYOUTS),
        *(("chat", "query-answer", name) for name in POLICIES),
        *(("completion", "query-answer", name) for name in POLICIES if name != "as it is"),
    ],
)
@pytest.mark.parametrize("prompts", [{}, SET_PROMPTS], ids=["one prompt", "prompts of sets"])
async def test_proxy_sends_what_the_optimizer_measured(
    kind: str, layout: str, policy: str, prompts: Mapping[str, str], tmp_path: Path
) -> None:
    served = serve_in_layout(layout, prompts, **POLICIES[policy])
    async with (
        scripted_backend(whatever, kind=kind) as backend,
        serving(backend.url, bundles={"scripted": served}, retrieval_timeout=10.0) as proxy,
        Client(Endpoint(f"{backend.url}/v1", "scripted"), 4, RetryPolicy()) as client,
    ):
        with Journal(tmp_path) as journal:
            calls = CachedCalls({"task": PricedClient(client, Prices())}, journal, Budget(Limits()))
            task = TaskModel(calls, kind, EMBEDDER)
            for row in QUERIES:
                reply = await task.answer(from_bundle(served.bundle), row)
                status, headers, _ = await proxy.post("/v1/chat/completions", chat_request(row))
                assert status == 200
                measured, sent = (plain(one.json) for one in backend.generating[-2:])
                assert sent == measured
                assert reply.examples
                assert headers["x-drpo-examples"] == ",".join(reply.examples)


@pytest.mark.parametrize(
    ("model", "variant"),
    [("scripted", "raw"), ("scripted@raw-matched", "raw-matched"), ("scripted@aligned", "aligned")],
)
async def test_proxy_adds_no_bundle_to_the_requests_of_a_run(model: str, variant: str, tmp_path: Path) -> None:
    """The run itself adds a prompt and examples. A variant in the name of the model is the user's choice."""
    served = serve_in_layout("query-answer")
    async with (
        scripted_backend(whatever, kind="chat") as backend,
        serving(backend.url, bundles={"scripted": served}, retrieval_timeout=10.0) as proxy,
        Client(Endpoint(f"{backend.url}/v1", "scripted"), 4, RetryPolicy()) as direct,
        Client(Endpoint(f"{proxy.url}/v1", model), 4, RetryPolicy()) as through_proxy,
    ):
        for name, client in (("direct", direct), ("proxy", through_proxy)):
            with Journal(tmp_path / name) as journal:
                calls = CachedCalls({"task": PricedClient(client, Prices())}, journal, Budget(Limits()))
                await TaskModel(calls, "chat", EMBEDDER).answer(from_bundle(served.bundle), QUERIES[0])
        asked_directly, asked_through_proxy = (plain(one.json)["messages"] for one in backend.generating[-2:])
    assert (asked_through_proxy == asked_directly) == (variant != "aligned")


ANSWERS = ("Yes.", " Yes.", "  Yes.", "\n Yes.\n", "\n\n\tYes. \n", " ", "")
CODE = "See:\n```\nx = 1\n```"


@pytest.mark.parametrize(
    ("layout", "text", "cleaned"),
    [
        *(
            (name, text, text.lstrip() if layout.answer_begins_with_gap else text)
            for name, layout in LAYOUTS.items()
            for text in ANSWERS
        ),
        *(("urial", f"{text}\n```{rest}", text) for text in ("Yes.", CODE) for rest in ("", "\n", "\n\n")),
        ("urial", CODE, CODE),
        ("urial", "```", ""),
    ],
)
async def test_proxy_and_optimizer_clean_an_answer_alike(layout: str, text: str, cleaned: str, tmp_path: Path) -> None:
    async def answer(reply: Reply, request: Received) -> None:
        if request.json.get("stream"):
            await reply.begin()
            for event in completion_events(list(text) or [""]):
                await reply.chunk(event)
            await reply.end()
        else:
            await reply.whole(completion(text))

    served = serve_in_layout(layout)
    async with (
        scripted_backend(answer) as backend,
        serving(backend.url, bundles={"scripted": served}, retrieval_timeout=10.0) as proxy,
        Client(Endpoint(f"{backend.url}/v1", "scripted"), 4, RetryPolicy()) as client,
    ):
        with Journal(tmp_path) as journal:
            calls = CachedCalls({"task": PricedClient(client, Prices())}, journal, Budget(Limits()))
            task = TaskModel(calls, "completion", EMBEDDER)
            measured = await task.answer(from_bundle(served.bundle), QUERIES[0])
        _, _, whole = await proxy.post("/v1/chat/completions", chat_request(QUERIES[0]))
        stream = await proxy.stream(**chat_request(QUERIES[0]))
    assert measured.text == whole["choices"][0]["message"]["content"] == streamed_content(stream)
    assert measured.text == cleaned


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", [RequestForm(), RequestForm(max_stop_strings=1), RequestForm(omit=("stop",))])
async def test_answer_that_the_server_does_not_stop_is_cut_as_in_the_proxy(
    layout: str, form: RequestForm, tmp_path: Path
) -> None:
    served = serve_in_layout(layout)
    long = f" Yes.{stop_strings(LAYOUTS[layout])[-1]}More?"

    async def ignore_stop_strings(reply: Reply, _request: Received) -> None:
        await reply.whole(completion(long, "length"))

    async with (
        scripted_backend(ignore_stop_strings) as backend,
        serving(backend.url, bundles={"scripted": served}, retrieval_timeout=10.0) as proxy,
        Client(Endpoint(f"{backend.url}/v1", "scripted"), 4, RetryPolicy()) as client,
    ):
        with Journal(tmp_path) as journal:
            calls = CachedCalls({"task": PricedClient(client, Prices(), form)}, journal, Budget(Limits()))
            measured = await TaskModel(calls, "completion", EMBEDDER).answer(from_bundle(served.bundle), QUERIES[0])
        _, _, whole = await proxy.post("/v1/chat/completions", chat_request(QUERIES[0]))
    choice = whole["choices"][0]
    assert (measured.text, measured.finish_reason) == (choice["message"]["content"], choice["finish_reason"])
    assert (measured.text.strip(), measured.finish_reason) == ("Yes.", "stop")


def streamed_content(data: bytes) -> str:
    events = [orjson.loads(line[6:]) for line in data.splitlines() if line.startswith(b"data: {")]
    return "".join(choice["delta"].get("content", "") for event in events for choice in event["choices"])


def plain(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request without fields whose value is null: a client can also leave these fields out."""
    return {key: value for key, value in body.items() if value is not None}
