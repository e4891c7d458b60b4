"""What a person sees of a run while it goes on: on a terminal one line that changes, else a line now and then. Knows
the journal's events, and how to say them; prints to stderr.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from optimizer.core.budget import Limits
from optimizer.core.confidence import bootstrap_mean
from optimizer.core.journal import Event

_SAY_EVERY: Final = 30.0
_PACE_OF: Final = 20
"""Judgements from which the speed is reckoned: the last ones, since those that a journal knew take no time."""
_STAGES: Final = {
    "examples": "writing examples",
    "prompt": "searching the prompt",
    "tune": "tuning",
    "sealed": "sealed evaluation",
}


class ProgressDisplay:
    """Shows events. Use as a context manager; `see` is what a Journal's `watch` takes."""

    def __init__(self, limits: Limits, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._console = console
        self._clock = clock
        self._stage = "starting"
        self._planned = 0
        self._judged = 0
        self._times: deque[float] = deque(maxlen=_PACE_OF)
        self._best = ""
        self._calls = 0
        self._tokens = 0
        self._money = 0.0
        self._seconds = 0.0
        self._said = clock()
        self._replaying = True
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._replaying = False
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def see(self, event: Event) -> None:
        """Take up one event."""
        if event.get("call") == "reply":
            self._calls += 1
            self._tokens += sum(event["tokens"])
            self._money += event["money"]
        elif event.get("tick"):
            self._seconds += event["seconds"]
        elif event.get("note") == "score":
            self._see_score(event)
        elif "note" in event and (said := self._say(event)) and not self._replaying:
            self._console.print(said, highlight=False, markup=False, soft_wrap=True)
        self._show()

    @property
    def status(self) -> str:
        """Stage, how far it is where that is known, best score, and what was spent of what."""
        spent = [
            f"{self._calls:,}{_of(self._limits.calls)} calls",
            f"{self._tokens:,}{_of(self._limits.tokens)} tokens",
        ]
        if self._money or self._limits.money:
            spent.append(f"{self._money:.2f}{_of(self._limits.money)} money")
        spent.append(f"{self._seconds / 60:.1f}{_of(self._limits.minutes)} min")
        return " | ".join(part for part in (self._stage, self._progress, self._best, ", ".join(spent)) if part)

    @property
    def _progress(self) -> str:
        """Of a stage that knows its end; the others go on until nothing improves, or the budget is spent."""
        if not self._planned:
            return ""
        done = f"{self._judged}/{self._planned} judged"
        left = self._planned - self._judged
        if len(self._times) < _PACE_OF or not left:
            return done
        minutes = (self._clock() - self._times[0]) / len(self._times) * left / 60
        return f"{done}, {max(1, round(minutes))} min left"

    def _see_score(self, event: Event) -> None:
        if event["stage"] == "sealed":
            self._judged += 1
            if not self._replaying:
                self._times.append(self._clock())

    def _show(self) -> None:
        if self._replaying:
            return
        if self._console.is_terminal:
            self._live.update(Text(self.status))
        elif self._clock() - self._said >= _SAY_EVERY:
            self._said = self._clock()
            self._console.print(self.status, highlight=False, markup=False, soft_wrap=True)

    def _say(self, event: Event) -> str:
        say = {
            "stage": self._say_stage,
            "level": self._say_level,
            "trial": _say_trial,
            "bank": _say_bank,
            "spent": _say_spent,
        }.get(event["note"])
        return say(event) if say else ""

    def _say_stage(self, event: Event) -> str:
        self._stage, self._best = _STAGES[event["stage"]], ""
        self._planned = event.get("judgements", 0)
        return f"{self._stage}: {event['rows']} queries"

    def _say_level(self, event: Event) -> str:
        best = event["ranked"][0]
        mean = bootstrap_mean(best["scores"])
        self._best = f"best {mean.estimate:.3f} [{mean.low:.3f}, {mean.high:.3f}]"
        candidates, judged = len(event["ranked"]), sum(len(one["scores"]) for one in event["ranked"])
        return f"  level {event['number'] + 1}: {candidates} candidates, {judged} judgements, {self._best}"


def _say_trial(event: Mapping[str, Any]) -> str:
    mark = " (kept)" if event["kept"] else ""
    interval = f"[{event['low']:.3f}, {event['high']:.3f}]"
    return f"  {event['knob']} = {event['value']}: {event['mean']:.3f} {interval}, {event['rows']} queries{mark}"


def _say_bank(event: Mapping[str, Any]) -> str:
    return f"  {event['size']} examples chosen, {event['pinned']} pinned"


def _say_spent(event: Mapping[str, Any]) -> str:
    return f"the budget of {event['what']} is spent: the best so far is evaluated"


def _of(limit: float | None) -> str:
    return "" if limit is None else f"/{limit:,.10g}"
