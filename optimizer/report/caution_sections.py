"""The sections of the report that call for caution: a judge that may be wrong, and what was left out."""

from collections.abc import Iterator

from index.counted import counted
from optimizer.report.markup import head_row, row, table, text
from optimizer.report.run_summary import RunSummary


def judge_trust(summary: RunSummary) -> Iterator[str]:
    """Yield the section that says how often the judge was right, with a warning if it cannot be trusted."""
    if not summary.judge_trust:
        return
    yield "<h2>Can the judge be trusted?</h2>"
    for caution, advice in dict.fromkeys((event["caution"], event["advice"]) for event in summary.judge_trust):
        if caution:
            yield f'<p class="verdict bad">{text(caution)}</p><p>{text(advice)}</p>'
    if any(event["checked"] for event in summary.judge_trust):
        yield (
            '<p class="soft">Before the search, the judge saw training queries, each with the answer to it and with '
            "the answer to another query.</p>"
        )
    for event in summary.judge_trust:
        yield f"<p>The judge {text(event['text'])}.</p>"


def pleading(summary: RunSummary) -> Iterator[str]:
    """Yield the section with the number of answers that tried to influence the judge."""
    if summary.pleading:
        yield "<h2>Answers that tried to influence the judge</h2>"
        yield (
            f"<p>{counted(summary.pleading, 'answer')} tried to influence the judge, with a verdict or words of the "
            "judge&rsquo;s instructions. The judge&rsquo;s reward for them is 0, and the judge did not see them.</p>"
        )


def left_out(summary: RunSummary) -> Iterator[str]:
    """Yield the sections about rows that were left out, refused requests, and dropped candidates by reason."""
    if summary.left_out:
        yield "<h2>Rows that were left out</h2>"
        yield '<p class="soft">These rows could not be answered or scored. They count for no candidate.</p>'
        rows = [row(part, text(name), text(why)) for (part, name), why in summary.left_out.items()]
        yield table("Rows that were left out", (head_row("part", "row", "reason"), *rows), "reasons")
    if summary.refused:
        yield "<h2>Requests that were refused under one candidate</h2>"
        yield (
            f"<p>The task model&rsquo;s server refused {summary.refused} of its requests, for example because they "
            "were too long, and answered the same queries under the first candidate. The score for them is 0.</p>"
        )
    if summary.dropped:
        yield "<h2>Candidates that were dropped</h2>"
        yield (
            '<p class="soft">They change nothing, copy a row or try to influence the judge, or cannot be written or '
            "served.</p>"
        )
        rows = [row(text(what), str(count), text(why)) for (what, why), count in summary.dropped.items()]
        yield table("Candidates that were dropped", (head_row("part", "number", "reason"), *rows), "reasons")
