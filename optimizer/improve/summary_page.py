"""Makes the HTML summary of an improvement: what changed, why, and what to do next. It has the style of the report.

All text that comes from models and data is escaped.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from optimizer.report.markup import block, head_row, interval_cell, isolated, page, row, table, text
from optimizer.report.preference_section import stated_preferences
from optimizer.report.run_summary import RunSummary
from optimizer.report.sealed_verdict import sealed_sentence

_VARIANTS: Final = ("bundle", "baseline", "raw")
_SOURCES: Final = {
    "requests": "requests read",
    "with_text": "with texts that can be used",
    "rated": "with a rating",
    "commented": "with a comment",
    "judged": "compared by the shadow judge",
}
_MAX_WINS: Final = 10


@dataclass(frozen=True, slots=True)
class NextStep:
    """What the operator does next.

    Attributes:
        text: What to do.
        command: The command for it; empty if there is none.
    """

    text: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class Improvement:
    """What the summary shows.

    Attributes:
        name: The name of the new bundle.
        current: The current bundle.
        read: What the harvest read, by the names of the fields of `ReadCounts`.
        report: The lines of the harvest's report.
        rows: Number of rows of each part.
        examples: Number of liked answers that could become examples.
        changes: What differs between the bundles, in the lines of `drpo-optimizer diff`.
        run: The summary of the run.
        experiment: The text of the experiment file; empty if there is none, because nothing better was found.
        steps: What to do next.
    """

    name: str
    current: str
    read: Mapping[str, int]
    report: str
    rows: Mapping[str, int]
    examples: int
    changes: Sequence[str]
    run: RunSummary
    experiment: str
    steps: Sequence[NextStep]


def summary_html(found: Improvement) -> str:
    """Return the summary as HTML."""
    css = resources.files("optimizer.templates").joinpath("report.css").read_text(encoding="utf-8")
    body = "\n".join(part for section in _SECTIONS for part in section(found))
    return page(f"{found.name}: improvement", css, body)


def verdict_line(run: RunSummary) -> str:
    """Return one sentence about the result on sealed rows."""
    return sealed_sentence(run.sealed, is_found=run.is_found, kept_start=run.kept_start, baseline="the current bundle")


def _headline(found: Improvement) -> Iterator[str]:
    sealed = found.run.sealed
    yield f'<h1 dir="auto">{text(found.name)}</h1>'
    yield f'<p class="soft">made from {isolated(found.current)} and the feedback of users</p>'
    good = " good" if sealed is not None and sealed["improved"] else ""
    yield f'<p class="verdict{good}">{text(verdict_line(found.run))}</p>'
    if found.run.spent_out:
        yield f"<p>The budget of {text(found.run.spent_out)} ended the search early.</p>"


def _next_steps(found: Improvement) -> Iterator[str]:
    yield "<h2>What to do next</h2>"
    for step in found.steps:
        yield f"<p>{text(step.text)}</p>"
        if step.command:
            yield block(step.command, "inside text command")


def _changes(found: Improvement) -> Iterator[str]:
    yield "<h2>What changed</h2>"
    yield block("\n".join(found.changes) or "Nothing.", "inside text command")


def _reasons(found: Improvement) -> Iterator[str]:
    yield from stated_preferences(found.run.specifications)
    yield "<h2>Why</h2>"
    wins = [(proposer, node) for proposer in found.run.proposers for node in found.run.winners(proposer)]
    if wins:
        yield "<p>Changes after which a candidate had a higher score than its parent:</p>"
        ranked = sorted(wins, key=lambda one: -found.run.lead(one[1]))[:_MAX_WINS]
        rows = (row(text(name), isolated(one.change), f"{found.run.lead(one):+.3f}") for name, one in ranked)
        yield table("Why", (head_row("", "change", "lead"), *rows), "words")
    yield '<p class="soft"><a href="run/report.html">The report of the run</a> shows the whole search.</p>'


def _figures(found: Improvement) -> Iterator[str]:
    if found.run.sealed is None:
        return
    figures: Mapping[str, Any] = found.run.sealed["figures"]
    names = [name for name in _VARIANTS if name in figures]
    yield "<h2>On the sealed questions</h2>"
    yield '<p class="soft">Means with 95 % intervals. The baseline is the current bundle.</p>'
    yield table("On the sealed questions", (head_row("", *names), *_figure_rows(figures, names)))


def _figure_rows(figures: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    yield row("score", *(interval_cell(figures[name]["score"]) for name in names))
    for part in figures[names[0]]["parts"]:
        cells = (figures[name]["parts"].get(part) for name in names)
        yield row(f"reward {text(part)}", *("" if cell is None else interval_cell(cell) for cell in cells))
    yield row("ends by itself", *(interval_cell(figures[name]["ends"]) for name in names))
    yield row("words", *(f"{figures[name]['words']:.0f}" for name in names))


def _feedback(found: Improvement) -> Iterator[str]:
    yield "<h2>From the store</h2>"
    counts = {label: found.read.get(name, 0) for name, label in _SOURCES.items()}
    counts |= {f"{part} rows": count for part, count in sorted(found.rows.items())}
    counts |= {"liked answers that could become examples": found.examples}
    yield table("From the store", (row(label, f"{count:,}") for label, count in counts.items()))
    yield f"<details><summary>Report of the harvest</summary>{block(found.report, 'inside text')}</details>"


def _experiment(found: Improvement) -> Iterator[str]:
    if found.experiment:
        yield f"<h2>The experiment</h2>{block(found.experiment, 'inside text command')}"


_SECTIONS: Final = (_headline, _next_steps, _changes, _reasons, _figures, _feedback, _experiment)
