"""Builds the two programs in C, and runs the backend: client.c, backend.c. It does not depend on plans or gateways."""

import json
import os
import shutil
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.peers.machine import CannotRunError, listens, running
from tests.neutral import kept
from tests.ports import free_port
from tools.keep import cache_root, key_of
from tools.steps import Say, run_step

HERE: Final = Path(__file__).parent
_SOURCES: Final = ("common.h", "backend.c", "client.c")
_FLAGS: Final = ("-O2", "-std=c11", "-Wall", "-Wextra")
_COMPILE_TIMEOUT: Final = 120.0  # seconds


@dataclass(frozen=True, slots=True)
class Programs:
    """The paths of the compiled programs."""

    backend: Path
    client: Path


@dataclass(frozen=True, slots=True)
class Backend:
    """A running backend: its port and its process."""

    port: int
    pid: int

    @property
    def url(self) -> str:
        """The base URL, without /v1."""
        return f"http://127.0.0.1:{self.port}"

    def take_stats(self) -> dict[str, float]:
        """Return what the backend counted since the last call: streams, tokens, and how late it wrote tokens (ms)."""
        with urllib.request.urlopen(f"{self.url}/stats", timeout=10) as reply:
            stats: dict[str, float] = json.load(reply)
            return stats


def build_programs(say: Say) -> Programs:
    """Compile the programs into the cache folder, once for each version of their source.

    Raises:
        CannotRunError: There is no C compiler, or this is not Linux.
        StepError: The compiler failed.
    """
    compiler = shutil.which("cc")
    if sys.platform != "linux":
        raise CannotRunError("the backend and the client need Linux (epoll and timerfd)")
    if compiler is None:
        raise CannotRunError("`cc` is not installed (Debian: apt-get install gcc libc6-dev)")

    def build(place: Path) -> None:
        place.mkdir()
        for name in ("backend", "client"):
            command = [compiler, *_FLAGS, str(HERE / f"{name}.c"), "-o", str(place / name), "-lm"]
            log = place.with_suffix(f".{name}.log")
            run_step(f"compile {name}.c (once)", command, log, say, _COMPILE_TIMEOUT, dict(os.environ))

    sources = [HERE / name for name in _SOURCES]
    place = kept(cache_root() / f"open-loop-{key_of(*sources, *_FLAGS, compiler, os.uname().machine)}", build, say)
    return Programs(place / "backend", place / "client")


@contextmanager
def backend(programs: Programs, tokens_per_second: float, core: int | None) -> Iterator[Backend]:
    """Run the backend.

    Args:
        programs: The compiled programs.
        tokens_per_second: The pace of a stream.
        core: The core that it runs on; None for all cores.

    Raises:
        CannotRunError: It does not start.
    """
    port = free_port()
    with running([str(programs.backend), str(port), str(tokens_per_second)], core, listens(port)) as pid:
        yield Backend(port, pid)
