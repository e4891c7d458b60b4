"""Writes exposures, judgements and feedback to the store in a separate thread, so that chat requests do not wait.

New rows wait in queues of limited length, and the thread writes them to the store in batches. While the queue of
exposures is full, new exposures are dropped and counted. If the process is killed, the exposures that are not committed
yet are lost. While the store works, these are the exposures of the last quarter of a second at most.

A request that sends feedback is answered after the feedback is committed. If the commit fails, the answer asks the
client to send the feedback again. This module does not depend on routes.
"""

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any, Final, Self

from proxy.core.errors import StartupError, StoreDownError, StoreError, StoreRefusedError
from proxy.core.log import log_failure, log_warning
from proxy.core.metrics import Metrics
from proxy.experiments.records import Allocation, Content, Exposure, Feedback, Judgement
from proxy.experiments.store.dsn import StoreDsn
from proxy.experiments.store.pending_batch import PendingBatch, PendingFeedback
from proxy.experiments.store.store import Store

MAX_QUEUED_EXPOSURES: Final = 10_000  # also the maximum number of queued judgements
MAX_QUEUED_CONTENTS: Final = 500
MAX_QUEUED_FEEDBACK: Final = 2_000
WRITE_INTERVAL: Final = 0.2  # seconds between batches of exposures; feedback is written at once
_LOOK_AGAIN_PAUSE: Final = 2.5 * WRITE_INTERVAL  # seconds: other processes have then written what they had queued
_MAX_BATCH: Final = 1_000  # maximum number of rows of each kind in one transaction: exposures, judgements, feedback
_COMMIT_TIMEOUT: Final = 3.0  # seconds that a request with feedback waits for the commit
_MIN_RETRY_PAUSE: Final = 0.1  # seconds before the first retry after a failure; each further failure doubles the pause
_MAX_RETRY_PAUSE: Final = 5.0  # seconds
_ALLOCATION_INTERVAL: Final = 2.0  # seconds between reads of the decisions about experiments
_RETENTION_INTERVAL: Final = 3600.0  # seconds between deletions of old rows
_SURPLUS_INTERVAL: Final = 60.0  # seconds between deletions of requests in no experiment
_SHUTDOWN_TIMEOUT: Final = 3.0  # seconds to write the queued rows when the recorder closes


@dataclass(frozen=True, slots=True)
class Kept:
    """Which rows the store keeps. Older rows are deleted.

    Attributes:
        seconds: Age in seconds above which rows are deleted.
        requests: How many of the latest requests in no experiment are kept. None if all are kept.
    """

    seconds: float
    requests: int | None


class Recorder:
    """Records the exposures, judgements and feedback of one process. Use it as an asynchronous context manager.

    Attributes:
        allocations: The decisions about experiments by the experiment's name, as last read from the store.
    """

    def __init__(self, dsn: StoreDsn, metrics: Metrics, kept: Kept | None) -> None:
        """Create a recorder. Its thread starts in `__aenter__`, and then connects to the store.

        Args:
            dsn: The DSN of the store.
            metrics: The Prometheus metrics of the process.
            kept: Which rows the store keeps. None if another process deletes the rows that are not kept.
        """
        self.allocations: Mapping[str, Allocation] = {}
        self._dsn = dsn
        self._metrics = metrics
        self._kept = kept
        self._exposures: deque[Exposure] = deque()
        self._contents: deque[Content] = deque()
        self._judgements: deque[Judgement] = deque()
        self._feedback: deque[PendingFeedback] = deque()
        self._wake = Event()
        self._closing = False
        self._down_until = 0.0
        self._retry_pause = _MIN_RETRY_PAUSE
        self._next_allocation_read = self._next_deletion = self._next_surplus_deletion = 0.0
        self._store: Store | None = None
        self._loop: asyncio.AbstractEventLoop
        self._thread = Thread(target=self._run, name="store", daemon=True)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._closing = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join, _SHUTDOWN_TIMEOUT)
        if lost := len(self._exposures):
            self._metrics.exposures.labels("dropped").inc(lost)
            log_warning("exposures lost", exposures=lost)

    def record(self, exposures: Sequence[Exposure], content: tuple[str, str] | None = None) -> None:
        """Queue the exposures of a request without waiting. If not all fit, drop and count all of them.

        Args:
            exposures: One exposure for each experiment of the request, or one in no experiment.
            content: The texts of the request and its reply. None without `--store-content`. If the queue of
                contents is full, the content is dropped, but the exposures are queued.
        """
        if len(self._exposures) + len(exposures) > MAX_QUEUED_EXPOSURES:
            self._metrics.exposures.labels("dropped").inc(len(exposures))
            return
        if content is not None and len(self._contents) < MAX_QUEUED_CONTENTS:
            self._contents.extend(Content(exposure.id, *content) for exposure in exposures)
        self._exposures.extend(exposures)

    def record_judgement(self, judgement: Judgement) -> None:
        """Queue a judgement without waiting. If the queue is full, drop it."""
        if len(self._judgements) < MAX_QUEUED_EXPOSURES:
            self._judgements.append(judgement)

    async def save_feedback(self, feedback: Feedback) -> bool:
        """Queue feedback and wait for its commit.

        Returns:
            Whether the store has a request with the id that the feedback names. If it has none, the method looks again
            after a pause, in which other processes write their requests. The feedback is kept in both cases.

        Raises:
            StoreDownError: The queue is full, the store failed, or the commit was not confirmed within _COMMIT_TIMEOUT.
        """
        matched = await self._commit(feedback)
        if not matched:
            await asyncio.sleep(_LOOK_AGAIN_PAUSE)
            matched = await self._commit(feedback)  # the same row again, which changes nothing in the store
        self._metrics.feedback.labels("kept" if matched else "unmatched").inc()
        return matched

    async def _commit(self, feedback: Feedback) -> bool:
        """Queue feedback and wait for its commit. Return whether the store has a request with its id now."""
        if len(self._feedback) >= MAX_QUEUED_FEEDBACK or time.monotonic() < self._down_until:
            raise _store_down(self._metrics)
        committed: asyncio.Future[bool] = self._loop.create_future()
        self._feedback.append(PendingFeedback(feedback, committed))
        self._wake.set()
        try:
            async with asyncio.timeout(_COMMIT_TIMEOUT):
                return await committed
        except (TimeoutError, StoreError) as error:
            raise _store_down(self._metrics) from error

    def _run(self) -> None:
        """Write queued rows until the recorder closes. This is the main function of the thread."""
        try:
            while not self._is_finished():
                self._wake.wait(WRITE_INTERVAL)
                self._wake.clear()
                self._write_queued()
        except Exception as error:  # noqa: BLE001 - the root of a thread: the failure is logged, and chat goes on without the recorder
            log_failure("defect", error, thread="store")
            self._down_until = float("inf")
        finally:
            if self._store is not None:
                self._store.close()

    def _is_finished(self) -> bool:
        queued = self._exposures or self._feedback or self._judgements
        return self._closing and (not queued or self._is_down())

    def _is_down(self) -> bool:
        return time.monotonic() < self._down_until

    def _write_queued(self) -> None:
        """Write queued rows in batches.

        The method returns after a batch with fewer than _MAX_BATCH exposures, if no feedback is queued. It also returns
        if the store fails. The rows of the failed batch then return to the queues (see `_requeue`), and a later call
        writes them.
        """
        while not self._is_down():
            pending = self._next_batch()
            try:
                self._write(pending)
            except StoreRefusedError as error:
                self._discard(pending, error)
            except (StoreError, StartupError) as error:
                self._requeue(pending, error)
            else:
                self._confirm(pending)
                if len(pending.exposures) < _MAX_BATCH and not self._feedback:
                    return

    def _next_batch(self) -> PendingBatch:
        """Remove and return the oldest rows of each queue, at most _MAX_BATCH of each kind.

        The contents of the exposures are always in the same batch.
        """
        exposures = _pop(self._exposures)
        ids = {exposure.id for exposure in exposures}
        contents = []
        while self._contents and self._contents[0].exposure in ids:
            contents.append(self._contents.popleft())
        return PendingBatch(exposures, contents, _pop(self._judgements), _pop(self._feedback))

    def _write(self, pending: PendingBatch) -> None:
        if self._store is None:
            self._store = Store(self._dsn)
        if pending.exposures or pending.feedback or pending.judgements:
            self._store.write(pending.batch)
        if pending.feedback:
            pending.recorded = self._store.recorded({one.feedback.subject for one in pending.feedback})
        now = time.monotonic()
        if now >= self._next_allocation_read:
            self.allocations = self._store.allocations()
            self._next_allocation_read = now + _ALLOCATION_INTERVAL
        if self._kept is not None:
            self._delete(self._store, self._kept, now)
        self._metrics.store_up.set(1)

    def _delete(self, store: Store, kept: Kept, now: float) -> None:
        """Delete some of the rows that the store does not keep. If more may be left, the next call deletes them."""
        if now >= self._next_deletion:
            deleted = store.delete_before(time.time() - kept.seconds)
            self._next_deletion = now if deleted else now + _RETENTION_INTERVAL
        if kept.requests is not None and now >= self._next_surplus_deletion:
            deleted = store.delete_surplus(kept.requests)
            self._next_surplus_deletion = now if deleted else now + _SURPLUS_INTERVAL

    def _confirm(self, pending: PendingBatch) -> None:
        self._retry_pause = _MIN_RETRY_PAUSE
        self._metrics.exposures.labels("kept").inc(len(pending.exposures))
        self._notify_senders(pending, None)

    def _requeue(self, pending: PendingBatch, error: Exception) -> None:
        """Return a batch to the queues after the store failed, and close the connection.

        Feedback does not return to the queue: the clients that sent it get an error and may send it again.
        """
        self._down_until = time.monotonic() + self._retry_pause
        self._notify_senders(pending, StoreError(str(error)))
        self._exposures.extendleft(reversed(pending.exposures))
        self._contents.extendleft(reversed(pending.contents))
        self._judgements.extendleft(reversed(pending.judgements))
        if self._retry_pause == _MIN_RETRY_PAUSE:
            log_warning("store unavailable", store=self._dsn.name, reason=str(error))
        self._retry_pause = min(2 * self._retry_pause, _MAX_RETRY_PAUSE)
        self._metrics.store_up.set(0)
        if self._store is not None:
            self._store.close()
            self._store = None

    def _discard(self, pending: PendingBatch, error: StoreRefusedError) -> None:
        """Drop a batch that contains a row which the store rejected, since the store would reject the batch again.

        The dropped exposures are counted. The clients that sent the feedback of the batch get an error.
        """
        log_failure("defect", error, exposures=len(pending.exposures), feedback=len(pending.feedback))
        self._metrics.exposures.labels("dropped").inc(len(pending.exposures))
        self._notify_senders(pending, error)

    def _notify_senders(self, pending: PendingBatch, error: StoreError | None) -> None:
        """Let the event loop complete the futures of the feedback, all in one call. The writing thread calls this."""
        if pending.feedback and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(pending.complete, error)


def _pop(queue: "deque[Any]") -> list[Any]:
    """Remove and return the oldest items, up to _MAX_BATCH. The event loop may append items at the same time."""
    return [queue.popleft() for _ in range(min(len(queue), _MAX_BATCH))]


def _store_down(metrics: Metrics) -> StoreDownError:
    metrics.feedback.labels("refused").inc()
    return StoreDownError("Feedback cannot be stored at the moment. Send the same feedback again later.")
