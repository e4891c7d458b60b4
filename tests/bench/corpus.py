"""Real short texts in large numbers, and their vectors, kept outside the clone: they take minutes to make.

    python -m tests.bench.corpus           embeds what is missing (4 ms a text and core), with progress

The texts are what Debian says of each of its packages in one line, and the glosses of WordNet 3.0 (Debian's package
wordnet-base): both from apt, no right of root needed. Shuffled with a seed, doubled ones left out. A part once embedded
is kept, so what was interrupted goes on where it stopped. Knows nothing of search.
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
from index.embedders.registry import open_embedder
from index.types import Vectors
from tools.keep import cache_root

SEED: Final = 1
PART: Final = 2_000
_SYNOPSIS: Final = re.compile(r"^Description(?:-en)?: (.+)$", re.MULTILINE)
_WORDNET: Final = "wordnet-base"


class CorpusError(Exception):
    """The texts cannot be had here; the message says why."""


def folder() -> Path:
    return cache_root() / "bench-corpus"


def texts() -> list[str]:
    """Every text once, in the order of the seed. CorpusError."""
    kept = folder() / "texts.txt"
    if not kept.exists():
        found = sorted({*_synopses(), *_glosses()})
        random.Random(SEED).shuffle(found)
        _keep(kept, "\n".join(found).encode())
    return kept.read_text(encoding="utf-8").split("\n")


def vectors(start: int = 0, stop: int | None = None) -> Vectors:
    """(at most stop - start, dimension): of the texts from `start`, a multiple of PART, up to `stop` or the last whole
    part; made now where they are missing."""
    every = texts()
    stop = min(len(every) // PART * PART, len(every) if stop is None else stop)
    embedder = open_embedder("onnx")
    starts = range(start, stop, PART)
    parts = [_part(embedder, every[at : at + PART], f"{at + PART:,} of {stop:,}") for at in starts]
    return np.concatenate(parts)[: stop - start]


def _part(embedder: Embedder, some: Sequence[str], progress: str) -> Vectors:
    key = hashlib.sha256("\0".join([embedder.spec.revision, *some]).encode()).hexdigest()[:16]
    place = folder() / f"{key}.npy"
    if not place.exists():
        made = embedder.embed(some)
        _keep_array(place, made)
        print(f"corpus: embedded {progress}", file=sys.stderr, flush=True)
    kept: Vectors = np.load(place, allow_pickle=False)
    return kept


def _synopses() -> Iterator[str]:
    """One line on each package that apt knows of."""
    if shutil.which("apt-cache") is None:
        raise CorpusError("apt is not here: the texts come from Debian's package descriptions")
    dump = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, check=True).stdout
    found = [line.strip() for line in _SYNOPSIS.findall(dump.decode(errors="replace"))]
    if not found:
        raise CorpusError("apt knows of no package: run apt-get update")
    return iter(found)


def _glosses() -> Iterator[str]:
    """What WordNet says of each sense, with its sentences of example."""
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


def _keep(place: Path, data: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    building = place.with_name(f"{place.name}.{os.getpid()}")
    building.write_bytes(data)
    building.rename(place)


def _keep_array(place: Path, array: Vectors) -> None:
    building = place.with_name(f"{place.name}.{os.getpid()}.npy")
    np.save(building, array, allow_pickle=False)
    building.rename(place)


def main() -> None:
    made = vectors()
    print(f"{len(made):,} vectors of {made.shape[1]} dimensions in {folder()}")


if __name__ == "__main__":
    main()
