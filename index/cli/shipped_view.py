"""Renders the bundles that ship with drpo: their list as a table or as JSON, and the provenance of one bundle."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from index.bundle.files import read_small_file
from index.bundle.provenance import (
    PROVENANCE,
    SEALED,
    VALIDATION,
    Figures,
    Measured,
    Provenance,
    figures_record,
    parse_provenance,
)
from index.bundle.shipped import GENERAL, ShippedBundle
from index.cli.bundle_view import plain
from index.measures.confidence import Interval
from index.model_names import is_same_model
from index.types import Bundle

_NOT_MEASURED = "not measured"

Listed = Sequence[tuple[ShippedBundle, Bundle]]
"""The bundles that ship with drpo. Each pair is one bundle: its manifest and provenance, and the loaded bundle."""


def list_table(listed: Listed) -> Table:
    """Return a table of the bundles, with their composites (docs/glossary.md) on validation and on sealed rows."""
    table = Table(box=SIMPLE, pad_edge=False)
    for heading in ("name", "made for", "how", "examples", "tokens", VALIDATION, SEALED):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("name", "examples", "tokens"))
    for shipped, bundle in listed:
        table.add_row(
            plain(shipped.name),
            plain(shipped.manifest.model),
            plain(shipped.provenance.made),
            f"{len(bundle.examples):,}",
            _prompt_tokens(shipped, listed),
            *(_composite(shipped, split, listed) for split in (VALIDATION, SEALED)),
        )
    return table


def list_notes(listed: Listed) -> Iterable[str]:
    """Yield sentences that explain the table: what the figures are, and which bundle `default` means."""
    yield (
        f"Columns {VALIDATION} and {SEALED}: the score (composite, docs/learned-bundles.md) of the answers that the "
        "model in `made for` gives to these rows, with the 95 % interval. Column tokens: the mean number of tokens of "
        "a prompt. If it was not measured: the largest number of injected tokens."
    )
    for shipped, _ in listed:
        if shipped.lead is not None:
            means = shipped.name if shipped.is_better else GENERAL
            lead = _interval(shipped.lead, "+")
            yield (
                f"For {shipped.manifest.model}, `default` means {means}: the composite of {shipped.name} minus that of "
                f"{GENERAL} is {lead}."
            )
    others = "all other" if any(shipped.lead for shipped, _ in listed) else "all"
    yield f"For {others} models, `default` means {GENERAL}."


def list_record(listed: Listed) -> list[dict[str, Any]]:
    """Return the list as a value for JSON. Figures that were not measured are null."""
    return [_record(shipped, bundle, listed) for shipped, bundle in listed]


def _record(shipped: ShippedBundle, bundle: Bundle, listed: Listed) -> dict[str, Any]:
    provenance, policy = shipped.provenance, shipped.manifest.retrieval
    figures = {split: provenance.of(split) for split in (VALIDATION, SEALED)}
    measured = next(filter(None, (_measured(shipped, split, listed) for split in (SEALED, VALIDATION))), None)
    return {
        "name": shipped.name,
        "id": bundle.id,
        "model": shipped.manifest.model,
        "made": provenance.made,
        "date": provenance.date,
        "licence": provenance.licence,
        "examples": len(bundle.examples),
        "max_injected_tokens": policy.max_injected_tokens,
        "prompt_tokens": measured.prompt_tokens if measured else None,
        "is_general": shipped.name == GENERAL,
        "is_default_for_its_model": shipped.name == GENERAL or shipped.is_better,
        "figures": {split: figures_record(one) if one else None for split, one in figures.items()},
    }


def _prompt_tokens(shipped: ShippedBundle, listed: Listed) -> str:
    """Return the measured mean tokens of a prompt.

    If it was not measured, return the maximum of the injected tokens.
    """
    measured = [one for split in (SEALED, VALIDATION) if (one := _measured(shipped, split, listed)) is not None]
    if measured:
        return f"{measured[0].prompt_tokens:,.0f}"
    return f"at most {shipped.manifest.retrieval.max_injected_tokens:,}"


def _composite(shipped: ShippedBundle, split: str, listed: Listed) -> str:
    measured = _measured(shipped, split, listed)
    return _interval(measured.composite) if measured else _NOT_MEASURED


def _measured(shipped: ShippedBundle, split: str, listed: Listed) -> Measured | None:
    """Return the figures of a bundle for the model that it was made for; None if the split was not measured.

    If the bundle has no figures of its own, it may have been measured as a rival of another bundle.
    """
    for figures in (shipped.provenance.of(split), *(other.provenance.of(split) for other, _ in listed)):
        if figures is not None and is_same_model(figures.model, shipped.manifest.model):
            name = next((name for name, one in figures.ids.items() if one == shipped.provenance.bundle), None)
            if name is not None:
                return figures.measured[name]
    return None


def _interval(interval: Interval, sign: str = "") -> str:
    digits = 3 if sign else 2
    estimate, low, high = (f"{value:{sign}.{digits}f}" for value in (interval.estimate, interval.low, interval.high))
    return f"{estimate} [{low}, {high}]"


def read_provenance_page(directory: Path) -> Sequence[RenderableType]:
    """Return a page about how a bundle was made and what was measured; empty if it has no provenance.json.

    Raises:
        BundleError: The file cannot be read or is invalid.
    """
    path = directory / PROVENANCE
    return [_provenance_page(parse_provenance(read_small_file(path), str(path)))] if path.exists() else []


def _provenance_page(provenance: Provenance) -> RenderableType:
    facts = Table.grid(padding=(0, 2))
    for name in ("made", "date", "licence", "texts"):
        facts.add_row(Text(name, style="bold"), plain(getattr(provenance, name)))
    for note in provenance.notes:
        facts.add_row(Text("note", style="bold"), plain(note))
    return Group(facts, *map(_figures_table, provenance.figures))


def _figures_table(figures: Figures) -> Table:
    """Return a table of a bundle and its rivals: what was measured, and by how much the bundle leads."""
    rows = ", ".join(f"{count} {kind}" for kind, count in figures.rows.items())
    title = f"{figures.split} rows ({rows}), answers of {figures.model}, {figures.date}"
    table = Table(title=plain(title), title_justify="left", box=SIMPLE, pad_edge=False)
    lead = f"lead in composite ({figures.level:.2%})"
    for heading in ("bundle", "composite", "balanced accuracy", "similarity", "ends", "tokens", lead):
        table.add_column(heading)
    for name, one in figures.measured.items():
        measured = [_interval(value) for value in (one.composite, one.balanced, one.similarity, one.ends)]
        difference = figures.differences.get(name)
        cells = (*measured, f"{one.prompt_tokens:,.0f}", _interval(difference.composite, "+") if difference else "")
        table.add_row(plain(name), *cells)
    return table
