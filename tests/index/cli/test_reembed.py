"""Tests of `drpo-index reembed`."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index import __main__ as command
from index.bundle.bundle import load_bundle, read_bundle, write_bundle
from index.bundle.bundle_input import BundleInput
from index.embedders.base import Embedder
from index.embedders.registry import open_embedder
from index.errors import EmbedderError
from index.types import EmbedderSpec, Example, ExampleSet, RetrievalPolicy
from tests.index.commands import drpo_index, run
from tests.index.words import WordEmbedder, bundle_input

NAMED = {"other": WordEmbedder("other", 32)}
NAMED["other"].spec = EmbedderSpec("other", "other", 32)


def open_named(name: str) -> Embedder:
    if name not in NAMED:
        raise EmbedderError(f"there is no embedder called {name}")
    return NAMED[name]


@pytest.fixture(autouse=True)
def embedders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "open_embedder", open_named)


def in_sets() -> BundleInput:
    voters = tuple(example.id for example in bundle_input().examples if not example.pinned)
    policy = RetrievalPolicy("set", voters=2)
    return replace(bundle_input(policy=policy), sets=(ExampleSet("all", voters[:2], voters),))


@pytest.mark.parametrize(
    ("source", "advice"),
    [
        (bundle_input(policy=RetrievalPolicy(k=2, minimum_similarity=-1.0)), False),
        (bundle_input(policy=RetrievalPolicy(k=1, minimum_similarity=0.2)), True),
        (in_sets(), True),
    ],
    ids=["plain", "floor", "sets"],
)
def test_only_the_vectors_and_the_embedder_change(
    source: BundleInput, advice: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = write_bundle(tmp_path / "before", source, WordEmbedder())
    assert run("reembed", tmp_path / "before", "--embedder", "other", "--out", tmp_path / "after") == 0
    after = load_bundle(tmp_path / "after", NAMED["other"])
    assert after.manifest.embedder == NAMED["other"].spec
    assert np.array_equal(after.vectors, NAMED["other"].embed([example.query for example in after.examples]))
    for name in ("prompt", "sets"):
        assert getattr(after, name) == getattr(before, name)
    assert tuple(after.examples) == tuple(before.examples)
    for name in ("name", "model", "layout", "retrieval", "sampling", "provenance"):
        assert getattr(after.manifest, name) == getattr(before.manifest, name), name
    assert ("Partition the bundle again" in capsys.readouterr().out) == advice


def test_bundle_of_an_embedder_that_no_longer_exists_is_embedded_again(tmp_path: Path) -> None:
    write_bundle(tmp_path / "old", bundle_input(), WordEmbedder())
    manifest = json.loads((tmp_path / "old" / "manifest.json").read_bytes())
    manifest["embedder"] = {"name": "onnx", "revision": "cee522be881f8319", "dimension": 48}
    (tmp_path / "old" / "manifest.json").write_text(json.dumps(manifest))
    assert run("reembed", tmp_path / "old", "--embedder", "other", "--out", tmp_path / "new") == 0
    assert read_bundle(tmp_path / "new").manifest.embedder.name == "other"


@pytest.mark.parametrize(
    ("embedder", "out", "reason"),
    [
        ("unheard-of", "new", "there is no embedder called unheard-of"),
        ("other", "old", "exists already"),
        ("other", "no/such/folder", "there is no such directory"),
    ],
)
def test_wrong_flag_is_one_message(
    embedder: str, out: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bundle(tmp_path / "old", bundle_input(), WordEmbedder())
    assert run("reembed", tmp_path / "old", "--embedder", embedder, "--out", tmp_path / out) == 1
    errors = capsys.readouterr().err
    assert reason in errors
    assert errors.count("\n") == 1


def test_embedder_and_out_are_required(tmp_path: Path) -> None:
    assert run("reembed", tmp_path) == 2


def test_damaged_bundle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bundle(tmp_path / "old", bundle_input(), WordEmbedder())
    (tmp_path / "old" / "prompt.txt").write_text("Be bad.")
    assert run("reembed", tmp_path / "old", "--embedder", "other", "--out", tmp_path / "new") == 1
    assert "prompt.txt" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_example_that_the_new_embedder_cannot_read_is_named(tmp_path: Path) -> None:
    unreadable = Example("hindi", "मैं अंडा कैसे उबालूँ?", "Eight minutes.")
    write_bundle(tmp_path / "old", bundle_input((*bundle_input().examples, unreadable)), WordEmbedder())
    line = ("reembed", tmp_path / "old", "--embedder", "multilingual", "--out", tmp_path / "new")
    with drpo_index(*line, stdout=subprocess.PIPE) as process:
        _, errors = process.communicate()
    assert process.returncode == 1
    assert "cannot read the query of the example hindi (1 of 6). Leave the example out" in errors
    assert not (tmp_path / "new").exists()


def test_reembedding_with_another_embedder_and_back_gives_the_same_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "open_embedder", open_embedder)
    write_bundle(tmp_path / "old", bundle_input(), open_embedder("multilingual"))
    assert run("reembed", tmp_path / "old", "--embedder", "minilm", "--out", tmp_path / "english") == 0
    assert run("reembed", tmp_path / "english", "--embedder", "multilingual", "--out", tmp_path / "new") == 0
    assert read_bundle(tmp_path / "new").id == read_bundle(tmp_path / "old").id
