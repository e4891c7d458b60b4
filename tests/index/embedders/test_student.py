"""Tests the query embedder `fast`: its files, its agreement with its teacher, and unusual texts."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import index.embedders.student
from index.bundle.bundle import default_bundle_directory, read_bundle
from index.embedders.minilm import OnnxEmbedder
from index.embedders.student import FastEmbedder
from index.errors import EmbedderError
from index.types import EmbedderSpec

WEIGHTS = Path(index.embedders.student.__file__).parent / "query_weights"
TEACHER = OnnxEmbedder()
STUDENT = FastEmbedder(TEACHER)
TEXTS = ("How do I boil an egg?", "hi", "", "¿Cuál es la capital de Francia?", "💡🙂", "word " * 10_000)
any_text = st.text(st.characters(codec=None), max_size=300)


class Other(OnnxEmbedder):
    """The teacher with another revision."""

    @property
    def spec(self) -> EmbedderSpec:
        return EmbedderSpec("onnx", "0" * 16, 384)


def test_most_examples_are_found_by_their_own_query() -> None:
    bundle = read_bundle(default_bundle_directory())
    queries = [example.query for example in bundle.examples]
    nearest = np.argmax(STUDENT.embed(queries) @ np.asarray(bundle.vectors).T, axis=1)
    assert np.mean(nearest == np.arange(len(queries))) >= 0.9


def test_paraphrase_finds_the_teachers_vector_of_the_same_meaning() -> None:
    options = ["What is the best way to cook pasta?", "How can I kill a Python process?", "Write a poem about the sea."]
    (query,) = STUDENT.embed(["How long does spaghetti need in hot water?"])
    assert int(np.argmax(TEACHER.embed(options) @ query)) == 0


@settings(max_examples=200, deadline=None)
@given(any_text)
def test_any_text_gets_a_finite_vector_of_norm_1(text: str) -> None:
    (vector,) = STUDENT.embed([text])
    assert vector.dtype == np.float32
    assert vector.shape == (384,)
    assert abs(float(np.linalg.norm(vector)) - 1) < 1e-5


def test_vector_does_not_depend_on_other_texts_threads_or_the_object() -> None:
    alone = np.concatenate([STUDENT.embed([text]) for text in TEXTS])
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(FastEmbedder(TEACHER).embed, [TEXTS] * 8))
    assert all(np.array_equal(vectors, alone) for vectors in together)
    assert STUDENT.embed([]).shape == (0, 384)


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(WEIGHTS, tmp_path / "weights"))
    content = bytearray((copy / "weights.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "weights.npz").write_bytes(content)
    with pytest.raises(EmbedderError, match=r"weights\.npz: is damaged.*install drpo-proxy again"):
        FastEmbedder(TEACHER, copy)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(EmbedderError, match="cannot be read"):
        FastEmbedder(TEACHER, tmp_path)


def test_weights_trained_for_another_teacher_are_refused() -> None:
    with pytest.raises(EmbedderError, match=f"was trained to follow onnx {TEACHER.spec.revision}, and this is 0000"):
        FastEmbedder(Other())
