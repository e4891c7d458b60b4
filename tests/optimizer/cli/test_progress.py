"""Tests the progress of a run without a terminal: a line for each event, and no line twice after a resume."""

import io

from rich.console import Console

from optimizer.cli.progress import ProgressDisplay
from optimizer.core.budget import Limits
from optimizer.core.journal import Event

EVENTS: list[Event] = [
    {"note": "stage", "stage": "prompt", "rows": 40},
    {"call": "reply", "tokens": [100, 20], "money": 0.25},
    {"tick": True, "seconds": 30.0},
    {
        "note": "level",
        "number": 0,
        "ranked": [{"scores": [0.5, 0.7]}, {"scores": [0.1]}],
        "kept": 1,
        "proposers": {"writer": [2, 1], "edits": [0, 0]},
    },
    {"note": "trial", "knob": "k", "value": 3, "mean": 0.6, "low": 0.5, "high": 0.7, "rows": 12, "kept": True},
    {"note": "spent", "what": "tokens"},
    {"note": "set_prompts", "sets": ["refusal-1", "other-2"]},
    {"note": "specification", "rules": ["Be brief.", "Use lists."], "pairs": 30},
    {"note": "specification", "rules": [], "pairs": 1},
]


def test_progress_prints_one_line_per_event_and_none_of_an_earlier_session() -> None:
    output, now = io.StringIO(), [0.0]
    display = ProgressDisplay(Limits(calls=50, minutes=10), Console(file=output, width=60), lambda: now[0])
    display.on_event({"note": "stage", "stage": "examples", "rows": 5})  # an event that the journal held
    with display:
        for event in EVENTS:
            now[0] += 11
            display.on_event(event)
    assert output.getvalue().splitlines() == [
        "searching: 40 queries",
        "searching | 1/50 calls, 120 tokens, 0.25 money, 0.5/10 min",
        "  level 1: 2 candidates, 3 judgements, best 0.600 [0.500, 0.700]; won so far: writer 1 of 2, edits 0 of 0",
        "  k = 3: 0.600 [0.500, 0.700], 12 queries (kept)",
        "the budget of tokens is spent. The best candidate so far is evaluated.",
        "searching | best 0.600 [0.500, 0.700] | 1/50 calls, 120 tokens, 0.25 money, 0.5/10 min",
        "  the sets refusal-1, other-2 have prompts of their own. A new prompt replaces all of them",
        "  what people prefer, in 30 pairs of answers: Be brief. Use lists.",
        "  what people prefer, in 1 pair of answers: nothing in common",
        "searching | best 0.600 [0.500, 0.700] | 1/50 calls, 120 tokens, 0.25 money, 0.5/10 min",
    ]


def test_failed_attempts_count_with_what_the_budget_loses() -> None:
    display = ProgressDisplay(Limits(calls=50), Console(file=io.StringIO(), width=60))
    display.on_event({"call": "failed", "calls": 0, "tokens": 0, "money": 0.0})
    display.on_event({"call": "failed", "calls": 1, "tokens": 70, "money": 0.0})
    assert "1/50 calls, 70 tokens" in display.status


def test_calls_that_a_killed_session_sent_count_as_in_the_budget() -> None:
    display = ProgressDisplay(Limits(calls=50), Console(file=io.StringIO(), width=60))
    for key in ("one", "one", "two", "three"):  # a second session sent the first call again
        display.on_event({"call": "sent", "key": key, "tokens": 100, "money": 0.0})
    display.on_event({"call": "reply", "key": "two", "tokens": [5, 2], "money": 0.0})
    display.on_event({"call": "refused", "key": "two"})
    with display:
        assert "4/50 calls, 307 tokens" in display.status


def test_stage_with_a_known_number_of_judgements_shows_progress_and_remaining_time() -> None:
    output, now = io.StringIO(), [0.0]
    display = ProgressDisplay(Limits(), Console(file=output, width=60), lambda: now[0])
    display.on_event({"note": "stage", "stage": "sealed", "rows": 4, "judgements": 71})
    display.on_event({"note": "score", "stage": "sealed"})  # from an earlier session: it does not count for the speed
    with display:
        assert display.status.startswith("sealed evaluation | 1/71 judged | ")
        display.on_event({"note": "score", "stage": "tune"})
        for _ in range(30):
            now[0] += 30.0
            display.on_event({"note": "score", "stage": "sealed"})
        assert display.status.startswith("sealed evaluation | 31/71 judged, 19 min left | ")
