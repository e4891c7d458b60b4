"""Starts, watches and stops the child process of the embedded model. The module sends no requests to the model.

The model is google/gemma-3-270m, a base model, or a model file of the operator. llama.cpp serves it in a child process
(child_main.py) on a free port of 127.0.0.1. The child requires a random key, so that other users of the machine cannot
send requests. The child ends when its standard input is closed, so it never outlives this process. The child runs in
its own session, so Ctrl-C reaches only this process, which then stops the child.
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

from proxy.backends.embedded.model_file import MIN_CONTEXT, MODEL_NAME, ModelFile, file_problem
from proxy.backends.embedded.weights import GEMMA, INSTALL, Weights, default_cache, prepare_weights
from proxy.core.errors import EmbeddedError
from proxy.core.progress import ProgressCallback

_CHILD: Final = Path(__file__).with_name("child_main.py")
_SLOTS: Final = 4  # concurrent requests; each has the full context length
_DEFAULT_CONTEXT: Final = 4096  # tokens
_MAX_CONTEXT: Final = 32768  # tokens; the context length that the built-in model was trained with
# The default sampling values, which apply to requests that set none. They were published with gemma 3.
_SAMPLING: Final = {"temp": 1.0, "top_k": 64, "top_p": 0.95, "min_p": 0.0}
_START_TIMEOUT: Final = 300.0  # seconds
_PROGRESS_INTERVAL: Final = 2.0  # seconds between two lines of progress
_EXIT_TIMEOUT: Final = 2.0  # seconds until a child that should exit is killed
_MAX_LOG_BYTES: Final = 8192  # of the end of the child's log, which is kept for error messages
_ERROR_LOG_LINES: Final = 5  # last lines of the log that an error message contains


def check_context(context: int) -> None:
    """Raise EmbeddedError if the embedded model cannot have this context length, in tokens. 0 is the default length."""
    if context and not MIN_CONTEXT <= context <= _MAX_CONTEXT:
        raise EmbeddedError(f"--context {context}: the embedded model takes {MIN_CONTEXT} to {_MAX_CONTEXT} tokens.")


class EmbeddedModel:
    """The child process that serves the embedded model.

    Attributes:
        exited: An event that is set when the child ends without a call of `stop`, and when `start` fails. The next call
            of `start` clears the event.
        name: The id of the model.
        api_key: The key that the child requires in requests; empty before the first call of `start`.
    """

    def __init__(
        self, cache: Path | None = None, context: int = 0, weights: Weights = GEMMA, file: ModelFile | None = None
    ) -> None:
        """Configure the child without starting it.

        Args:
            cache: The folder of the weights file. None means `default_cache()`.
            context: The maximum number of tokens of a request: prompt plus answer. 0 means 4096. If `file` is given,
                its context length is used instead.
            weights: The weights file of the built-in model.
            file: The model file that is served in place of the built-in model; None for the built-in model.
        """
        self.name = file.name if file else MODEL_NAME
        self._file = file
        self.exited = asyncio.Event()
        self.api_key = ""
        self._cache = cache or default_cache()
        self._context = file.context if file else context or _DEFAULT_CONTEXT
        self._weights = weights
        self._process: Process | None = None
        self._log_task: asyncio.Task[None] | None = None
        self._log = b""

    @property
    def pid(self) -> int | None:
        """The process id of the child; None if no child runs."""
        return self._process.pid if self._process else None

    async def start(self, report: ProgressCallback) -> str:
        """Start the child, after stopping any running child, and wait until its model has answered a test request.

        Args:
            report: A function that takes each line about the progress.

        Returns:
            The root URL of the server.

        Raises:
            EmbeddedError: A package is missing, the context length is not allowed, the weights cannot be prepared, or
                the child failed. If the child failed, the message contains the end of the child's log.
        """
        await self.stop()
        self._check_requirements()
        weights = self._file.path if self._file else await prepare_weights(self._weights, self._cache, report)
        self.api_key, self._log = secrets.token_urlsafe(32), b""
        self.exited.clear()
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", str(_CHILD), stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True
            )
            self._log_task = asyncio.create_task(self._read_log(self._process), name="embedded model's log")
            return await self._await_result(self._process, weights, report)
        except BaseException:
            await self.stop()
            self.exited.set()
            raise

    async def stop(self) -> None:
        """End the child within seconds, without setting `exited`. If no child runs, do nothing."""
        process, self._process = self._process, None
        log_task, self._log_task = self._log_task, None
        if process is None:
            return
        cast("StreamWriter", process.stdin).close()
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _EXIT_TIMEOUT)
        finally:
            _kill(process)
            await process.wait()
            if log_task:
                await log_task

    def _check_requirements(self) -> None:
        if find_spec("xllamacpp") is None:
            raise EmbeddedError(f"The embedded model needs the package xllamacpp, which is missing. Run: {INSTALL}")
        if not self._file:
            check_context(self._context)

    async def _read_log(self, process: Process) -> None:
        """Keep the end of the child's log until the child ends. Set `exited` if the child ended by itself."""
        errors = cast("StreamReader", process.stderr)
        while block := await errors.read(_MAX_LOG_BYTES):
            self._log = (self._log + block)[-_MAX_LOG_BYTES:]
        await process.wait()
        if self._process is process:
            self.exited.set()

    async def _await_result(self, process: Process, weights: Path, report: ProgressCallback) -> str:
        """Send the child its settings, wait for its result, and return its address."""
        settings, results = cast("StreamWriter", process.stdin), cast("StreamReader", process.stdout)
        with suppress(ConnectionError):  # the child has ended; the EmbeddedError below gives the reason
            settings.write(self._encode_settings(weights))
            await settings.drain()
        line = await _with_progress(results.readline(), f"Starting the embedded model {self.name}", report)
        result: dict[str, Any] = json.loads(line or b"{}")
        if "address" in result:
            return str(result["address"])
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(process.wait()), _EXIT_TIMEOUT)
        log = self._log.decode(errors="replace")
        reason = file_problem(self._file, log, process.returncode) if self._file else ""
        raise EmbeddedError(
            reason or f"The embedded model did not start: {_failure_reason(process, result.get('error'), log)}"
        )

    def _encode_settings(self, weights: Path) -> bytes:
        settings = {
            "weights": str(weights),
            "name": self.name,
            "api_key": self.api_key,
            "context": self._context,
            "slots": self._file.slots if self._file else _SLOTS,
            "sampling": {} if self._file else _SAMPLING,
        }
        return json.dumps(settings).encode() + b"\n"


def _failure_reason(process: Process, error: object, log: str) -> str:
    lines = log.strip().splitlines()[-_ERROR_LOG_LINES:]
    status = process.returncode
    ending = f"its process ended with status {status}" if status is not None else "its process sent no result"
    return "\n  ".join([str(error or ending), *lines])


async def _with_progress(line: Coroutine[None, None, bytes], action: str, report: ProgressCallback) -> bytes:
    """Wait for one line from the child. Until it arrives, report the text `action` every _PROGRESS_INTERVAL seconds.

    Raises EmbeddedError if no line was received within _START_TIMEOUT.
    """
    start = time.monotonic()
    reading = asyncio.create_task(line)
    report(action)
    try:
        while not (await asyncio.wait([reading], timeout=_PROGRESS_INTERVAL))[0]:
            waited = time.monotonic() - start
            if waited > _START_TIMEOUT:
                raise EmbeddedError(f"The embedded model did not start within {_START_TIMEOUT:g} s.")
            report(f"{action} ({waited:.0f} s)")
        return reading.result()
    finally:
        reading.cancel()


def _kill(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
