"""Says in sentences what a harvest took, what it left out and why, and what was not logged. It quotes no text."""

from collections.abc import Iterator, Mapping

from index.counted import counted
from optimizer.harvest.collect import counts_by_source
from optimizer.harvest.harvest import Harvest
from optimizer.harvest.run import HarvestResult, HarvestSettings
from optimizer.harvest.screening import IS_DOUBTFUL, WAS_PRIVATE
from optimizer.harvest.store.reader import NO_TEXT


def report_lines(result: HarvestResult, settings: HarvestSettings) -> Iterator[str]:
    """Yield the lines of the report of a harvest."""
    read, harvest = result.read, result.harvest
    yield f"Read {counted(read['requests'], 'request')}, {read['with_text']:,} with texts that can be used."
    yield f"Rated by {settings.query.metric}: {read['rated']:,}. With comments: {read['commented']:,}."
    yield f"Compared by the shadow judge: {read['judged']:,}."
    yield from _listed("Requests that were not used, because", result.unused)
    yield from _advice(result, settings)
    yield from _listed("Ratings that did not count, because", result.ignored)
    yield ""
    yield f"Candidate examples: {len(harvest.examples):,}. {_caution_counts(harvest)}"
    yield from _listed("Liked answers that are no examples, because", harvest.left_out)
    yield f"Training rows from disliked answers: {len(harvest.rows):,}."
    yield f"Preference pairs: {len(harvest.pairs):,}{_in_brackets(counts_by_source(harvest.pairs))}."
    yield from _listed("Rows and pairs that were left out, because", harvest.rows_left_out)
    yield _taste_line(harvest)
    yield ""
    yield from _listed("Private data that was replaced by placeholders", harvest.replaced)
    if not harvest.replaced:
        yield "No private data was found."
    yield "The rules find patterns, not every name. Read the files before you share them."


def _listed(heading: str, counts: Mapping[str, int]) -> Iterator[str]:
    known = {name: count for name, count in counts.items() if count}
    if known:
        yield f"{heading}:"
        yield from (f"  {count:,}: {name}" for name, count in sorted(known.items(), key=lambda one: -one[1]))


def _advice(result: HarvestResult, settings: HarvestSettings) -> Iterator[str]:
    """Yield what the operator can do about what is missing in the store."""
    if result.unused.get(NO_TEXT):
        yield "drpo-proxy stores texts only with --store-content (it is off unless you set it), and only from then on."
    if not result.read["rated"] and result.metrics:
        found = ", ".join(
            f"{one.name} ({counted(one.ratings, 'rating')} from {one.lowest:g} to {one.highest:g})"
            for one in result.metrics
            if one.ratings and one.lowest is not None and one.highest is not None
        )
        yield f"Nobody rated by {settings.query.metric}. The store has: {found or 'only comments'}. Set --metric."
    elif not result.read["rated"]:
        yield "The store has no feedback. Clients send it to POST /v1/feedback of drpo-proxy."


def _caution_counts(harvest: Harvest) -> str:
    counts = {why: sum(why in one.cautions for one in harvest.examples) for why in (WAS_PRIVATE, IS_DOUBTFUL)}
    careful = sum(bool(one.cautions) for one in harvest.examples)
    reasons = "; ".join(f"{why} ({count:,})" for why, count in counts.items() if count)
    return f"A person should look at {careful:,} of them: {reasons}." if careful else ""


def _taste_line(harvest: Harvest) -> str:
    taste = harvest.taste
    if taste is None:
        return (
            "Likes alone rank the examples: the form of answers does not explain the ratings, or there are fewer than "
            "20 ratings and pairs."
        )
    liked = ", ".join(f"{'more' if weight > 0 else 'less'} {name}" for name, weight in taste.ranking)
    learned = f"learned from {counted(taste.answers, 'rated answer')} and {counted(taste.pairs, 'pair')}"
    shown = f"of two answers that it did not learn from, it puts the preferred one first in {taste.agreement:.0%}"
    return f"The form of answers helps to rank the examples ({liked}; {learned}): {shown}."


def _in_brackets(counts: Mapping[str, int]) -> str:
    return f" ({_joined(counts)})" if _joined(counts) else ""


def _joined(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
