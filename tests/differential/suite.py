"""Runs the test suite of the openai package against a base URL.

The suite comes from the source distribution of the package, which is installed once by its hash. This module lists the
tests that a vLLM server, or a base model behind the proxy, cannot pass, and the reasons.
"""

import asyncio
import os
import re
import sys
import tarfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

from tests.neutral import kept
from tools.keep import cache_root, key_of
from tools.steps import Say, run_step

REQUIREMENTS: Final = Path(__file__).parent / "requirements.txt"
_FOLDER: Final = "tests/api_resources"
_FILES: Final = (
    "chat/test_completions.py",
    "test_completions.py",
    "test_embeddings.py",
    "test_models.py",
    "test_responses.py",
)
_FORMS: Final = ("method", "raw_response", "streaming_response", "path_params")

LeftOut = Sequence[tuple[str, str, Sequence[str]]]
"""Tests that are left out: file, class, and the method of the client that they call."""

# OpenAI stores chat completions and responses, and can list, update, compact and delete them. A model can be deleted by
# the user who fine-tuned it. Neither the proxy nor the mock serves these requests.
UNSERVED: Final[LeftOut] = (
    ("chat/test_completions.py", "Completions", ("list", "retrieve", "update", "delete")),
    ("test_responses.py", "Responses", ("retrieve", "delete", "cancel", "compact")),
    ("test_models.py", "Models", ("delete",)),
)
# Requests that the proxy rightly refuses for a base model: chat with tools, functions or audio, and responses with
# tools, with stored prompts, or without input.
NOT_FOR_TEXT: Final[LeftOut] = (
    ("chat/test_completions.py", "Completions", ("create_with_all_params",)),
    ("test_responses.py", "Responses", ("create",)),
)
_WITHIN: Final = 240.0  # seconds


def suite_folder(say: Say) -> Path:
    """Return the folder of the source distribution, which is downloaded if it is missing or damaged.

    Raises StepError.
    """
    return kept(cache_root() / f"openai-suite-{key_of(REQUIREMENTS)}", lambda place: _fetch(place, say), say)


def _fetch(place: Path, say: Say) -> None:
    place.mkdir()
    log = place.with_suffix(".log")
    # pip runs the build backend to get the metadata. It is the build backend that is installed in this environment.
    options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(place), "-r", str(REQUIREMENTS)]
    run_step("openai's own test-suite (once)", command, log, say, 120, dict(os.environ))
    (archive,) = place.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        # Python 3.11.3, and thus Debian 12, has no filters. The archive is the one whose hash is pinned.
        opened.extractall(place, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    archive.unlink()


def pinned_version() -> str:
    """Return the version in REQUIREMENTS.

    It must be the installed version, because the mock uses the installed types.
    """
    found = re.search(r"openai==(\S+)", REQUIREMENTS.read_text(encoding="utf-8"))
    assert found is not None
    return found[1]


async def run_suite(folder: Path, base_url: str, left_out: LeftOut) -> tuple[set[str], str]:
    """Run the suite without the tests in `left_out`. Return the tests that passed, and the output about the others."""
    root = folder / f"openai-{pinned_version()}"
    environment = {**os.environ, "TEST_API_BASE_URL": base_url, "PYTHONPATH": str(root), "NO_PROXY": "127.0.0.1"}
    options = ["-q", "-rA", "--tb=line", "-p", "no:cacheprovider", "-o", "addopts="]
    options += [f"--deselect={prefix}" for prefix in _prefixes(left_out)]
    command = [sys.executable, "-m", "pytest", *options, *(f"{_FOLDER}/{file}" for file in _FILES)]
    with TemporaryFile() as output:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=root, env=environment, stdout=output, stderr=asyncio.subprocess.STDOUT
        )
        try:
            async with asyncio.timeout(_WITHIN):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
        output.seek(0)
        printed = output.read().decode(errors="replace")
    others = [line for line in printed.splitlines() if not line.startswith("PASSED")]
    return set(re.findall(r"^PASSED (.+)$", printed, re.MULTILINE)), "\n".join(others)[-4000:]


def _prefixes(left_out: LeftOut) -> Iterator[str]:
    for file, name, methods in left_out:
        for client, form, method in product(("Test", "TestAsync"), _FORMS, methods):
            yield f"{_FOLDER}/{file}::{client}{name}::test_{form}_{method}"
