"""Tests that the pinned refusal stays in a request with fewer examples, and that each reduction is reported."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.core.log import log_lines
from proxy.inference.injection.retrieval_worker import RetrievalResult
from tests.faults.scripted import Received, Reply, completion, scripted_backend
from tests.proxy.serving import Serving, served_bundle, serving

USER = {"role": "user", "content": "Why is the sky blue?"}
REFUSAL = "I can't help with that."
REDUCTIONS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "prefill": ("prefill", {"messages": [USER, {"role": "assistant", "content": "Because"}]}),
    "no_query": ("no_query", {"messages": [{"role": "user", "content": ""}]}),
    "long system message": ("context", {"messages": [{"role": "system", "content": "word " * 900}, USER]}),
    "long history": (
        "context",
        {"messages": [USER, {"role": "assistant", "content": "word " * 900}, {"role": "user", "content": "And?"}]},
    ),
    "long query": ("context", {"messages": [{"role": "user", "content": "word " * 900}]}),
    "large max_tokens and a long query": (
        "context",
        {"messages": [{"role": "user", "content": "word " * 900}], "max_tokens": 90},
    ),
}


async def answer(reply: Reply, request: Received) -> None:
    await reply.whole(completion("Because of air."))


async def metrics(proxy: Serving) -> str:
    async with proxy.session.get("/metrics") as response:
        return await response.text()


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("kind", ["completion", "chat"])
async def test_pinned_refusal_stays_where_it_fits(kind: str, name: str) -> None:
    reason, fields = REDUCTIONS[name]
    async with scripted_backend(answer, kind=kind, context=1000) as backend, serving(backend.url) as proxy:
        status, headers, _ = await proxy.chat(**fields)
        assert (status, headers["x-drpo-reduced"], headers["x-drpo-examples"]) == (200, reason, "refuse")
        assert "x-drpo-refusal" not in headers
        assert REFUSAL in backend.generating[-1].body.decode()
        page = await metrics(proxy)
    assert f'drpo_injection_reduced_total{{reason="{reason}"}} 1.0' in page
    assert "drpo_refusal_left_out_total 0.0" in page


@pytest.mark.parametrize("reason", ["timeout", "embedder"])
async def test_pinned_refusal_stays_if_retrieval_fails(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def find(*_: object) -> RetrievalResult:
        return RetrievalResult(degraded=reason)

    async with scripted_backend(answer) as backend, serving(backend.url) as proxy:
        monkeypatch.setattr(proxy.gateway.injector._retrieval, "find_by_turns", find)
        _, headers, _ = await proxy.chat()
        assert (headers["x-drpo-reduced"], headers["x-drpo-examples"]) == (reason, "refuse")
        assert f'drpo_injection_reduced_total{{reason="{reason}"}} 1.0' in await metrics(proxy)


async def test_failed_retrieval_and_a_full_context_are_both_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    async def find(*_: object) -> RetrievalResult:
        return RetrievalResult(degraded="timeout")

    async with scripted_backend(answer, context=1000) as backend, serving(backend.url) as proxy:
        monkeypatch.setattr(proxy.gateway.injector._retrieval, "find_by_turns", find)
        _, headers, _ = await proxy.chat("word " * 970)
        assert (headers["x-drpo-reduced"], headers["x-drpo-refusal"]) == ("timeout, context", "left-out")
        page = await metrics(proxy)
    assert 'drpo_injection_reduced_total{reason="timeout"} 1.0' in page
    assert 'drpo_injection_reduced_total{reason="context"} 1.0' in page


@pytest.mark.parametrize(
    ("reason", "fields"),
    [
        ("response_format", {"response_format": {"type": "json_object"}}),
        ("structured_outputs", {"structured_outputs": {"choice": ["a"]}}),
    ],
)
@pytest.mark.parametrize("kind", ["completion", "chat"])
async def test_request_for_json_gets_no_refusal_in_prose(kind: str, reason: str, fields: dict[str, Any]) -> None:
    async with scripted_backend(answer, kind=kind) as backend, serving(backend.url) as proxy:
        _, headers, _ = await proxy.chat(**fields)
        assert (headers["x-drpo-reduced"], headers["x-drpo-examples"]) == (reason, "")
        assert headers["x-drpo-refusal"] == "left-out"
        assert "drpo_refusal_left_out_total 1.0" in await metrics(proxy)


@pytest.mark.parametrize("fields", [{}, {"tools": [], "stop": "x"}])
@pytest.mark.parametrize("kind", ["completion", "chat"])
async def test_refusal_that_does_not_fit_is_counted(kind: str, fields: dict[str, Any]) -> None:
    async with scripted_backend(answer, kind=kind, context=1000) as backend, serving(backend.url) as proxy:
        status, headers, _ = await proxy.chat("word " * 970, **fields)
        assert (status, headers["x-drpo-examples"], headers["x-drpo-refusal"]) == (200, "", "left-out")
        assert headers["x-drpo-reduced"].endswith("context")
        assert "drpo_refusal_left_out_total 1.0" in await metrics(proxy)


async def test_log_line_names_the_reduction(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file, log_lines("json", file):
        async with scripted_backend(answer, context=1000) as backend, serving(backend.url) as proxy:
            await proxy.chat("word " * 970)
            await proxy.chat()
    lines = map(orjson.loads, (tmp_path / "log").read_text().splitlines())
    logged = [(line.get("reduced"), line.get("refusal")) for line in lines if line["event"] == "request"]
    assert logged == [("context", "left-out"), (None, None)]


@pytest.mark.parametrize("fields", [{"previous_response_id": "resp_1"}, {"conversation": "conv_1"}])
async def test_stored_conversation_has_no_place_for_examples(fields: dict[str, Any]) -> None:
    async with scripted_backend(answer, kind="chat") as backend, serving(backend.url) as proxy:
        body = {"model": "scripted", "input": "Why is the sky blue?", **fields}
        _, headers, _ = await proxy.post("/v1/responses", body)
        assert (headers["x-drpo-reduced"], headers["x-drpo-refusal"]) == ("previous_response", "left-out")


async def test_pinned_example_that_is_no_refusal_goes_before_the_refusal() -> None:
    bundle = served_bundle()
    pinned = (bundle.bundle.examples[1], bundle.bundle.examples[0])
    bundles = {"scripted": type(bundle)(bundle.bundle, bundle.layout, pinned, bundle.search)}
    async with scripted_backend(answer, context=1000) as backend, serving(backend.url, bundles=bundles) as proxy:
        kept = [(await proxy.chat("word " * words))[1]["x-drpo-examples"] for words in (600, 720, 900, 970)]
    assert kept[-2:] == ["refuse", ""]
    assert kept[0].startswith("sky,refuse")


async def test_request_with_all_examples_reports_nothing() -> None:
    async with scripted_backend(answer) as backend, serving(backend.url) as proxy:
        _, headers, _ = await proxy.chat()
        assert not {"x-drpo-reduced", "x-drpo-refusal", "x-drpo-max-tokens"} & headers.keys()
        assert "drpo_injection_reduced_total{" not in await metrics(proxy)
