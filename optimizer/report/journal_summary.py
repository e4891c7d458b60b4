"""Summarizes a run's journal for people who have only its bundle: plain values without rows, answers or prompts.

The summary says for each level of the search how many calls it took, what each proposer proposed, what was kept, and
the mean reward of the best candidate. It is the file `journal.json` of a bundle that ships. This module writes no file.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from math import isnan
from typing import Any, Final

from index.measures.confidence import Interval
from optimizer.core.journal import Event
from optimizer.report.run_summary import LevelSummary, PromptNode, RunSummary, summarize_run

_DIGITS: Final = 4
_NOT_FIGURES: Final = ("at", "note")


@dataclass(frozen=True, slots=True)
class _LevelEvents:
    """What the journal says about one level.

    Attributes:
        kept: The keys of the candidates that the next level starts from, the best one first.
        calls: The number of replies by role.
        proposed: What each proposer changed, by the name of the proposer.
    """

    kept: Sequence[str]
    calls: Mapping[str, int]
    proposed: Mapping[str, Sequence[str]]


@dataclass(slots=True)
class _Open:
    """The counts of a level while its events are read."""

    calls: Counter[str] = field(default_factory=Counter)
    proposed: dict[str, list[str]] = field(default_factory=dict)


def journal_record(events: Sequence[Event]) -> dict[str, Any]:
    """Return the summary of a journal, whether its run is finished or not."""
    summary = summarize_run(events)
    run = next((event for event in events if event.get("note") == "run"), {})
    levels = zip(summary.levels, _level_events(events), strict=True)
    return {
        "run": summary.name,
        "recipe": summary.recipe,
        "seed": run.get("seed"),
        "begun": _time(events[0]) if events else None,
        "ended": _time(events[-1]) if events else None,
        "minutes": round(summary.minutes, 1),
        "finished": summary.bundle is not None,
        "ended_by_budget": summary.spent_out,
        "rows": {event["stage"]: event["rows"] for event in events if event.get("note") == "stage"},
        "usage": usage_record(summary),
        "proposers": {name: {"tried": one[0], "won": one[1]} for name, one in summary.proposers.items()},
        "levels": [_level(level, seen, summary) for level, seen in levels],
        "tuning": [_figures(event) for event in summary.trials],
        "dropped": [{"what": what, "why": why, "count": n} for (what, why), n in sorted(summary.dropped.items())],
        "rows_left_out": len(summary.left_out),
        "judge_trust": [_figures(event) for event in summary.judge_trust],
        "sealed": _figures(summary.sealed) if summary.sealed else None,
    }


def usage_record(summary: RunSummary) -> dict[str, dict[str, Any]]:
    """Return the calls, the tokens and the cost of each role."""
    return {role: {**asdict(one), "seconds": round(one.seconds, 1)} for role, one in summary.usage.items()}


def _level_events(events: Sequence[Event]) -> list[_LevelEvents]:
    levels, level = list[_LevelEvents](), _Open()
    for event in events:
        if event.get("call") == "reply":
            level.calls[event["role"]] += 1
        elif event.get("note") == "candidate" and event.get("proposer"):
            level.proposed.setdefault(event["proposer"], []).append(event["change"])
        elif event.get("note") == "level":
            kept = [one["id"] for one in event["ranked"][: event["kept"]]]
            levels.append(_LevelEvents(kept, dict(level.calls), dict(level.proposed)))
            level = _Open()
    return levels


def _level(level: LevelSummary, seen: _LevelEvents, summary: RunSummary) -> dict[str, Any]:
    return {
        "number": level.number,
        "calls": dict(seen.calls),
        "candidates": level.candidates,
        "proposed": dict(seen.proposed),
        "kept": [_candidate(summary.nodes[key]) for key in seen.kept],
        "best": _candidate(summary.nodes[level.best]),
        "lead_of_leader_over_best_before": _ends(level.ahead),
    }


def _candidate(node: PromptNode) -> dict[str, Any]:
    """Return a candidate without its prompt. Its mean is the mean score of all its answers in the whole search."""
    mean = node.mean
    return {
        "id": node.id,
        "parent": node.parent,
        "proposer": node.proposer or None,
        "change": node.change or None,
        "rows": len(node.judged),
        "mean": _ends(mean) if mean else None,
    }


def _figures(event: Event) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in _NOT_FIGURES}


def _ends(interval: Interval) -> list[float | None]:
    """Return estimate, low and high, with None for a value that is not a number."""
    values = (interval.estimate, interval.low, interval.high)
    return [None if isnan(value) else round(value, _DIGITS) for value in values]


def _time(event: Event) -> str:
    return datetime.fromtimestamp(event["at"], UTC).isoformat(timespec="seconds")
