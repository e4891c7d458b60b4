"""Environments with PyTorch in the cache folder, for suites that start another server: vLLM or Open WebUI.

An environment is built once with uv, from pinned packages. The module does not depend on the servers.
"""

import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.neutral import kept
from tools.keep import cache_root, is_intact, key_of
from tools.packages import can_install, install, uv_command, uv_environment
from tools.steps import Say, run_step

_PINS: Final = Path(__file__).parent / "vllm"
_CPU_TORCH: Final = _PINS / "torch-cpu.txt"
_INDEX_TORCH: Final = _PINS / "torch-index.txt"
_PYTHON: Final = "3.11"  # the +cpu build of torch is for this version
_CREATE_TIMEOUT: Final = 120.0  # seconds


@dataclass(frozen=True, slots=True)
class TorchEnvironment:
    """How an environment is built, and what it needs.

    Attributes:
        name: The first part of the name of its folder.
        title: The name of its server in messages.
        requirements: The file with its pinned packages, except torch.
        min_free_disk: The free space that it needs, in bytes.
        size: Its size with the CPU build of torch, as text.
        cuda_size: Its size with the CUDA build of torch, as text.
    """

    name: str
    title: str
    requirements: Path
    min_free_disk: float
    size: str
    cuda_size: str

    @property
    def folder(self) -> Path:
        """The folder in which the environment is, or will be built."""
        return cache_root() / f"{self.name}-{key_of(self.requirements, _CPU_TORCH, _INDEX_TORCH, _PYTHON)}"

    def shortcoming(self) -> str | None:
        """Return why this machine cannot hold the environment; None if it can."""
        if (sys.platform, platform.machine()) != ("linux", "x86_64"):
            return f"the pinned packages are for Linux on x86_64; this is {sys.platform} on {platform.machine()}"
        cache = cache_root()
        free = shutil.disk_usage(next(one for one in (cache, *cache.parents) if one.exists())).free
        if free < self.min_free_disk and not is_intact(self.folder):
            return f"{free / 1e9:.1f} GB free under {cache}; {self.title} needs {self.min_free_disk / 1e9:.0f}"
        return None

    def built(self, say: Say) -> Path:
        """Return the folder. The environment is built if it is missing or damaged.

        Raises:
            StepError: It could not be built.
        """
        return kept(self.folder, lambda place: self._build(place, say), say)

    def _build(self, place: Path, say: Say) -> None:
        log = place.with_suffix(".log")
        command = [*uv_command(say), "venv", "--python", _PYTHON, str(place)]
        run_step(f"environment of {self.title}", command, log, say, _CREATE_TIMEOUT, uv_environment())
        into = ["--python", str(place / "bin" / "python")]
        torch = _CPU_TORCH if can_install(_CPU_TORCH, into, say) else _INDEX_TORCH
        without_cpu = f"no CPU build of torch found, so the CUDA one: {self.cuda_size}"
        note = self.size if torch == _CPU_TORCH else without_cpu
        install([self.requirements, torch], into, log, say, f"packages of {self.title} ({note}, once)")
