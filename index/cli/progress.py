"""Says on stderr what a command is waiting for, once that takes longer than a person likes to wait in silence."""

import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from index.embedders.base import Embedder
from index.types import EmbedderSpec, Vectors

FIRST_WORD = 2.0  # seconds
LONGEST_SILENCE = 30.0  # seconds


class Waiting:
    """While the block runs, prints `what`, with the seconds and how much is done; silent if it is over soon."""

    def __init__(self, what: str, total: int = 0) -> None:
        """`total`: how many steps `advance` will count; 0 if nothing is counted."""
        self._what = what
        self._total = total
        self._done = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._speak, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def turn_to(self, what: str) -> None:
        """Say that it is now `what`, of which nothing is counted."""
        self._what, self._total = what, 0

    def advance(self, steps: int) -> None:
        self._done = min(self._done + steps, self._total)

    def _speak(self) -> None:
        start, silence = time.monotonic(), FIRST_WORD
        while not self._over.wait(silence):
            count = f"{self._done:,} of {self._total:,}, " if self._total else ""
            sys.stderr.write(f"{self._what} ({count}{time.monotonic() - start:.0f} s)\n")
            sys.stderr.flush()
            silence = min(silence * 2, LONGEST_SILENCE)


class CountingEmbedder:
    """An embedder that tells `waiting` how many texts it has embedded."""

    def __init__(self, inner: Embedder, waiting: Waiting) -> None:
        self._inner = inner
        self._waiting = waiting

    @property
    def spec(self) -> EmbedderSpec:
        return self._inner.spec

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = self._inner.embed(texts)
        self._waiting.advance(len(texts))
        return vectors
