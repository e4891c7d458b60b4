"""Where a request meets the experiments: which it is in, what it is served then, and what is noted of it at its end.

Knows no route. Nothing here waits: what is noted goes to the recorder's queue.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from random import getrandbits
from typing import Final

from proxy.errors import BadRequestError
from proxy.feedback import Recorder
from proxy.live import ServedBundle
from proxy.metrics import Metrics
from proxy.models import Model
from proxy.outcomes import Exposure
from proxy.record import Record
from proxy.trials import Asker, Entry, Setting, Trial, Trials, enrol
from proxy.variants import RAW

_LONGEST_CONTENT: Final = 64 * 1024  # bytes, of what was asked and of what was answered
_ID_BITS: Final = 128


@dataclass(slots=True)
class Laboratory:
    """The experiments of a server that has a store. trials: those being served now; a reload replaces them, whole."""

    recorder: Recorder
    metrics: Metrics
    trials: Trials | None = None

    def enrol(
        self, asker: Asker, setting: Setting, models: Mapping[str, Model], bundled: Mapping[str, ServedBundle]
    ) -> tuple[Trial | None, Setting]:
        """The experiments that a request is in, and what it is served with: without any, what it would be anyway. An
        arm whose model no backend lists now is not served: the request stays outside of the experiment, counted."""
        if self.trials is None:
            return None, setting
        trial, changed = enrol(self.trials, self.recorder.steering, asker, setting, bundled, time.time())
        if changed.choice.model not in models:
            self._count(trial, "unavailable")
            return None, setting
        self._count(trial)
        return trial, changed

    def note(self, trial: Trial, record: Record, seconds: float) -> None:
        """Keep what a request came to: one exposure for each experiment that it is in. seconds: it took."""
        exposures = [_exposure(trial, entry, record, seconds) for entry in trial.entries]
        content = None
        if record.facts.content is not None:
            content = _text(record.asked), _text(record.facts.content)
        self.recorder.note(exposures, content)

    def _count(self, trial: Trial | None, unavailable: str = "") -> None:
        for entry in trial.entries if trial else ():
            self.metrics.experiment_requests.labels(entry.experiment.name, unavailable or _label(entry)).inc()


def _label(entry: Entry) -> str:
    if entry.arm is None:
        return "before start"
    return "override" if entry.override else entry.arm.name


def _exposure(trial: Trial, entry: Entry, record: Record, seconds: float) -> Exposure:
    plan, facts, watch = record.plan, record.facts, record.facts.watch
    usage = facts.usage or {}
    client_gone = record.outcome == "client_gone"
    error = record.status >= BadRequestError.status and not client_gone
    is_whole = record.outcome == "complete" and not error
    served = trial.setting.served if trial.setting.choice.variant != RAW else None
    return Exposure(
        id=getrandbits(_ID_BITS).to_bytes(_ID_BITS // 8),
        experiment=entry.experiment.name,
        arm=entry.arm.name if entry.arm else "",
        propensity=entry.propensity,
        override=entry.override,
        unit=trial.unit,
        request_id=record.request_id,
        completion_id=watch.completion_id if watch else None,
        time=trial.time,
        model=trial.setting.choice.model,
        variant=trial.setting.choice.variant,
        bundle=served.id if served else None,
        asked=trial.asked,
        latency=seconds if is_whole else None,
        time_to_first_token=record.first_byte if plan and plan.stream and not error else None,
        prompt_tokens=_count_of(usage, "prompt_tokens", "input_tokens"),
        completion_tokens=_count_of(usage, "completion_tokens", "output_tokens"),
        ended_by_itself=watch.ended_by_itself if watch and is_whole else None,
        truncated=facts.truncated,
        error=error,
        client_gone=client_gone,
    )


def _count_of(usage: Mapping[str, object], *names: str) -> int | None:
    """A count of tokens under either API's name."""
    return next((found for name in names if isinstance(found := usage.get(name), int)), None)


def _text(data: bytes | bytearray) -> str:
    """As a database takes it: PostgreSQL has no NUL in a text."""
    return bytes(data[:_LONGEST_CONTENT]).decode("utf-8", "replace").replace("\0", "\ufffd")
