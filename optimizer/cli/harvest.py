"""The command harvest: reads the store, writes what it found to a folder, and reviews the candidate examples."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from index.counted import counted
from index.store_address import StoreAddress
from optimizer.cli.review import Review, accept_safe, ask_user, read_review
from optimizer.core.errors import DataError
from optimizer.harvest.files import (
    EXAMPLES,
    REPORT,
    harvest_source,
    only_user_of,
    read_candidates,
    write_examples,
    write_harvest,
)
from optimizer.harvest.harvest import CandidateExample
from optimizer.harvest.run import HarvestResult, HarvestSettings, harvest_export, harvest_store
from optimizer.harvest.safety import QuestionReader
from optimizer.harvest.store.reader import StoreQuery
from optimizer.harvest.store.session import store_address

STORE_VARIABLE = "DRPO_STORE"


class ProgressBar:
    """A bar on stderr, which shows the steps of a harvest one after the other. Use it as a context manager."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=Console(stderr=True, markup=False))
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def begin(self, what: str, total: int) -> None:
        """Begin the step `what`, which has `total` parts. If `total` is 0, the number of parts is unknown."""
        self._task = self._bar.add_task(what, total=total or None)

    def advance(self, count: int = 1) -> None:
        """Count this many more parts of the step as finished."""
        if self._task is not None:
            self._bar.advance(self._task, count)


_LEFT: Final = "undecided. To decide about {them}, give the same command again without --yes."


def run_harvest(options: argparse.Namespace, left: str = _LEFT) -> int:
    """Harvest, or continue the review in a folder that holds the same harvest. Return the exit code.

    Args:
        options: The flags.
        left: The end of the printed sentence about the candidates without a decision. {them} is replaced by a pronoun.

    Raises:
        DataError: The store, the export or the folder cannot be used.
        EmbedderError: The default embedder cannot be opened.
    """
    settings, place = _settings(options), _place(options)
    source = _source(options, settings, place)
    result = None if _is_harvested(options.out, source) else _harvest(options, settings, place)
    with only_user_of(options.out):
        if result is not None and not _is_harvested(options.out, source):
            write_harvest(options.out, result, settings, source)
        _say((options.out / REPORT).read_text(encoding="utf-8"))
        return _review(options.out, settings, left, accepts_safe=options.yes)


def _is_harvested(folder: Path, source: Mapping[str, Any]) -> bool:
    """Whether a folder holds this harvest. Raises DataError if it holds another one."""
    known = harvest_source(folder)
    if known is not None and known != source:
        raise DataError(
            f"{folder} contains another harvest. Name another --out, or give the flags of that harvest to continue it."
        )
    return known is not None


def _settings(options: argparse.Namespace) -> HarvestSettings:
    return HarvestSettings(feedback_of(options), options.words, options.per_user)


def feedback_of(options: argparse.Namespace) -> StoreQuery:
    """Return the feedback that the flags choose in a store. Raises DataError if the flags contradict each other."""
    if options.at_most >= options.at_least:
        raise DataError("--at-most must be below --at-least, because an answer cannot be both liked and disliked.")
    if any("\ud800" <= one <= "\udfff" for one in f"{options.experiment}{options.metric}"):
        raise DataError("--experiment and --metric must be in UTF-8. Copy them from the experiment file")
    return StoreQuery(options.experiment or "", options.since or 0.0, options.metric, options.at_least, options.at_most)


def _place(options: argparse.Namespace) -> StoreAddress | None:
    """Return the store, or None for an export. An export on the command line takes precedence over DRPO_STORE."""
    if options.export and options.store:
        raise DataError("--store and EXPORT.JSONL were both given. Give one of them.")
    return None if options.export else store_of(options)


def store_of(options: argparse.Namespace) -> StoreAddress:
    """Return the store that --store or DRPO_STORE names. Raises DataError."""
    store = options.store or os.environ.get(STORE_VARIABLE)
    if not store:
        raise DataError(
            f"no store is named. Give --store, or set {STORE_VARIABLE}, with the value of --store of drpo-proxy."
        )
    return store_address(store)


def _source(options: argparse.Namespace, settings: HarvestSettings, place: StoreAddress | None) -> Mapping[str, Any]:
    query = settings.query
    return {
        "place": place.name if place else str(options.export),
        "experiment": query.experiment,
        "since": query.since,
        "metric": query.metric,
        "at_least": query.at_least,
        "at_most": query.at_most,
        "words": settings.max_words,
        "per_user": settings.per_user,
    }


def _harvest(options: argparse.Namespace, settings: HarvestSettings, place: StoreAddress | None) -> HarvestResult:
    with ProgressBar() as progress:
        return harvest_store(place, settings, progress) if place else harvest_export(options.export, settings, progress)


def _review(folder: Path, settings: HarvestSettings, left: str, *, accepts_safe: bool) -> int:
    candidates = read_candidates(folder)
    review = read_review(folder, candidates)
    try:
        if accepts_safe:
            review = accept_safe(review, candidates)
        elif candidates:
            review = ask_user(review, candidates, QuestionReader, settings.max_words, _say)
    except KeyboardInterrupt:
        _finish(folder, read_review(folder, candidates), candidates, left)
        raise
    _finish(folder, review, candidates, left)
    return 0


def _finish(folder: Path, review: Review, candidates: Sequence[CandidateExample], left: str) -> None:
    accepted = review.accepted(candidates)
    write_examples(folder, accepted)
    count = sum(one.example.id not in review.decided for one in candidates)
    _say(f"Accepted as examples: {len(accepted)} of {counted(len(candidates), 'candidate')}, in {folder / EXAMPLES}.")
    if count:
        subject, them = ("candidate is", "it") if count == 1 else ("candidates are", "them")
        _say(f"{count} {subject} {left.format(them=them)}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
