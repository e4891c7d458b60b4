"""Writes report.html, one HTML page about a run, from the run summary. The page needs no other file and has no script.

All text that comes from models and data is escaped.
"""

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Final

from index.counted import counted
from optimizer.core.journal import Event, read_journal
from optimizer.models.token_count import NO_USAGE
from optimizer.report.caution_sections import judge_trust, left_out, pleading
from optimizer.report.markup import (
    block,
    head_row,
    interval_cell,
    interval_values,
    isolated,
    page,
    row,
    shortened,
    table,
    text,
)
from optimizer.report.preference_section import stated_preferences
from optimizer.report.reward_details import detail_means
from optimizer.report.run_summary import PromptNode, RunSummary, summarize_run
from optimizer.report.sealed_verdict import sealed_sentence
from optimizer.report.svg_charts import draw_bars, draw_curve

REPORT: Final = "report.html"
_VARIANTS: Final = ("bundle", "baseline", "raw-matched", "raw")
_SHARES: Final = {"ends": "ends by itself", "refuses_unsafe": "refuses unsafe", "refuses_safe": "refuses safe"}
_COSTS: Final = (
    *("calls", "prompt tokens", "completion tokens", "money", "mean seconds"),
    *("without reply", "unreadable"),
)
_MAX_ANSWERS: Final = 24
_MAX_JUDGEMENTS: Final = 6
_MAX_WINS: Final = 5
_MAX_SUMMARY_CHARACTERS: Final = 90
_MAX_QUERY_CHARACTERS: Final = 160


def write_report(directory: Path) -> Path:
    """Write the report of a run, finished or not, next to its journal. Raises JournalError."""
    content = report_page(summarize_run(read_journal(directory)))
    path, temporary_path = directory / REPORT, directory / f".{REPORT}"
    temporary_path.write_text(content, encoding="utf-8")
    os.replace(temporary_path, path)  # noqa: PTH105 - replaces an older report atomically
    return path


def report_page(summary: RunSummary) -> str:
    """Return the report as HTML."""
    css = resources.files("optimizer.templates").joinpath("report.css").read_text(encoding="utf-8")
    body = "\n".join(part for section in _SECTIONS for part in section(summary))
    return page(f"{summary.name}: optimization run", css, body)


def _headline(summary: RunSummary) -> Iterator[str]:
    yield f'<h1 dir="auto">{text(summary.name)}</h1>'
    calls = sum(usage.calls for usage in summary.usage.values())
    minutes = counted(round(summary.minutes), "minute")
    yield f'<p class="soft">recipe {text(summary.recipe)}, {counted(calls, "call")}, {minutes}</p>'
    if summary.sealed is not None or summary.bundle is not None:
        good = " good" if summary.sealed is not None and summary.sealed["improved"] else ""
        sentence = sealed_sentence(summary.sealed, is_found=summary.is_found, kept_start=summary.kept_start)
        yield f'<p class="verdict{good}">{text(sentence)}</p>'
    else:
        yield '<p class="verdict">The run is not finished, so there is no bundle yet.</p>'
    if summary.spent_out:
        yield (
            f"<p>The budget of {text(summary.spent_out)} ended the search. The best candidate so far was evaluated.</p>"
        )


def _sealed_table(summary: RunSummary) -> Iterator[str]:
    if summary.sealed is None:
        return
    figures = summary.sealed["figures"]
    names = [name for name in _VARIANTS if name in figures]
    yield "<h2>Sealed evaluation</h2>"
    yield '<p class="soft">Means with 95 % intervals. The differences are paired, query by query.</p>'
    rows = (*_variant_rows(figures, names), *_comparison_rows(summary.sealed["against"], names))
    yield table("Sealed evaluation", (head_row("", *names), *rows))


def _variant_rows(figures: Mapping[str, Event], names: Sequence[str]) -> Iterator[str]:
    yield row("score", *(interval_cell(figures[name]["score"]) for name in names))
    for kind in figures[names[0]]["by_kind"]:
        kinds = (figures[name]["by_kind"].get(kind) for name in names)
        yield row(f"of {kind} queries", *("" if score is None else interval_cell(score) for score in kinds))
    for part in figures[names[0]]["parts"]:
        cells = (
            interval_cell(figures[name]["parts"][part]) if part in figures[name]["parts"] else "" for name in names
        )
        yield row(f"reward {part}", *cells)
    for key, label in _SHARES.items():
        if figures[names[0]][key][0] is not None:
            yield row(label, *(interval_cell(figures[name][key]) for name in names))
    yield row("queries", *(str(figures[name]["rows"]) for name in names))
    yield row("words", *(f"{figures[name]['words']:.0f}" for name in names))
    yield row("prompt tokens", *(f"{figures[name]['prompt_tokens']:.0f}" for name in names))


def _comparison_rows(against: Mapping[str, Event], names: Sequence[str]) -> Iterator[str]:
    differences = [interval_cell(against[name]["difference"]) if name in against else "" for name in names]
    yield row("bundle is better by", *differences)
    if preferred := against["baseline"].get("preferred"):
        cells = (interval_cell(preferred) if name == "baseline" else "" for name in names)
        yield row("judge prefers bundle", *cells)
    yield row("bundle wins", *(f"{against[name]['wins']:.0%}" if name in against else "" for name in names))


def _preferences(summary: RunSummary) -> Iterator[str]:
    yield from stated_preferences(summary.specifications)


def _bundle_prompt(summary: RunSummary) -> Iterator[str]:
    if summary.bundle is not None and "prompt" in summary.bundle:
        yield "<h2>The prompt of the bundle</h2>"
        yield block(summary.bundle["prompt"] or "(none)", "inside text")


def _learning_curve(summary: RunSummary) -> Iterator[str]:
    if not summary.levels:
        return
    yield "<h2>Learning curve</h2>"
    yield (
        '<p class="soft">For each level: the lead of its best candidate over the best candidate before the level, on '
        "the queries that both answered.</p>"
    )
    yield draw_curve([(level.number + 1, level.ahead) for level in summary.levels])
    rows = [head_row("", "candidates", "judgements", "ahead by")]
    for level in summary.levels:
        counts = str(level.candidates), str(level.judgements)
        rows.append(row(f"level {level.number + 1}", *counts, interval_cell(interval_values(level.ahead))))
    yield table("Levels", rows)


def _proposer_table(summary: RunSummary) -> Iterator[str]:
    if not summary.proposers:
        return
    yield "<h2>Proposers</h2>"
    yield (
        '<p class="soft">A proposer wins if the score of its candidate is higher than that of the parent, by more than '
        "[search] indifference.</p>"
    )
    rows = [head_row("", "tried", "won", "what won, with its lead over its parent")]
    for name, (tried, won) in summary.proposers.items():
        rows.append(row(text(name), str(tried), str(won), "<br>".join(_wins(summary, name))))
    yield table("Proposers", rows, "reasons")


def _wins(summary: RunSummary, proposer: str) -> list[str]:
    """Return the changes of a proposer that won, the largest lead over its parent first."""
    leads = sorted(((summary.lead(node), node.change) for node in summary.winners(proposer)), reverse=True)
    return [f"{isolated(change)} <span class='range'>{lead:+.3f}</span>" for lead, change in leads[:_MAX_WINS]]


def _prompt_tree(summary: RunSummary) -> Iterator[str]:
    if not summary.nodes:
        return
    yield "<h2>Candidates</h2>"
    yield '<p class="soft">Each candidate is below its parent. Open one to see its changes and its judged answers.</p>'
    yield '<div class="tree">'
    for node in summary.children(None):
        yield from _tree_branch(summary, node)
    yield "</div>"


def _tree_branch(summary: RunSummary, node: PromptNode) -> Iterator[str]:
    mean = node.mean
    score = interval_cell(interval_values(mean)) if mean else "not judged"
    mark = ' <span class="mark">chosen</span>' if node.id == summary.result else ""
    count = counted(len(node.judged), "query") if node.judged else ""
    made = f" {text(node.proposer)}: {isolated(node.change)}" if node.proposer else ""
    yield f"<details open><summary>{score} <span class='soft'>{count}</span>{made}{mark}</summary>"
    yield "<details><summary class='soft'>prompt and answers</summary><div class='inside'>"
    parent = summary.nodes.get(node.parent or "")
    prompt = _marked_difference(parent.prompt, node.prompt) if parent else text(node.prompt)
    yield f'<div class="text" dir="auto">{prompt}</div>'
    for event in sorted(node.judged, key=lambda event: event["score"])[:_MAX_JUDGEMENTS]:
        yield _judgement(event)
    yield "</div></details>"
    for child in summary.children(node.id):
        yield from _tree_branch(summary, child)
    yield "</details>"


def _judgement(event: Event) -> str:
    parts = "; ".join(f"{text(name)} {part['value']:.2f}" for name, part in event["parts"].items())
    title = f"{event['score']:.2f} &middot; {shortened(event['query'], _MAX_SUMMARY_CHARACTERS)}"
    answer = f'{block(event["answer"])}<p class="soft">{parts}</p>'
    return f"<details><summary>{title}</summary>{_rest(event['query'], _MAX_SUMMARY_CHARACTERS)}{answer}</details>"


def _rest(query: str, length: int) -> str:
    """Return the whole query if the line above it shows only the beginning."""
    return block(query, "text soft") if len(query) > length else ""


def _tuning_table(summary: RunSummary) -> Iterator[str]:
    if not summary.trials:
        return
    yield "<h2>Tuned settings</h2>"
    rows = [head_row("setting", "mean score", "queries", "")]
    for event in summary.trials:
        mean = interval_cell([event["mean"], event["low"], event["high"]])
        kept = '<span class="mark">kept</span>' if event["kept"] else ""
        rows.append(row(f"{text(event['knob'])} = {text(event['value'])}", mean, str(event["rows"]), kept))
    yield table("Tuned settings", rows)


def _detail_charts(summary: RunSummary) -> Iterator[str]:
    details = detail_means(summary)
    if not details:
        return
    yield "<h2>Criterion by criterion</h2>"
    yield '<p class="soft">Means on the sealed queries: the bundle in colour, then baseline, raw-matched and raw.</p>'
    for name, by_variant in sorted(details.items()):
        yield f"<h3>{text(name)}</h3>"
        yield draw_bars(name, [(variant, by_variant[variant]) for variant in _VARIANTS if variant in by_variant])


def _cost_table(summary: RunSummary) -> Iterator[str]:
    if not summary.usage:
        return
    yield "<h2>Cost</h2>"
    rows = [head_row("model", *_COSTS)]
    for role, usage in summary.usage.items():
        seconds = f"{usage.seconds / usage.calls:.2f}" if usage.calls else ""
        counts = [f"{count:,}" for count in (usage.calls, usage.prompt_tokens, usage.completion_tokens)]
        failures = str(usage.without_reply), str(usage.unreadable)
        rows.append(row(text(role), *counts, f"{usage.money:.2f}", seconds, *failures))
    yield table("Cost", rows)
    for role in (role for role, usage in summary.usage.items() if usage.is_estimate):
        yield f'<p class="soft">{text(role)}: {NO_USAGE}.</p>'


def _answer_pairs(summary: RunSummary) -> Iterator[str]:
    pairs = [(query, events) for query, events in summary.answers.items() if {"bundle", "raw"} <= set(events)]
    if not pairs:
        return
    yield "<h2>Raw against aligned</h2>"
    for query, events in pairs[:_MAX_ANSWERS]:
        columns = _column("raw", events["raw"]) + _column("aligned", events["bundle"])
        title, rest = shortened(query, _MAX_QUERY_CHARACTERS), _rest(query, _MAX_QUERY_CHARACTERS)
        yield f'<details><summary>{title}</summary>{rest}<div class="pair">{columns}</div></details>'


def _column(title: str, event: Event) -> str:
    return f"<div><h3>{title} &middot; {event['score']:.2f}</h3>{block(event['answer'])}</div>"


_SECTIONS: Final = (
    _headline,
    judge_trust,
    _sealed_table,
    _bundle_prompt,
    _preferences,
    pleading,
    left_out,
    _learning_curve,
    _proposer_table,
    _prompt_tree,
    _tuning_table,
    _detail_charts,
    _cost_table,
    _answer_pairs,
)


def _marked_difference(before: str, after: str) -> str:
    """Return both texts merged into one, as HTML that marks the deleted and the inserted words."""
    old, new = before.split(" "), after.split(" ")
    parts = []
    for kind, old_start, old_end, new_start, new_end in difflib.SequenceMatcher(
        None, old, new, autojunk=False
    ).get_opcodes():
        if kind in ("delete", "replace"):
            parts.append(f"<del>{text(' '.join(old[old_start:old_end]))}</del>")
        if kind in ("insert", "replace"):
            parts.append(f"<ins>{text(' '.join(new[new_start:new_end]))}</ins>")
        if kind == "equal":
            parts.append(text(" ".join(new[new_start:new_end])))
    return " ".join(parts)
