"""The command `drpo-optimizer ship`: writes the bundle of a run in the form of the bundles that ship with drpo.

The new directory holds the bundle, `provenance.json` (how it was made, and what was measured), `run.toml`, and
`journal.json` (a summary of the run's journal). Apart from the texts of the bundle itself, these files contain no rows,
answers or prompts.
"""

import argparse
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import Any, Final

from index.bundle.bundle import read_bundle
from index.bundle.files import MANIFEST, check_output_directory, publish, read_file, read_small_file
from index.bundle.provenance import PROVENANCE, Figures, Provenance, json_bytes, parse_figures, provenance_bytes
from index.types import Bundle
from optimizer.core.config_tables import RunConfig
from optimizer.core.errors import DataError, JournalError
from optimizer.core.journal import START, Event, read_journal
from optimizer.report.journal_summary import journal_record, usage_record
from optimizer.report.run_summary import RunSummary, summarize_run
from optimizer.stages.run import BUNDLE, RUN_FILE

JOURNAL_SUMMARY: Final = "journal.json"
LEARNED: Final = "learned"


def ship(options: argparse.Namespace, config: RunConfig) -> Sequence[str]:
    """Write the new directory, and return lines for the user that say what it contains and what is missing.

    Args:
        options: The arguments of the command.
        config: The settings of the run.

    Raises:
        OptimizeError: The run is not finished, or a data file or a file of figures cannot be used.
        BundleError: The bundle is invalid, the output directory exists, or a file cannot be written.
    """
    check_output_directory(options.out)
    events = read_journal(options.run)
    if not any(event.get("note") == "bundle" for event in events):
        command = f"drpo-optimizer resume {quote(str(options.run))}"
        raise JournalError(f"{options.run}: the run has written no bundle yet. End the run with `{command}`.")
    directory = options.bundle or options.run / BUNDLE
    bundle = read_bundle(directory)
    if options.out.name != bundle.manifest.name:
        raise DataError(
            f"{options.out}: the bundle is called {bundle.manifest.name}. Give it a directory of the same name."
        )
    provenance = _provenance(options, config, events, bundle)
    run_file = read_small_file(options.run / RUN_FILE)
    extra = {PROVENANCE: provenance_bytes(provenance), RUN_FILE: run_file, JOURNAL_SUMMARY: _summary_bytes(events)}
    publish(options.out, {**_bundle_files(directory, bundle), **extra})
    return list(_lines(options.out, provenance))


def _bundle_files(directory: Path, bundle: Bundle) -> Mapping[str, bytes]:
    files = {name: read_file(directory / name, record.size) for name, record in bundle.manifest.files.items()}
    return {MANIFEST: read_small_file(directory / MANIFEST), **files}


def _summary_bytes(events: Sequence[Event]) -> bytes:
    return json_bytes(journal_record(events))


def _provenance(options: argparse.Namespace, config: RunConfig, events: Sequence[Event], bundle: Bundle) -> Provenance:
    figures = [_read_figures(path, bundle) for path in options.figures]
    if len({one.split for one in figures}) < len(figures):
        raise DataError("--figures: two files are of the same split. Give one file for each split.")
    return Provenance(
        bundle=bundle.id,
        made=LEARNED,
        date=datetime.fromtimestamp(events[-1]["at"], UTC).date().isoformat(),
        licence=options.licence,
        texts=options.texts,
        notes=tuple(options.note),
        run=_run_facts(config, events, summarize_run(events)),
        figures=tuple(figures),
    )


def _read_figures(path: Path, bundle: Bundle) -> Figures:
    try:
        figures = parse_figures(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if figures.ids.get(figures.bundle) != bundle.id:
        raise DataError(f"{path} contains the figures of another bundle than {bundle.id[:12]}. Measure this bundle.")
    return figures


def _run_facts(config: RunConfig, events: Sequence[Event], summary: RunSummary) -> dict[str, Any]:
    notes = {event["note"]: event for event in reversed(events) if "note" in event}
    return {
        "recipe": config.search.recipe,
        "algorithm": config.search.algorithm,
        "seed": config.search.seed,
        "models": {role: table.model for role, table in config.models.items()},
        "start": notes[START]["bundle"] if START in notes else Path(config.bundle.start).name,
        "pool": Path(config.examples.pool).name,
        "rewards": dict(config.reward.weights),
        "rules": asdict(config.reward.rules),
        "calls": usage_record(summary),
        "minutes": round(summary.minutes, 1),
        "levels": len(summary.levels),
        "candidates": len(summary.nodes),
        "data": list(_data_files(config, notes.get("inputs", {}).get("rows", {}))),
    }


def _data_files(config: RunConfig, rows: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yield the part, name, hash and number of used rows of each data file. The hash of a missing file is None."""
    data = config.data
    parts = {"train": data.train, "validation": data.validation, "sealed": data.sealed, "seeds": data.seeds}
    for part, path in parts.items():
        if path is not None:
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
            yield {"part": part, "file": path.name, "sha256": digest, "rows": len(rows[part]) if part in rows else None}


def _lines(out: Path, provenance: Provenance) -> Iterator[str]:
    run = provenance.run or {}
    yield f"The bundle was written to {out}. Its id is {provenance.bundle}."
    for file in run["data"]:
        if file["sha256"] is None:
            yield f"{file['file']} ({file['part']}) is not where the run read it, so its hash is not recorded."
    measured = ", ".join(one.split for one in provenance.figures)
    if measured:
        yield f"It has figures of these splits: {measured}."
    else:
        yield "The bundle has no figures, so drpo never chooses it as a default. Measure it, and give --figures FILE."
