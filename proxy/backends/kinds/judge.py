"""Decides the kind of each model of a backend once. A model that answers late gets a provisional decision.

The kind is decided again if the model's entry in the backend's list changes, or after the backend missed a health
check. In both cases, another model may now have the same name. If the proxy has several workers, one of them asks the
questions, and the others read its decision from a file (decide_once).
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import orjson

from proxy.backends.file_lock import file_lock
from proxy.backends.kinds.decision import Decision
from proxy.backends.kinds.probe import KeyNeededError
from proxy.core.errors import ProxyError
from proxy.core.log import log_event
from proxy.core.settings import Kind

MAX_MODELS: Final = 16
"""At most this many models of one backend are asked questions. A question may load a model or cost money."""
_MAX_UNDECIDED: Final = 120.0  # maximum seconds for which a model is not served, because its kind is not known
_PROGRESS_DELAY: Final = 2.0  # seconds after which the log says that the proxy waits for answers
_MIN_RETRY_DELAY: Final = 5.0  # seconds; each further delay is twice as long
_MAX_RETRY_DELAY: Final = 300.0  # seconds
_MAX_AT_ONCE: Final = 2  # models of one backend that are asked at the same time
_LOCK_INTERVAL: Final = 0.05  # seconds between two attempts to lock

_UNANSWERED: Final = Decision(None, "", "it has not answered short questions yet", settled=False)

Probe = Callable[[], Awaitable[Decision]]  # asks one model, and decides its kind


@dataclass(slots=True)
class _Attempt:
    """One attempt to ask a model. All times are on the clock of the event loop, in seconds.

    Attributes:
        task: Asks the model, and returns the decision.
        begun: The time of the first attempt for this model.
        delay: How long to wait after a failed attempt before the next one begins.
        retry_at: The time at which the next attempt may begin; 0 until this attempt has ended.
    """

    task: "asyncio.Task[Decision]"
    begun: float
    delay: float = _MIN_RETRY_DELAY
    retry_at: float = 0.0


class KindJudge:
    """Decides the kinds of the models of one backend, and remembers the decisions."""

    def __init__(self) -> None:
        self._attempts: dict[str, _Attempt] = {}
        self._earlier: dict[str, Decision] = {}
        self._since = 0.0  # wall-clock time; decisions from before this time are not valid
        self._at_once = asyncio.Semaphore(_MAX_AT_ONCE)

    @property
    def asking(self) -> bool:
        """Whether a model is being asked the questions that show its kind."""
        return any(not attempt.task.done() for attempt in self._attempts.values())

    def forget(self) -> None:
        """Decide all kinds again when the models are listed next. Until then, the last decisions are provisional."""
        for model, attempt in self._attempts.items():
            if attempt.task.done() and not attempt.task.cancelled():
                self._earlier[model] = attempt.task.result()
            attempt.task.cancel()
        self._attempts.clear()
        self._since = time.time()

    async def wait(self, interval: float) -> None:
        """Wait for `interval` seconds, or until one of the models that are being asked has answered."""
        asked = [attempt.task for attempt in self._attempts.values() if not attempt.task.done()]
        if asked:
            await asyncio.wait(asked, timeout=interval, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(interval)

    async def decide(
        self, identity: tuple[str, ...], reported: Kind | None, probe: Probe, deadline: float, folder: Path | None
    ) -> Decision:
        """Return the decision about a model.

        If the model has not answered by the deadline, return a provisional decision (`settled` is False).

        An unsettled decision has the kind of an earlier decision about the same model. If there is no earlier decision,
        the kind is None for `_MAX_UNDECIDED` seconds, so that the model is not served in the wrong form. After that
        time, the kind is a guess, so that even a server that never answers the questions can be used.

        Args:
            identity: Identifies the model. The first two texts are the backend's URL and the model's id.
            reported: The kind that the server reports; None if it reports none.
            probe: Asks the model. It may raise ProxyError.
            deadline: The time until which to wait, in seconds on the clock of the event loop.
            folder: The folder of the decisions that all workers share; None if there is only one process.
        """
        key = hashlib.sha256(orjson.dumps(identity)).hexdigest()
        attempt = self._attempts.get(key)
        if attempt is None and len(self._attempts) >= MAX_MODELS:
            return Decision(reported or "chat", "it was not asked", f"the backend lists more than {MAX_MODELS} models")
        loop = asyncio.get_running_loop()
        if attempt is None or (_has_failed(attempt) and loop.time() >= attempt.retry_at):
            attempt = self._attempts[key] = self._start(key, identity[1], reported, probe, folder, attempt)
        await asyncio.wait([attempt.task], timeout=max(0.0, deadline - loop.time()))
        decision = _UNANSWERED
        if attempt.task.done() and not attempt.task.cancelled():
            decision = attempt.task.result()
        if decision.settled:
            return decision
        if earlier := self._earlier.get(key):
            return replace(earlier, doubt=decision.doubt, settled=False)
        may_wait = decision.kind is None and loop.time() < attempt.begun + _MAX_UNDECIDED
        return decision if may_wait else _guess(decision, reported)

    def _start(
        self, key: str, model: str, reported: Kind | None, probe: Probe, folder: Path | None, failed: _Attempt | None
    ) -> _Attempt:
        async def run() -> Decision:
            async with self._at_once:
                return await _without_errors(reported, lambda: decide_once(folder, key, self._since, probe))

        loop = asyncio.get_running_loop()
        delay = min(2 * failed.delay, _MAX_RETRY_DELAY) if failed else _MIN_RETRY_DELAY
        begun = failed.begun if failed else loop.time()
        attempt = _Attempt(asyncio.create_task(run(), name="kind of a model"), begun, delay)
        progress = loop.call_later(_PROGRESS_DELAY, _log_progress, model)

        def end(_: object) -> None:
            progress.cancel()
            attempt.retry_at = loop.time() + attempt.delay

        attempt.task.add_done_callback(end)
        return attempt

    async def close(self) -> None:
        """Cancel the attempts that are running."""
        tasks = [attempt.task for attempt in self._attempts.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def decide_once(folder: Path | None, key: str, since: float, probe: Probe) -> Decision:
    """Return the decision of another worker, or ask the model and store the decision for the other workers.

    Args:
        folder: The folder that the workers share; None if there are no other workers.
        key: Identifies the model. It is part of file names.
        since: The wall-clock time before which a stored decision is not valid.
        probe: Asks the model.
    """
    if folder is None:
        return await probe()
    stored = folder / f"kind-{key}"
    async with file_lock(stored.with_suffix(".lock"), _LOCK_INTERVAL):
        if stored.exists() and stored.stat().st_mtime >= since:
            return Decision(**orjson.loads(stored.read_bytes()))
        decision = await probe()
        stored.write_bytes(orjson.dumps(asdict(decision)))
        return decision


async def _without_errors(reported: Kind | None, probe: Probe) -> Decision:
    """Return the decision, or an unsettled decision that says why the model could not be asked.

    If the server needs the key of a client, waiting does not help. The unsettled decision then has a guessed kind.
    """
    try:
        return await probe()
    except (ProxyError, OSError) as error:
        decision = Decision(None, "", f"it could not be asked: {str(error).rstrip('.')}", settled=False)
        return _guess(decision, reported) if isinstance(error, KeyNeededError) else decision


def _has_failed(attempt: _Attempt) -> bool:
    return attempt.task.done() and not attempt.task.result().settled


def _guess(decision: Decision, reported: Kind | None) -> Decision:
    evidence = "the server reports this kind" if reported else "it is a guess, because the server reports no kind"
    return replace(decision, kind=reported or "chat", evidence=evidence)


def _log_progress(model: str) -> None:
    log_event(
        "model kind", model=model, waiting="for answers to short questions, which show whether it is a chat model"
    )
