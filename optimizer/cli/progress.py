"""Shows the progress of a run: prints a line when a stage starts or gets a result, and shows the current status.

On a terminal, the status is the last line and changes with each event of the journal. In any other output, such as a
log file, a new status line is printed at most every 30 seconds. This module learns about the run only from the events
of the journal.
"""

import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from index.counted import counted
from index.measures.confidence import bootstrap_mean
from optimizer.core.budget import Limits
from optimizer.core.journal import (
    DROPPED,
    ESTIMATED,
    JUDGE_TRUST,
    NO_CHANGE,
    RACE_LENGTH,
    SET_PROMPTS,
    SPECIFICATION,
    UNUSABLE,
    Event,
)
from optimizer.models.token_count import NO_USAGE

_STATUS_INTERVAL: Final = 30.0  # seconds
_SPEED_WINDOW: Final = 20
"""Number of judgements from which the remaining time is estimated.

Only judgements since the command was started count. The display does not know how long earlier judgements took.
"""
_STAGE_TITLES: Final = {
    "judge": "checking the judge",
    "examples": "writing examples",
    "prompt": "searching",
    "tune": "tuning",
    "sealed": "sealed evaluation",
}


class ProgressDisplay:
    """Shows the progress of a run. Use it as a context manager.

    The caller passes the method `on_event` to the journal. A journal that is opened again calls this method with each
    event that it already contains. The display only counts these events. It begins to print when the context is
    entered.
    """

    def __init__(self, limits: Limits, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._console = console
        self._clock = clock
        self._stage = "starting"
        self._planned_judgements = 0
        self._judgements = 0
        self._judgement_times: deque[float] = deque(maxlen=_SPEED_WINDOW)
        self._best = ""
        self._calls = 0
        self._tokens = 0
        self._money = 0.0
        self._seconds = 0.0
        self._unanswered: dict[str, Event] = {}
        self._last_status_time = clock()
        self._is_replaying = True
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._is_replaying = False
        for event in self._unanswered.values():
            self._add_cost(1, event["tokens"], event["money"])
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def on_event(self, event: Event) -> None:
        """Count an event of the journal. If the context is entered, also print the event's line and update the status.

        Not every kind of event has a line.
        """
        if self._is_replaying and "key" in event:
            self._count_unanswered(event)
        if event.get("call") == "reply":
            self._add_cost(1, sum(event["tokens"]), event["money"])
        elif event.get("call") == "failed":
            self._add_cost(event["calls"], event["tokens"], event["money"])
        elif event.get("tick"):
            self._seconds += event["seconds"]
        elif event.get("note") == "score":
            self._count_score(event)
        elif "note" in event and (line := self._note_line(event)) and not self._is_replaying:
            self._print(line)
        self._show_status()

    def _count_unanswered(self, event: Event) -> None:
        """Find the calls that an earlier session sent, and whose replies it did not get. The budget counts them."""
        earlier = self._unanswered.pop(event["key"], None)
        if event["call"] == "sent":
            self._unanswered[event["key"]] = event
            if earlier is not None:
                self._add_cost(1, earlier["tokens"], earlier["money"])

    def _add_cost(self, calls: int, tokens: int, money: float) -> None:
        self._calls += calls
        self._tokens += tokens
        self._money += money

    @property
    def status(self) -> str:
        """One line with the stage, its progress, the best score, and the calls, tokens, money and minutes spent.

        Each of these amounts is followed by its limit, if there is one.
        """
        spent = [
            f"{self._calls:,}{_limit_text(self._limits.calls)} calls",
            f"{self._tokens:,}{_limit_text(self._limits.tokens)} tokens",
        ]
        if self._money or self._limits.money:
            spent.append(f"{self._money:.2f}{_limit_text(self._limits.money)} money")
        spent.append(f"{self._seconds / 60:.1f}{_limit_text(self._limits.minutes)} min")
        return " | ".join(part for part in (self._stage, self._stage_progress, self._best, ", ".join(spent)) if part)

    @property
    def _stage_progress(self) -> str:
        """The number of finished judgements of the stage, and the estimated minutes until the last judgement.

        The minutes are left out until there are enough judgements for an estimate. The text is empty for a stage whose
        total number of judgements is not known.
        """
        if not self._planned_judgements:
            return ""
        done = f"{self._judgements}/{self._planned_judgements} judged"
        left = self._planned_judgements - self._judgements
        if len(self._judgement_times) < _SPEED_WINDOW or not left:
            return done
        minutes = (self._clock() - self._judgement_times[0]) / len(self._judgement_times) * left / 60
        return f"{done}, {max(1, round(minutes))} min left"

    def _count_score(self, event: Event) -> None:
        if event["stage"] == "sealed":
            self._judgements += 1
            if not self._is_replaying:
                self._judgement_times.append(self._clock())

    def _show_status(self) -> None:
        if self._is_replaying:
            return
        if self._console.is_terminal:
            self._live.update(Text(self.status))
        elif self._clock() - self._last_status_time >= _STATUS_INTERVAL:
            self._last_status_time = self._clock()
            self._print(self.status)

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _note_line(self, event: Event) -> str:
        """Return the line for a `note` event. It is empty for a kind of note that has no line."""
        to_line = {
            "stage": self._start_stage,
            "level": self._finish_level,
            "trial": _trial_line,
            "bank": _bank_line,
            "spent": _spent_line,
            RACE_LENGTH: _race_length_line,
            SET_PROMPTS: _set_prompts_line,
            SPECIFICATION: _specification_line,
            UNUSABLE: _unusable_line,
            DROPPED: _dropped_line,
            JUDGE_TRUST: _trust_line,
            ESTIMATED: _estimated_line,
        }.get(event["note"])
        return to_line(event) if to_line else ""

    def _start_stage(self, event: Event) -> str:
        self._stage, self._best = _STAGE_TITLES[event["stage"]], ""
        self._planned_judgements = event.get("judgements", 0)
        return f"{self._stage}: {counted(event['rows'], 'query')}"

    def _finish_level(self, event: Event) -> str:
        best = event["ranked"][0]
        mean = bootstrap_mean(best["scores"])
        self._best = f"best {mean.estimate:.3f} [{mean.low:.3f}, {mean.high:.3f}]"
        candidates = counted(len(event["ranked"]), "candidate")
        judgements = counted(sum(len(one["scores"]) for one in event["ranked"]), "judgement")
        line = f"  level {event['number'] + 1}: {candidates}, {judgements}, {self._best}"
        won = [f"{name} {won} of {tried}" for name, (tried, won) in event["proposers"].items()]
        return f"{line}; won so far: {', '.join(won)}"


def _trial_line(event: Event) -> str:
    mark = " (kept)" if event["kept"] else ""
    interval = f"[{event['low']:.3f}, {event['high']:.3f}]"
    return (
        f"  {event['knob']} = {event['value']}: {event['mean']:.3f} {interval}, {counted(event['rows'], 'query')}{mark}"
    )


def _bank_line(event: Event) -> str:
    return f"  {counted(event['size'], 'example')} chosen, {event['pinned']} pinned"


def _spent_line(event: Event) -> str:
    return f"the budget of {event['what']} is spent. The best candidate so far is evaluated."


def _race_length_line(event: Event) -> str:
    allows = f"[budget] {event['limit']} allows about {counted(event['scores'], 'more score')}"
    most = counted(event["queries"], "query")
    return f"  {allows}, so a race uses at most {most} ([search] queries sets another maximum)"


def _set_prompts_line(event: Event) -> str:
    return f"  the sets {', '.join(event['sets'])} have prompts of their own. A new prompt replaces all of them"


def _specification_line(event: Event) -> str:
    stated = " ".join(event["rules"]) or "nothing in common"
    return f"  what people prefer, in {counted(event['pairs'], 'pair')} of answers: {stated}"


def _unusable_line(event: Event) -> str:
    return f"  {event['row']} is left out of {event['part']}: {event['why']}"


def _dropped_line(event: Event) -> str:
    if NO_CHANGE in event["why"]:
        return ""  # there are many, and the report counts them
    return f"  dropped {event['count']} of {event['what']}: {event['why']}"


def _trust_line(event: Event) -> str:
    line = f"  the judge {event['text']}"
    return f"{line}\nWARNING: {event['caution']} {event['advice']}" if event["caution"] else line


def _estimated_line(event: Event) -> str:
    return f"  {event['role']}: {NO_USAGE}"


def _limit_text(limit: float | None) -> str:
    return "" if limit is None else f"/{limit:,.10g}"
