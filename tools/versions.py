"""Shows for which versions of Python, on which platforms, every dependency has a wheel, by letting uv resolve them.

    python -m tools.versions               all versions and platforms of the table
    python -m tools.versions --supported   only those that this project supports

For each pair of a version and a platform, uv resolves two lists of packages, from wheels alone: the newest versions
that pyproject.toml allows (`pip install` takes them), and the pins of requirements/*.txt (`make` takes them). The
extras `vllm` and `sentence-transformers` are left out. Nothing is installed or run. The table shows that wheels exist,
not that the program works.

Exit status: 0 if each supported pair has all wheels, otherwise 1.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.packages import uv_command, uv_environment

ROOT: Final = Path(__file__).parents[1]
PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
"""The supported versions. pyproject.toml, the hosted workflow and the documentation name the same ones."""

NEXT_PYTHON: Final = "3.15"  # not supported yet
_EXTRAS: Final = ("embedded", "experiments", "minilm", "otel", "postgresql")
_PINNED: Final = ("run", "serve", "dev")
_TIMEOUT: Final = 600.0  # seconds
_GAP: Final = re.compile(r"([A-Za-z0-9._-]+?)(?:[<>=!~][^ ]*)? (?:has|have) no (?:usable )?wheels")


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform, with a name for people and a name for uv.

    Attributes:
        name: The name in the table.
        target: The value of uv's --python-platform.
        is_supported: Whether this project supports it.
        macos: The oldest version of macOS, or an empty string.
    """

    name: str
    target: str
    is_supported: bool
    macos: str = ""


PLATFORMS: Final = (
    Platform("Linux x86-64", "x86_64-manylinux_2_28", is_supported=True),
    Platform("Linux arm64", "aarch64-manylinux_2_28", is_supported=True),
    Platform("macOS 14 arm64", "aarch64-apple-darwin", is_supported=True, macos="14.0"),
    Platform("macOS 15 Intel", "x86_64-apple-darwin", is_supported=False, macos="15.0"),
    Platform("Linux musl x86-64", "x86_64-unknown-linux-musl", is_supported=False),
    Platform("Windows x86-64", "x86_64-pc-windows-msvc", is_supported=False),
)


@dataclass(frozen=True, slots=True)
class Result:
    """Whether all wheels of one pair exist.

    Attributes:
        python: The version of Python.
        platform: The platform.
        newest: Why the newest versions cannot be resolved; empty if they can.
        pins: Why the pins cannot be resolved; empty if they can.
    """

    python: str
    platform: Platform
    newest: str
    pins: str

    @property
    def is_supported(self) -> bool:
        """Whether this project supports the pair."""
        return self.platform.is_supported and self.python in PYTHONS

    @property
    def word(self) -> str:
        """The text of the cell of this pair in the table."""
        words = {(True, True): "yes", (True, False): "newest only", (False, True): "pins only", (False, False): "no"}
        return words[not self.newest, not self.pins]


Resolve = Callable[[str, Platform, Sequence[str]], str]
"""Resolves requirements (the arguments of uv) for a Python and a platform, and returns why it failed, or ""."""


def main(arguments: Sequence[str] | None = None, resolve: Resolve | None = None) -> int:
    """Print the table and the gaps, and return the exit status."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("make versions", description=summary, epilog=rest, formatter_class=raw)
    parser.add_argument("--supported", action="store_true", help="leave out what this project does not support")
    only_supported = parser.parse_args(arguments).supported
    pythons = PYTHONS if only_supported else (*PYTHONS, NEXT_PYTHON)
    platforms = [one for one in PLATFORMS if one.is_supported or not only_supported]
    results = list(_results(pythons, platforms, resolve or with_uv()))
    print(table(results))
    print("".join(f"{line}\n" for line in gaps(results)), end="")
    faults = [one for one in results if one.is_supported and one.word != "yes"]
    print("Each supported pair has all wheels." if not faults else f"{len(faults)} supported pairs lack wheels.")
    return 1 if faults else 0


def _results(pythons: Sequence[str], platforms: Sequence[Platform], resolve: Resolve) -> Iterator[Result]:
    for python in pythons:
        print(f"Resolving for Python {python} on {len(platforms)} platforms", file=sys.stderr, flush=True)
        for platform in platforms:
            newest = resolve(python, platform, newest_arguments())
            found = (resolve(python, platform, pinned_arguments(name)) for name in _PINNED)
            yield Result(python, platform, newest, next(filter(None, found), ""))


def newest_arguments() -> list[str]:
    """Return the arguments with which uv resolves the packages that `pip install` takes."""
    return ["pyproject.toml", *(word for extra in _EXTRAS for word in ("--extra", extra))]


def pinned_arguments(name: str) -> list[str]:
    """Return the arguments with which uv resolves requirements/`name`.txt."""
    return [f"requirements/{name}.txt", "--no-deps"]


def table(results: Sequence[Result]) -> str:
    """Return the table in Markdown: a row for each version of Python, and a column for each platform."""
    platforms = list(dict.fromkeys(one.platform for one in results))
    rows = [["Python", *(one.name for one in platforms)], ["---"] * (len(platforms) + 1)]
    for python in dict.fromkeys(one.python for one in results):
        words = {one.platform: one.word for one in results if one.python == python}
        rows.append([python, *(words[platform] for platform in platforms)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def gaps(results: Sequence[Result]) -> list[str]:
    """Return a line for each reason, with the platforms and versions of Python that it concerns."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for one in results:
        for what, reason in (("newest versions", one.newest), ("pins", one.pins)):
            if reason:
                found.setdefault((what, reason), {}).setdefault(one.platform.name, []).append(one.python)
    return [f"{reason} ({what}): {_places(pairs)}" for (what, reason), pairs in found.items()]


def _places(pairs: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{platform} with Python {', '.join(pythons)}" for platform, pythons in pairs.items())


def with_uv() -> Resolve:
    """Return a function that lets uv resolve requirements from wheels alone."""
    command = [*uv_command(print), "pip", "compile", "--quiet", "--only-binary", ":all:", "--output-file", os.devnull]
    environment = uv_environment()

    def resolve(python: str, platform: Platform, requirements: Sequence[str]) -> str:
        words = [*command, *requirements, "--python-version", python, "--python-platform", platform.target]
        macos = {"MACOSX_DEPLOYMENT_TARGET": platform.macos} if platform.macos else {}
        done = subprocess.run(
            words, cwd=ROOT, env={**environment, **macos}, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
        return reason_of(done.stderr) if done.returncode else ""

    return resolve


def reason_of(message: str) -> str:
    """Return why uv failed: the packages without a wheel that its message names, or else the message in one line."""
    text = re.sub(r"\s+", " ", message).strip()
    packages = dict.fromkeys(_GAP.findall(text))
    return f"no wheel of {', '.join(packages)}" if packages else text[:300]


if __name__ == "__main__":
    sys.exit(main())
