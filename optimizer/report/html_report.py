"""report.html: a run for people, one file that needs nothing else. Knows the story and how to draw it.

Everything that comes from models and data is escaped; there is no script in it.
"""

import difflib
import html
import os
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

from optimizer.core.confidence import Interval
from optimizer.core.journal import Event, read_journal
from optimizer.report.run_summary import Node, RunSummary, criteria, tell
from optimizer.report.svg_charts import draw_bars, draw_curve

REPORT: Final = "report.html"
_VARIANTS: Final = ("bundle", "baseline", "raw-matched", "raw")
_SHARES: Final = {"ends": "ends by itself", "refuses_unsafe": "refuses unsafe", "refuses_safe": "refuses safe"}
_SHOWN_ANSWERS: Final = 24
_SHOWN_JUDGEMENTS: Final = 6


def write_report(directory: Path) -> Path:
    """Write the report of a run, finished or not, beside its journal. Raises JournalError."""
    page = report_page(tell(read_journal(directory)))
    place, draft = directory / REPORT, directory / f".{REPORT}"
    draft.write_text(page, encoding="utf-8")
    os.replace(draft, place)  # noqa: PTH105 - at once or not at all
    return place


def report_page(story: RunSummary) -> str:
    """The whole page."""
    css = resources.files("optimizer.templates").joinpath("report.css").read_text(encoding="utf-8")
    body = "\n".join(part for section in _SECTIONS for part in section(story))
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    head = f"<head>{meta}<title>{_text(story.name)}: optimization run</title><style>{css}</style></head>"
    return f'<!doctype html><html lang="en">{head}<body><main>{body}</main></body></html>'


def _headline(story: RunSummary) -> Iterator[str]:
    yield f"<h1>{_text(story.name)}</h1>"
    calls = sum(one.calls for one in story.spending.values())
    yield f'<p class="soft">recipe {_text(story.recipe)}, {calls:,} calls, {story.minutes:.0f} minutes</p>'
    if story.sealed is None:
        yield '<p class="verdict">Not finished: the sealed evaluation is still to come.</p>'
    else:
        yield _verdict(story.sealed)
    if story.spent_out:
        yield f"<p>The budget of {_text(story.spent_out)} ended the search; what was best by then was evaluated.</p>"


def _verdict(sealed: Event) -> str:
    against = sealed["against"]["baseline"]
    mean, low, high = against["difference"]
    told = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}] on {sealed['rows']} queries that nothing before has seen"
    if sealed["improved"]:
        return f'<p class="verdict good">Better than the baseline by {told}.</p>'
    return f'<p class="verdict">No better than the baseline, beyond chance: {told}. The bundle holds the baseline.</p>'


def _sealed_table(story: RunSummary) -> Iterator[str]:
    if story.sealed is None:
        return
    figures = story.sealed["figures"]
    names = [name for name in _VARIANTS if name in figures]
    yield "<h2>Sealed evaluation</h2>"
    yield '<p class="soft">Means with 95 % intervals. The differences are paired, query by query.</p>'
    yield '<div class="wide"><table>'
    yield _row("th", "", *names)
    yield _row("td", "score", *(_interval(figures[name]["score"]) for name in names))
    for kind in figures[names[0]]["by_kind"]:
        kinds = (figures[name]["by_kind"].get(kind) for name in names)
        yield _row("td", f"of {kind} queries", *("" if found is None else _interval(found) for found in kinds))
    for part in figures[names[0]]["parts"]:
        cells = (_interval(figures[name]["parts"][part]) if part in figures[name]["parts"] else "" for name in names)
        yield _row("td", f"reward {part}", *cells)
    for key, told in _SHARES.items():
        if figures[names[0]][key][0] is not None:
            yield _row("td", told, *(_interval(figures[name][key]) for name in names))
    yield _row("td", "queries", *(str(figures[name]["rows"]) for name in names))
    yield _row("td", "words", *(f"{figures[name]['words']:.0f}" for name in names))
    yield _row("td", "prompt tokens", *(f"{figures[name]['prompt_tokens']:.0f}" for name in names))
    against = story.sealed["against"]
    differences = [_interval(against[name]["difference"]) if name in against else "" for name in names]
    yield _row("td", "bundle is better by", *differences)
    if preferred := against["baseline"].get("preferred"):
        yield _row(
            "td", "judge prefers bundle", *(_interval(preferred) if name == "baseline" else "" for name in names)
        )
    yield _row("td", "bundle wins", *(f"{against[name]['wins']:.0%}" if name in against else "" for name in names))
    yield "</table></div>"


def _curve(story: RunSummary) -> Iterator[str]:
    if not story.levels:
        return
    yield "<h2>Learning curve</h2>"
    yield '<p class="soft">The lead of each level over the first prompt, on the queries that both were judged on.</p>'
    points = [(level.number + 1, level.ahead) for level in story.levels]
    yield draw_curve(points)
    rows = [
        _row("td", f"level {one.number + 1}", str(one.candidates), str(one.judgements), _interval(_three(one.ahead)))
        for one in story.levels
    ]
    heading = _row("th", "", "candidates", "judgements", "ahead by")
    yield f'<div class="wide"><table>{heading}{"".join(rows)}</table></div>'


def _lineage(story: RunSummary) -> Iterator[str]:
    if not story.nodes:
        return
    yield "<h2>Prompts</h2>"
    yield '<p class="soft">Each under the one that it was made from; open one for what was changed and judged.</p>'
    yield '<div class="tree">'
    for node in story.children(None):
        yield from _branch(story, node)
    yield "</div>"


def _branch(story: RunSummary, node: Node) -> Iterator[str]:
    mean = node.mean
    told = _interval(_three(mean)) if mean else "not judged"
    mark = ' <span class="mark">chosen</span>' if node.id == story.result else ""
    count = f"{len(node.judged)} queries" if node.judged else ""
    yield f"<details open><summary>{told} <span class='soft'>{count}</span>{mark}</summary>"
    yield "<details><summary class='soft'>prompt and answers</summary><div class='inside'>"
    parent = story.nodes.get(node.parent or "")
    yield f'<div class="text">{_difference(parent.prompt, node.prompt) if parent else _text(node.prompt)}</div>'
    for event in sorted(node.judged, key=lambda event: event["score"])[:_SHOWN_JUDGEMENTS]:
        yield _judgement(event)
    yield "</div></details>"
    for child in story.children(node.id):
        yield from _branch(story, child)
    yield "</details>"


def _judgement(event: Event) -> str:
    parts = "; ".join(f"{_text(name)} {part['value']:.2f}" for name, part in event["parts"].items())
    told = f"{event['score']:.2f} &middot; {_text(event['query'][:90])}"
    answer = f'<div class="text">{_text(event["answer"])}</div><p class="soft">{parts}</p>'
    return f"<details><summary>{told}</summary>{answer}</details>"


def _tried(story: RunSummary) -> Iterator[str]:
    if not story.trials:
        return
    yield '<h2>How it is shown and decoded</h2><div class="wide"><table>'
    yield _row("th", "setting", "mean score", "queries", "")
    for event in story.trials:
        mean = _interval([event["mean"], event["low"], event["high"]])
        kept = '<span class="mark">kept</span>' if event["kept"] else ""
        yield _row("td", f"{_text(event['knob'])} = {_text(event['value'])}", mean, str(event["rows"]), kept)
    yield "</table></div>"


def _criteria(story: RunSummary) -> Iterator[str]:
    found = criteria(story)
    if not found:
        return
    yield "<h2>Criterion by criterion</h2>"
    yield '<p class="soft">On the sealed queries; the bundle in colour, then baseline, raw-matched and raw.</p>'
    for name, by_variant in sorted(found.items()):
        yield draw_bars(name, [(variant, by_variant[variant]) for variant in _VARIANTS if variant in by_variant])


def _cost(story: RunSummary) -> Iterator[str]:
    if not story.spending:
        return
    yield '<h2>Cost</h2><div class="wide"><table>'
    yield _row("th", "model", "calls", "prompt tokens", "completion tokens", "money", "mean seconds", "without reply")
    for role, one in story.spending.items():
        seconds = f"{one.seconds / one.calls:.2f}" if one.calls else ""
        counts = [f"{count:,}" for count in (one.calls, one.prompt_tokens, one.completion_tokens)]
        yield _row("td", _text(role), *counts, f"{one.money:.2f}", seconds, str(one.repeated))
    yield "</table></div>"


def _samples(story: RunSummary) -> Iterator[str]:
    pairs = [(query, found) for query, found in story.answers.items() if {"bundle", "raw"} <= set(found)]
    if not pairs:
        return
    yield "<h2>Raw against aligned</h2>"
    for query, found in pairs[:_SHOWN_ANSWERS]:
        columns = _column("raw", found["raw"]) + _column("aligned", found["bundle"])
        yield f'<details><summary>{_text(query[:160])}</summary><div class="pair">{columns}</div></details>'


def _column(title: str, event: Event) -> str:
    answer = f'<div class="text">{_text(event["answer"])}</div>'
    return f"<div><h4>{title} &middot; {event['score']:.2f}</h4>{answer}</div>"


_SECTIONS: Final = (_headline, _sealed_table, _curve, _lineage, _tried, _criteria, _cost, _samples)


def _difference(before: str, after: str) -> str:
    """The second text, with what was added and taken away, by words."""
    old, new = before.split(" "), after.split(" ")
    parts = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind in ("delete", "replace"):
            parts.append(f"<del>{_text(' '.join(old[a:b]))}</del>")
        if kind in ("insert", "replace"):
            parts.append(f"<ins>{_text(' '.join(new[c:d]))}</ins>")
        if kind == "equal":
            parts.append(_text(" ".join(new[c:d])))
    return " ".join(parts)


def _row(kind: str, *cells: str) -> str:
    return "<tr>" + "".join(f"<{kind}>{cell}</{kind}>" for cell in cells) + "</tr>"


def _interval(values: Sequence[float | None]) -> str:
    if values[0] is None:
        return ""
    mean, low, high = (value or 0.0 for value in values)
    return f'{mean:.3f} <span class="range">[{low:.3f}, {high:.3f}]</span>'


def _three(interval: Interval) -> list[float | None]:
    return [interval.estimate, interval.low, interval.high]


def _text(value: Any) -> str:
    return html.escape(str(value))
