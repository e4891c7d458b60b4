"""Owns the child process of the embedded default model: start, ready, death, stop. Knows no request and speaks no HTTP.

The model is google/gemma-3-270m, a base model, served by llama.cpp in a child process
(proxy/backends/embedded/child_main.py) on a
free port of 127.0.0.1, with a random key so that other users of the machine cannot use it. The child leaves when its
standard input ends, so it outlives no end of this process; it is in a session of its own, so that Ctrl-C reaches this
process alone, which stops it in order.
"""

import asyncio
import json
import secrets
import sys
import time
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import PIPE, Process
from collections.abc import Coroutine
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, cast

from proxy.backends.embedded.weights import GEMMA, INSTALL, Weights, default_cache, prepare_weights
from proxy.core.errors import EmbeddedError
from proxy.core.progress import ProgressCallback

MODEL_NAME: Final = "google/gemma-3-270m"
_CHILD: Final = Path(__file__).with_name("child_main.py")
_SLOTS: Final = 4  # requests answered at once; each has the whole context
_SMALLEST_CONTEXT: Final = 512
_LARGEST_CONTEXT: Final = 32768  # what the model was trained for
_LONGEST_START: Final = 300.0  # seconds
_SILENCE: Final = 2.0  # seconds without a word of progress
_PATIENCE: Final = 2.0  # seconds to leave by itself
_LOG_BYTES: Final = 8192
_SHOWN_LINES: Final = 5


class EmbeddedModel:
    """The child process. After `start`: `api_key` is what it asks for.

    `exited` is set while there should be a child and is none: it died by itself, or could not be started.
    """

    def __init__(self, cache: Path | None = None, context: int = 4096, weights: Weights = GEMMA) -> None:
        """cache: the weights' folder, the user's own by default. context: tokens of a request, prompt and answer."""
        self.exited = asyncio.Event()
        self.api_key = ""
        self._cache = cache or default_cache()
        self._context = context
        self._weights = weights
        self._process: Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._log = b""

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is none."""
        return self._process.pid if self._process else None

    async def start(self, report: ProgressCallback) -> str:
        """Start the child and wait until its model has answered; returns its root URL. Again, after it died.

        Raises EmbeddedError: not installed, weights not right, or the child failed, with the end of its log.
        """
        await self.stop()
        self._check()
        weights = await prepare_weights(self._weights, self._cache, report)
        self.api_key, self._log = secrets.token_urlsafe(32), b""
        self.exited.clear()
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", str(_CHILD), stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True
            )
            self._watch = asyncio.create_task(self._follow(self._process), name="embedded model's log")
            return await self._await_result(self._process, weights, report)
        except BaseException:
            await self.stop()
            self.exited.set()
            raise

    async def stop(self) -> None:
        """End the child, in seconds at most; that is no accident, so `exited` is not set. Does nothing if none runs."""
        process, self._process = self._process, None
        watch, self._watch = self._watch, None
        if process is None:
            return
        cast("StreamWriter", process.stdin).close()
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _PATIENCE)
        finally:
            _kill(process)
            await process.wait()
            if watch:
                await watch

    def _check(self) -> None:
        if find_spec("xllamacpp") is None:
            raise EmbeddedError(f"The embedded model needs the package xllamacpp, which is not installed: {INSTALL}")
        if not _SMALLEST_CONTEXT <= self._context <= _LARGEST_CONTEXT:
            raise EmbeddedError(
                f"--context {self._context}: the embedded model takes {_SMALLEST_CONTEXT} to {_LARGEST_CONTEXT} tokens."
            )

    async def _follow(self, process: Process) -> None:
        """Keep the end of the child's log until the child ends; that is an accident unless `stop` was called."""
        errors = cast("StreamReader", process.stderr)
        while block := await errors.read(_LOG_BYTES):
            self._log = (self._log + block)[-_LOG_BYTES:]
        await process.wait()
        if self._process is process:
            self.exited.set()

    async def _await_result(self, process: Process, weights: Path, report: ProgressCallback) -> str:
        """Hand the child its settings and wait for its one line of result."""
        settings, results = cast("StreamWriter", process.stdin), cast("StreamReader", process.stdout)
        with suppress(ConnectionError):  # a child that is dead already says why below
            settings.write(self._settings(weights))
            await settings.drain()
        line = await _patiently(results.readline(), f"Starting the embedded model {MODEL_NAME}", report)
        result: dict[str, Any] = json.loads(line or b"{}")
        if "address" in result:
            return str(result["address"])
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(process.wait()), _PATIENCE)
        raise EmbeddedError(f"The embedded model did not start: {self._why(process, result.get('error'))}")

    def _settings(self, weights: Path) -> bytes:
        settings = {
            "weights": str(weights),
            "name": MODEL_NAME,
            "api_key": self.api_key,
            "context": self._context,
            "slots": _SLOTS,
        }
        return json.dumps(settings).encode() + b"\n"

    def _why(self, process: Process, error: object) -> str:
        log = self._log.decode(errors="replace").strip().splitlines()[-_SHOWN_LINES:]
        ending = f"its process ended with {process.returncode}" if process.returncode is not None else "it said nothing"
        return "\n  ".join([str(error or ending), *log])


async def _patiently(line: Coroutine[None, None, bytes], what: str, report: ProgressCallback) -> bytes:
    """Await the line, saying from time to time what is waited for. Raises EmbeddedError when that is too long."""
    start = time.monotonic()
    reading = asyncio.create_task(line)
    report(what)
    try:
        while not (await asyncio.wait([reading], timeout=_SILENCE))[0]:
            waited = time.monotonic() - start
            if waited > _LONGEST_START:
                raise EmbeddedError(f"The embedded model did not start within {_LONGEST_START:g} s.")
            report(f"{what} ({waited:.0f} s)")
        return reading.result()
    finally:
        reading.cancel()


def _kill(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
