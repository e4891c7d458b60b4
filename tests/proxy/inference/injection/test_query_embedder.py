"""Tests of --query-embedder: which embedder embeds queries, and what a reload keeps."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from index.embedders.minilm import OnnxEmbedder
from index.embedders.student import FastEmbedder
from proxy.core.errors import StartupError
from proxy.inference.injection import served_bundles as live
from proxy.inference.injection.served_bundles import load_bundles
from tests.proxy.serving import WordEmbedder, served_bundle


def test_queries_are_embedded_by_the_bundles_embedder_by_default() -> None:
    assert isinstance(load_bundles(("m=default",), ())["m"].search.embedder, OnnxEmbedder)


def test_reload_keeps_the_fast_embedder_and_its_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_bundles(("m=default",), (), "fast")
    embedder = first["m"].search.embedder
    assert isinstance(embedder, FastEmbedder)
    example = next(one for one in first["m"].bundle.examples if not one.pinned)
    assert first["m"].search.retriever.nearest(embedder.embed([example.query])[0])[0].example == example
    monkeypatch.setattr(live, "open_embedder", None)
    assert load_bundles(("m=default",), (), "fast", first.values())["m"].search.embedder is embedder
    assert load_bundles(("m=default",), (), "own", first.values())["m"].search.embedder is embedder.teacher


def test_fast_is_refused_for_a_bundle_of_another_embedder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundle = served_bundle().bundle
    bundle = replace(bundle, manifest=replace(bundle.manifest, embedder=WordEmbedder().spec))
    monkeypatch.setattr(live, "read_manifest", lambda _: SimpleNamespace(embedder=WordEmbedder().spec))
    monkeypatch.setattr(live, "open_embedder", lambda _: WordEmbedder())
    monkeypatch.setattr(live, "load_bundle", lambda *_: bundle)
    with pytest.raises(StartupError, match=r"--query-embedder fast: it follows onnx, .* are from words; leave"):
        load_bundles((f"m={tmp_path}",), ("words",), "fast")
