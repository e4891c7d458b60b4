"""Writes small bundles in the layout of `index/shipped`, for tests: a general one, and learned ones."""

from dataclasses import dataclass, replace
from pathlib import Path

from index.bundle.bundle import read_bundle, write_bundle
from index.bundle.provenance import (
    PROVENANCE,
    SEALED,
    VALIDATION,
    Difference,
    Figures,
    Measured,
    Provenance,
    provenance_bytes,
)
from index.bundle.shipped import GENERAL
from index.embedders.base import Embedder
from index.measures.confidence import Interval
from tests.index.words import WordEmbedder, bundle_input

CHAT_MODEL = "qwen2.5-coder-1.5b-instruct"
BASE_MODEL = "google/gemma-3-270m"


@dataclass(frozen=True, slots=True)
class Learned:
    """A learned bundle to write.

    Attributes:
        name: The name of the bundle.
        model: The model that it is for.
        lead: Its lead over the general bundle on validation rows; None if it was not compared.
        sealed: Whether it has figures of sealed rows.
    """

    name: str
    model: str = CHAT_MODEL
    lead: float | None = 0.05
    sealed: bool = False


def write_library(root: Path, *learned: Learned, embedder: Embedder | None = None) -> Path:
    """Write a general bundle and learned ones, and return their folder."""
    root.mkdir(exist_ok=True)
    for one in (Learned(GENERAL, BASE_MODEL, None), *learned):
        source = replace(bundle_input(), name=one.name, model=one.model, prompt=f"You are {one.name}.")
        write_bundle(root / one.name, source, embedder or WordEmbedder())
        write_provenance(root / one.name, one)
    return root


def write_provenance(directory: Path, one: Learned) -> None:
    splits = ([VALIDATION] if one.lead is not None else []) + ([SEALED] if one.sealed else [])
    own, general = (read_bundle(path).id for path in (directory, directory.parent / GENERAL))
    ids = {one.name: own, GENERAL: general}
    found = (figures(split, one.name, one.model, one.lead or 0.0) for split in splits)
    provenance = Provenance(
        bundle=own,
        made="written by hand" if one.name == GENERAL else "learned",
        date="2026-11-30",
        licence="Apache-2.0",
        texts="written for the tests",
        figures=tuple(replace(measured, ids=ids) for measured in found),
    )
    (directory / PROVENANCE).write_bytes(provenance_bytes(provenance))


def figures(
    split: str = VALIDATION, name: str = "learned-chat", model: str = CHAT_MODEL, lead: float = 0.05
) -> Figures:
    """Return figures of a bundle, the general bundle and the model alone."""
    return Figures(
        split=split,
        model=model,
        date="2026-11-30",
        command="python -m tests.bench.rivals",
        rows={"general": 72, "comply": 27, "refuse": 20},
        max_tokens=128,
        bundle=name,
        ids={name: "1" * 64, GENERAL: "2" * 64},
        measured={name: _measured(0.7 + lead), GENERAL: _measured(0.7), "raw": _measured(0.5)},
        level=0.975,
        differences={GENERAL: _difference(lead), "raw": _difference(0.2 + lead)},
    )


def _measured(composite: float) -> Measured:
    return Measured(_around(composite), _around(0.9), _around(0.5), _around(0.8), 412.5)


def _difference(lead: float) -> Difference:
    return Difference(_around(lead), _around(0.0))


def _around(value: float) -> Interval:
    return Interval(round(value, 4), round(value - 0.04, 4), round(value + 0.04, 4))
