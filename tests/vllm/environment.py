"""The environment that vLLM runs in, and whether this machine can hold it.

It does not depend on the models or on the servers.
"""

import os
from pathlib import Path
from typing import Final

from tests.torch_environment import TorchEnvironment
from tools.steps import Say

HERE: Final = Path(__file__).parent
_MIN_FREE_DISK: Final = 8e9  # bytes: environment 3.1 GB, models 1.7 GB, and temporary files
_MIN_MEMORY: Final = 10e9  # bytes: vLLM in float32 takes 4 to 8 GB
_ENVIRONMENT: Final = TorchEnvironment(
    "vllm-environment", "vLLM", HERE / "requirements.txt", _MIN_FREE_DISK, size="3.1 GB", cuda_size="5.9 GB"
)


def shortcoming() -> str | None:
    """Return why this machine cannot hold the environment; None if it can."""
    if reason := _ENVIRONMENT.shortcoming():
        return reason
    if _memory() < _MIN_MEMORY:
        return f"{_memory() / 1e9:.1f} GB of memory; vLLM needs {_MIN_MEMORY / 1e9:.0f}"
    return None


def environment(say: Say) -> Path:
    """Return the environment's folder. It is built if it is missing or damaged.

    Raises:
        StepError: It could not be built.
    """
    return _ENVIRONMENT.built(say)


def _memory() -> float:
    """Return the memory in bytes that this process may use: of the machine, or of its control group if that is less."""
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="ascii").strip() if limit.exists() else "max"
    return total if text == "max" else min(total, float(text))
