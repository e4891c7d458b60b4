"""Provides many real short texts and their vectors for `retrieval`; it measures nothing and prints no table.

    python -m tests.bench.corpus           embeds the texts that are not embedded yet (4 ms of a core for each)

The texts are Debian's one-line descriptions of its packages, and the glosses of WordNet 3.0 (Debian's package
wordnet-base). apt downloads both without root rights. The texts are shuffled with a seed, without duplicates. They are
kept in the cache folder. Each embedded part is kept too, so that an interrupted run continues where it stopped. This
module does not depend on retrieval.
"""

import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from index.embedders.base import Embedder
from index.embedders.registry import DEFAULT_EMBEDDER, open_embedder
from index.types import Vectors
from tools.keep import cache_root

SEED: Final = 1
PART: Final = 2_000  # texts
_SYNOPSIS: Final = re.compile(r"^Description(?:-en)?: (.+)$", re.MULTILINE)
_WORDNET: Final = "wordnet-base"


class CorpusError(Exception):
    """The texts are not available on this machine. The message gives the reason."""


def folder() -> Path:
    return cache_root() / "bench-corpus"


def texts() -> list[str]:
    """Return all texts, without duplicates, in the order of the seed.

    Raises:
        CorpusError: apt does not provide the texts.
    """
    kept = folder() / "texts.txt"
    if not kept.exists():
        found = sorted({*_synopses(), *_glosses()})
        random.Random(SEED).shuffle(found)
        _keep(kept, "\n".join(found).encode())
    return kept.read_text(encoding="utf-8").split("\n")


def vectors(start: int = 0, stop: int | None = None) -> Vectors:
    """Return the vectors of the texts from `start` to `stop`, (at most stop - start, dimension).

    Args:
        start: A multiple of PART.
        stop: The default is the end of the last complete part.
    """
    every = texts()
    stop = min(len(every) // PART * PART, len(every) if stop is None else stop)
    embedder = open_embedder(DEFAULT_EMBEDDER)
    starts = range(start, stop, PART)
    parts = [_part(embedder, every[at : at + PART], f"{at + PART:,} of {stop:,}") for at in starts]
    return np.concatenate(parts)[: stop - start]


def _part(embedder: Embedder, some: Sequence[str], progress: str) -> Vectors:
    key = hashlib.sha256("\0".join([embedder.spec.revision, *some]).encode()).hexdigest()[:16]
    path = folder() / f"{key}.npy"
    if not path.exists():
        made = embedder.embed(some)
        _keep_array(path, made)
        print(f"corpus: embedded {progress}", file=sys.stderr, flush=True)
    kept: Vectors = np.load(path, allow_pickle=False)
    return kept


def _synopses() -> Iterator[str]:
    """Yield the one-line description of each package that apt lists."""
    if shutil.which("apt-cache") is None:
        raise CorpusError("apt is not installed: the texts come from Debian's package descriptions")
    dump = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, check=True).stdout
    found = [line.strip() for line in _SYNOPSIS.findall(dump.decode(errors="replace"))]
    if not found:
        raise CorpusError("apt lists no package: run apt-get update")
    return iter(found)


def _glosses() -> Iterator[str]:
    """Yield the gloss of each sense in WordNet, with its example sentences."""
    with tempfile.TemporaryDirectory() as name:
        done = subprocess.run(["apt-get", "download", _WORDNET], cwd=name, capture_output=True, text=True, check=False)
        packages = list(Path(name).glob("*.deb"))
        if not packages:
            raise CorpusError(f"apt-get download {_WORDNET} failed: {done.stderr.strip()[-200:]}")
        subprocess.run(["dpkg-deb", "-x", packages[0], name], check=True)
        for data in sorted(Path(name).glob("usr/share/wordnet/data.*")):
            for line in data.read_text(encoding="utf-8", errors="replace").splitlines():
                if (gloss := line.partition(" | ")[2].strip()) and not line.startswith(" "):
                    yield gloss


def _keep(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    building = path.with_name(f"{path.name}.{os.getpid()}")
    building.write_bytes(data)
    building.rename(path)


def _keep_array(path: Path, array: Vectors) -> None:
    building = path.with_name(f"{path.name}.{os.getpid()}.npy")
    np.save(building, array, allow_pickle=False)
    building.rename(path)


def main() -> None:
    made = vectors()
    print(f"{len(made):,} vectors of {made.shape[1]} dimensions in {folder()}")


if __name__ == "__main__":
    main()
