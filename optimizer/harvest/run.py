"""Harvests a store or an export: reads it once, and makes a frozen harvest. It writes no files.

`drpo-optimizer harvest` and `drpo-optimizer improve` are built on it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from index.store_address import StoreAddress
from index.types import Example
from optimizer.core.errors import DataError
from optimizer.harvest.collect import Collected, collect
from optimizer.harvest.exchange import Exchange
from optimizer.harvest.export_file import read_export
from optimizer.harvest.harvest import Harvest, make_harvest, work_of
from optimizer.harvest.safety import QuestionReader
from optimizer.harvest.store.reader import (
    MetricSummary,
    ReadCounts,
    StoreQuery,
    check_store,
    count_exposures,
    metric_summaries,
    read_exchanges,
)
from optimizer.harvest.store.session import read_session


class Progress(Protocol):
    """Shows how far the work is."""

    def begin(self, what: str, total: int) -> None:
        """Begin the step `what`, which has `total` parts. If `total` is 0, the number of parts is unknown."""
        ...

    def advance(self, count: int = 1) -> None:
        """Count this many more parts of the step as finished."""
        ...


@dataclass(frozen=True, slots=True)
class HarvestSettings:
    """How a store is harvested.

    Attributes:
        query: What is read from the store.
        max_words: The maximum number of words of an example's answer.
        per_user: The maximum number of ratings, and of pairs, of one unit that count.
    """

    query: StoreQuery = field(default_factory=StoreQuery)
    max_words: int = 150
    per_user: int = 50


@dataclass(frozen=True, slots=True)
class HarvestResult:
    """A harvest, and what was read to make it.

    Attributes:
        harvest: The harvest.
        read: The counts of the reading, by the names of the fields of `ReadCounts`.
        unused: How many requests were not used, by reason.
        ignored: How many ratings did not count, by reason.
        metrics: The metrics for which the store has feedback.
    """

    harvest: Harvest
    read: Mapping[str, int]
    unused: Mapping[str, int]
    ignored: Mapping[str, int]
    metrics: Sequence[MetricSummary] = ()

    @property
    def safe_examples(self) -> tuple[Example, ...]:
        """The candidate examples that can be used without a review, the best first."""
        return tuple(one.example for one in self.harvest.examples if not one.cautions)


def harvest_store(place: StoreAddress, settings: HarvestSettings, progress: Progress) -> HarvestResult:
    """Harvest a store. Nothing is written.

    Raises:
        DataError: The store cannot be read, or has no request in the given time.
        EmbedderError: The default embedder cannot be opened.
    """
    counts = ReadCounts.none()
    with read_session(place) as session:
        check_store(session)
        metrics = metric_summaries(session)
        total = count_exposures(session, settings.query)
        if not total:
            raise DataError(
                f"--store: {place.name} has no request {_wanted(settings.query)}. Check --store, --experiment and "
                "--since."
            )
        progress.begin("reading requests", total)
        collected = collect(read_exchanges(session, settings.query, counts), settings.per_user, progress.advance)
    return _result(collected, counts, metrics, settings, progress)


def harvest_export(path: Path, settings: HarvestSettings, progress: Progress) -> HarvestResult:
    """Harvest a file of conversations with outcomes.

    Raises:
        DataError: The file cannot be read, or a line is not a conversation with an outcome.
        EmbedderError: The default embedder cannot be opened.
    """
    counts = ReadCounts.none()
    found: Iterator[Exchange | None] = read_export(path, settings.query, counts)
    progress.begin("reading conversations", 0)
    collected = collect(found, settings.per_user, progress.advance)
    return _result(collected, counts, (), settings, progress)


def _result(
    collected: Collected,
    counts: ReadCounts,
    metrics: Sequence[MetricSummary],
    settings: HarvestSettings,
    progress: Progress,
) -> HarvestResult:
    progress.begin("scrubbing texts", work_of(collected))
    advance: Callable[[int], None] = progress.advance
    harvest = make_harvest(collected, settings.max_words, QuestionReader(), advance)
    names = ("requests", "with_text", "rated", "commented", "judged")
    read: dict[str, Any] = {name: getattr(counts, name) for name in names}
    return HarvestResult(harvest, read, dict(counts.unused), collected.ignored, metrics)


def _wanted(query: StoreQuery) -> str:
    named = f"of the experiment {query.experiment}" if query.experiment else "of any experiment"
    return f"{named} since the given date" if query.since else named
