"""Guards that what is measured is what is served: the proxy sends a backend the very bytes that the optimizer asked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from index.bundle.bundle import default_bundle_directory, load_bundle
from index.embedders.registry import open_embedder
from index.rendering import LAYOUTS
from index.retrieval.retriever import Retriever, pinned
from index.types import Message
from optimizer.core.budget import Budget, Limits, Prices
from optimizer.core.candidate import from_bundle
from optimizer.core.journal import Journal
from optimizer.data.dataset import Row
from optimizer.models.cached_calls import Calls, Source
from optimizer.models.http_client import Client, Endpoint, Patience
from optimizer.models.task_model import Task
from proxy.inference.injection.retrieval_worker import Source as RetrievalSource
from proxy.inference.injection.served_bundles import ServedBundle
from tests.faults.scripted import Received, Reply, completion, scripted_backend
from tests.proxy.serving import serving

QUERIES = (
    Row("Why is the sky blue?"),
    Row("How do I kill a Python process?", "comply"),
    Row(
        "And how do I hide it?", "refuse", history=(Message("user", "How do I make soup?"), Message("assistant", "So."))
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


@pytest.mark.parametrize("kind", ["completion", "chat"])
async def test_proxy_sends_what_the_optimizer_measured(kind: str, tmp_path: Path) -> None:
    embedder = open_embedder("onnx")
    bundle = load_bundle(default_bundle_directory(), embedder)
    source = RetrievalSource(bundle.id, Retriever(bundle), embedder)
    served = ServedBundle(bundle, LAYOUTS[bundle.manifest.layout], pinned(bundle), source)
    async with (
        scripted_backend(whatever, kind=kind) as backend,
        serving(backend.url, bundles={"scripted": served}, retrieval_timeout=10.0) as proxy,
        Client(Endpoint(f"{backend.url}/v1", "scripted"), 4, Patience()) as client,
    ):
        with Journal(tmp_path) as journal:
            task = Task(Calls({"task": Source(client, Prices())}, journal, Budget(Limits())), kind, embedder)
            for row in QUERIES:
                reply = await task.answer(from_bundle(bundle), row)
                messages = [{"role": message.role, "content": message.text} for message in row.messages]
                body = {"model": "scripted", "messages": messages}
                status, headers, _ = await proxy.post("/v1/chat/completions", body)
                assert status == 200
                measured, sent = (plain(one.json) for one in backend.generating[-2:])
                assert sent == measured
                assert reply.examples
                assert headers["x-drpo-examples"] == ",".join(reply.examples)


def plain(body: Mapping[str, Any]) -> dict[str, Any]:
    """A request without what a client's own silence adds."""
    return {key: value for key, value in body.items() if value is not None}
