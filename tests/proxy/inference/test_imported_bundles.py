"""Tests that the proxy sends a base model the text that the authors of a published prompt send, byte for byte."""

import json
from pathlib import Path

import pytest

from index import __main__ as command
from index.bundle.bundle import load_bundle
from proxy.inference.injection.served_bundles import ServedBundle, serve_bundle
from tests.faults.scripted import Received, Reply, completion, scripted_backend
from tests.index.commands import open_words, run
from tests.index.published.texts import ANSWERS, PROMPT, URIAL, drpo_request, urial_request
from tests.index.words import WordEmbedder
from tests.measurement import DATA, needs_data
from tests.proxy.serving import serving

QUERIES = ("How long does rice boil?", "Wie spät ist es?\n\nIn Rom. ")


@pytest.fixture(autouse=True)
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "open_embedder", open_words)


def imported(tmp_path: Path, origin: str, path: Path) -> ServedBundle:
    out = tmp_path / "bundle"
    model = ("--model", "meta-llama/Meta-Llama-3-8B")
    assert run("import", "--from", origin, path, *model, "--embedder", "words", "--out", out) == 0
    return serve_bundle(load_bundle(out, WordEmbedder()), WordEmbedder())


async def sent(served: ServedBundle, query: str) -> tuple[str, list[str]]:
    """Return the prompt that the backend gets for a query, and the queries of the examples in it, in their order."""

    async def answer(reply: Reply, _request: Received) -> None:
        await reply.whole(completion("\nYes.\n"))

    async with scripted_backend(answer) as backend, serving(backend.url, bundles={"scripted": served}) as proxy:
        status, headers, _ = await proxy.chat(query)
        assert status == 200
        body = backend.generating[-1].json
    assert body["temperature"] == 0
    by_id = {example.id: example.query for example in served.bundle.examples}
    return body["prompt"], [by_id[name] for name in headers["x-drpo-examples"].split(",")]


@pytest.mark.parametrize("query", QUERIES)
async def test_request_in_the_layout_of_urial_is_that_of_the_authors(query: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(URIAL, "utf-8")
    prompt, _ = await sent(imported(tmp_path, "urial", tmp_path / "a.txt"), query)
    assert prompt == urial_request(URIAL, query)


@pytest.mark.parametrize("query", [*QUERIES, next(iter(ANSWERS))])
async def test_request_in_the_layout_of_drpo_is_that_of_the_authors(query: str, tmp_path: Path) -> None:
    (tmp_path / "output.txt").write_text(PROMPT, "utf-8")
    (tmp_path / "ICL_examples.json").write_text(json.dumps(ANSWERS), "utf-8")
    prompt, shown = await sent(imported(tmp_path, "drpo", tmp_path), query)
    assert shown == nearest_first(query, list(ANSWERS))
    assert prompt == drpo_request(PROMPT, ANSWERS, shown, query)


@needs_data
@pytest.mark.parametrize("name", ["inst_1k_v4.txt", "inst_1k_v4.help.txt"])
async def test_request_with_a_published_text_of_urial_is_that_of_the_authors(name: str, tmp_path: Path) -> None:
    path = DATA / "urial" / name
    prompt, _ = await sent(imported(tmp_path, "urial", path), QUERIES[1])
    assert prompt == urial_request(path.read_text("utf-8"), QUERIES[1])


@needs_data
async def test_request_with_the_published_prompt_of_drpo_is_that_of_the_authors(tmp_path: Path) -> None:
    folder = DATA / "drpo"
    answers = json.loads((folder / "icl_examples.json").read_text("utf-8"))
    prompt, shown = await sent(imported(tmp_path, "drpo", folder), QUERIES[0])
    assert shown == nearest_first(QUERIES[0], list(answers))
    assert prompt == drpo_request((folder / "prompt_llama3-8b.txt").read_text("utf-8"), answers, shown, QUERIES[0])


def nearest_first(query: str, queries: list[str]) -> list[str]:
    """Return the three nearest queries, found without the code under test."""
    vectors = WordEmbedder().embed([query, *queries])
    similarities = dict(zip(queries, vectors[1:] @ vectors[0], strict=True))
    return sorted(queries, key=lambda one: -similarities[one])[:3]
