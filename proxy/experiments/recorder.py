"""Keeps exposures and outcomes without making a chat request wait: a bounded queue, and a thread that writes.

Exposures are written in batches and may be dropped: counted, when the queue is full; uncounted, when the process is
killed, which costs those since the last commit (a quarter of a second's, while the store is well). Feedback is
acknowledged after its commit, with all that came meanwhile; where that fails, its sender is told to send it again.
"""

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any, Final, Self

from proxy.core.errors import StartupError, StoreDownError, StoreError, StoreRefusedError
from proxy.core.log import log_event, log_failure
from proxy.core.metrics import Metrics
from proxy.experiments.records import Allocation, Content, Exposure, Feedback, Judgement
from proxy.experiments.store.store import Batch, Place, Store

EXPOSURES_HELD: Final = 10_000
CONTENTS_HELD: Final = 500
FEEDBACK_HELD: Final = 2_000
GATHERED_FOR: Final = 0.2  # seconds; feedback does not wait for them
_WRITTEN_TOGETHER: Final = 1_000
_ANSWER_WITHIN: Final = 3.0  # seconds from feedback to its commit
_FIRST_PAUSE: Final = 0.1  # seconds after a failure, doubled with each that follows
_LONGEST_PAUSE: Final = 5.0
_LOOK_EVERY: Final = 2.0  # seconds between looks at what was decided about experiments
_CLEAN_EVERY: Final = 3600.0  # seconds between looks for what is older than it may be
_LAST_WORDS: Final = 3.0  # seconds, at the end


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Feedback whose sender waits."""

    feedback: Feedback
    kept: "asyncio.Future[None]" = field(repr=False)


@dataclass(slots=True)
class _Taken:
    """What one transaction is to keep."""

    exposures: list[Exposure]
    contents: list[Content]
    judgements: list[Judgement]
    waiting: list[_Waiting]

    @property
    def batch(self) -> Batch:
        feedback = [one.feedback for one in self.waiting]
        return Batch(self.exposures, self.contents, self.judgements, feedback)


class Recorder:
    """What a process keeps of its experiments. Use as `async with`. retention: seconds that anything is kept; cleans:
    whether this process deletes what is older. `steering` is what was decided about experiments, as last seen."""

    def __init__(self, place: Place, retention: float, metrics: Metrics, *, cleans: bool) -> None:
        self.allocations: Mapping[str, Allocation] = {}
        self._place = place
        self._retention = retention
        self._metrics = metrics
        self._cleans = cleans
        self._exposures: deque[Exposure] = deque()
        self._contents: deque[Content] = deque()
        self._judgements: deque[Judgement] = deque()
        self._waiting: deque[_Waiting] = deque()
        self._woken = Event()
        self._closing = False
        self._down_until = 0.0
        self._pause = _FIRST_PAUSE
        self._look_at = self._clean_at = 0.0
        self._store: Store | None = None
        self._loop: asyncio.AbstractEventLoop
        self._thread = Thread(target=self._run, name="store", daemon=True)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._closing = True
        self._woken.set()
        await asyncio.to_thread(self._thread.join, _LAST_WORDS)
        if lost := len(self._exposures):
            self._metrics.exposures.labels("dropped").inc(lost)
            log_event("exposures lost", exposures=lost)

    def note(self, exposures: Sequence[Exposure], content: tuple[str, str] | None = None) -> None:
        """Take a request's exposures, to be kept soon; drop them where too many wait. Never waits."""
        if len(self._exposures) + len(exposures) > EXPOSURES_HELD:
            self._metrics.exposures.labels("dropped").inc(len(exposures))
            return
        if content is not None and len(self._contents) < CONTENTS_HELD:
            self._contents.extend(Content(exposure.id, *content) for exposure in exposures)
        self._exposures.extend(exposures)

    def note_judgement(self, judgement: Judgement) -> None:
        """Take a judgement, to be kept soon."""
        if len(self._judgements) < EXPOSURES_HELD:
            self._judgements.append(judgement)

    async def keep(self, feedback: Feedback) -> None:
        """Return when it is kept for good. Raises StoreDownError where it is not, or not known to be."""
        if len(self._waiting) >= FEEDBACK_HELD or time.monotonic() < self._down_until:
            raise _down(self._metrics)
        kept = self._loop.create_future()
        self._waiting.append(_Waiting(feedback, kept))
        self._woken.set()
        try:
            async with asyncio.timeout(_ANSWER_WITHIN):
                await kept
        except (TimeoutError, StoreError) as error:
            raise _down(self._metrics) from error
        self._metrics.feedback.labels("kept").inc()

    def _run(self) -> None:
        """The thread: write what is at hand, again and again; look after the store in between."""
        try:
            while not self._is_over():
                self._woken.wait(GATHERED_FOR)
                self._woken.clear()
                self._turn()
        except Exception as error:  # noqa: BLE001 - the root of a thread: what ends it is said, and chat goes on without it
            log_failure("defect", error, thread="store")
            self._down_until = float("inf")
        finally:
            if self._store is not None:
                self._store.close()

    def _is_over(self) -> bool:
        left = self._exposures or self._waiting or self._judgements
        return self._closing and (not left or self._is_down())

    def _is_down(self) -> bool:
        return time.monotonic() < self._down_until

    def _turn(self) -> None:
        """Write until nothing is left, or something fails: what failed is tried again after a pause."""
        while not self._is_down():
            taken = self._take()
            try:
                self._work(taken)
            except StoreRefusedError as error:
                self._give_up(taken, error)
            except (StoreError, StartupError) as error:
                self._give_back(taken, error)
            else:
                self._note_kept(taken)
                if len(taken.exposures) < _WRITTEN_TOGETHER and not self._waiting:
                    return

    def _take(self) -> _Taken:
        """What is at hand, as much as one transaction should have."""
        exposures = _pop(self._exposures)
        ids = {exposure.id for exposure in exposures}
        contents = []
        while self._contents and self._contents[0].exposure in ids:
            contents.append(self._contents.popleft())
        return _Taken(exposures, contents, _pop(self._judgements), _pop(self._waiting))

    def _work(self, taken: _Taken) -> None:
        if self._store is None:
            self._store = Store(self._place)
        if taken.exposures or taken.waiting or taken.judgements:
            self._store.write(taken.batch)
        now = time.monotonic()
        if now >= self._look_at:
            self.allocations = self._store.allocations()
            self._look_at = now + _LOOK_EVERY
        if self._cleans and now >= self._clean_at:
            deleted = self._store.delete_before(time.time() - self._retention)
            self._clean_at = now if deleted else now + _CLEAN_EVERY
        self._metrics.store_up.set(1)

    def _note_kept(self, taken: _Taken) -> None:
        self._pause = _FIRST_PAUSE
        self._metrics.exposures.labels("kept").inc(len(taken.exposures))
        self._answer(taken.waiting, None)

    def _give_back(self, taken: _Taken, error: Exception) -> None:
        """The store is not well: senders are told, exposures wait for it, a fresh connection is made next time."""
        self._down_until = time.monotonic() + self._pause
        self._answer(taken.waiting, StoreError(str(error)))
        self._exposures.extendleft(reversed(taken.exposures))
        self._contents.extendleft(reversed(taken.contents))
        self._judgements.extendleft(reversed(taken.judgements))
        if self._pause == _FIRST_PAUSE:
            log_event("store unavailable", store=self._place.name, reason=str(error))
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        self._metrics.store_up.set(0)
        if self._store is not None:
            self._store.close()
            self._store = None

    def _give_up(self, taken: _Taken, error: StoreRefusedError) -> None:
        """A row that the store does not take would not be taken the next time: what came with it goes, counted."""
        log_failure("defect", error, exposures=len(taken.exposures), feedback=len(taken.waiting))
        self._metrics.exposures.labels("dropped").inc(len(taken.exposures))
        self._answer(taken.waiting, error)

    def _answer(self, waiting: Sequence[_Waiting], error: StoreError | None) -> None:
        """Tell those who wait, all in one turn of the event loop."""
        if waiting and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_settle, waiting, error)


def _settle(waiting: Sequence[_Waiting], error: StoreError | None) -> None:
    for one in waiting:
        if one.kept.done():
            continue
        if error is None:
            one.kept.set_result(None)
        else:
            one.kept.set_exception(error)


def _pop(queue: "deque[Any]") -> list[Any]:
    """The oldest; others may append meanwhile."""
    return [queue.popleft() for _ in range(min(len(queue), _WRITTEN_TOGETHER))]


def _down(metrics: Metrics) -> StoreDownError:
    metrics.feedback.labels("refused").inc()
    return StoreDownError("Feedback cannot be kept at the moment: send the same again later.")
