"""Prints progress messages on stderr while a command works, if the work takes longer than two seconds."""

import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from index.embedders.base import Embedder
from index.types import EmbedderSpec, Vectors

FIRST_MESSAGE_SECONDS = 2.0
MAX_SILENCE_SECONDS = 30.0


class Progress:
    """A context manager that prints messages while its block runs: the current step, its counter and the elapsed time.

    The first message comes after two seconds, and the second message four seconds later. Each further interval is twice
    as long as the one before it, up to 30 seconds.
    """

    def __init__(self, step: str, total: int = 0) -> None:
        """Set the first step.

        Args:
            step: The name of the step.
            total: The final value of the step's counter. If it is 0, the messages contain no counter.
        """
        self._step = step
        self._total = total
        self._done = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._print_messages, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def begin(self, step: str) -> None:
        """Begin another step. Its messages contain no counter."""
        self._step, self._total = step, 0

    def advance(self, count: int) -> None:
        """Add `count` to the counter of the current step. The counter stops at its final value."""
        self._done = min(self._done + count, self._total)

    def _print_messages(self) -> None:
        start, silence = time.monotonic(), FIRST_MESSAGE_SECONDS
        while not self._ended.wait(silence):
            count = f"{self._done:,} of {self._total:,}, " if self._total else ""
            sys.stderr.write(f"{self._step} ({count}{time.monotonic() - start:.0f} s)\n")
            sys.stderr.flush()
            silence = min(silence * 2, MAX_SILENCE_SECONDS)


class CountingEmbedder:
    """Embeds texts with another embedder, and adds the number of embedded texts to the counter of a `Progress`."""

    def __init__(self, inner: Embedder, progress: Progress) -> None:
        self._inner = inner
        self._progress = progress

    @property
    def spec(self) -> EmbedderSpec:
        return self._inner.spec

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = self._inner.embed(texts)
        self._progress.advance(len(texts))
        return vectors
