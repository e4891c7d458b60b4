"""Runs drpo-index in tests: in this process with the small embedder, or in its own process with the real embedders."""

import os
import subprocess
import sys
from pathlib import Path

from index import __main__ as command
from index.embedders.base import Embedder
from index.errors import EmbedderError
from tests.index.words import WordEmbedder

ROOT = Path(__file__).parents[2]


def open_words(name: str) -> Embedder:
    if name != "words":
        raise EmbedderError(f"there is no embedder called {name}: use words")
    return WordEmbedder()


def run(*arguments: str | Path) -> int:
    """Run a command with the small embedder and return its exit code, including that of argparse."""
    allowed = (
        ("--allow-embedder", "words") if arguments and arguments[0] in ("verify", "search", "sets", "policy") else ()
    )
    try:
        return command.main([str(argument) for argument in (*arguments, *allowed)])
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else -1


def drpo_index(*arguments: str | Path, stdout: int) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "index", *map(str, arguments)]
    # An unbuffered Python does not notice a partial write.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.Popen(line, cwd=ROOT, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True)
