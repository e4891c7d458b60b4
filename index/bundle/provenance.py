"""Parses and writes provenance.json, format 1: how a bundle that ships with drpo was made, and what was measured.

The file lies beside the files of the bundle. No check of the bundle depends on it, so a bundle without it is valid. The
figures are those that `python -m tests.bench.rivals --out FILE` writes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from index.bundle.strict_json import Fields, is_number, parse_json, quoted
from index.errors import BundleFormatError
from index.measures.confidence import Interval

PROVENANCE: Final = "provenance.json"
FORMAT: Final = 1
VALIDATION: Final = "validation"
SEALED: Final = "sealed"
_SPLITS: Final = (VALIDATION, SEALED)
_KEYS: Final = ("format", "bundle", "made", "date", "licence", "texts", "notes", "run", "figures")
_FIGURES_KEYS: Final = (
    *("split", "model", "date", "command", "rows", "max_tokens", "bundle", "ids", "measured"),
    *("level", "differences"),
)
_MEASURED: Final = ("composite", "balanced", "similarity", "ends")
_DIFFERENCES: Final = ("composite", "similarity")
_MAX_FIGURE: Final = 1e9


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured about the answers of one model with one bundle. Intervals are 95 % intervals.

    Attributes:
        composite: The mean of `balanced`, `similarity` and `ends` (docs/learned-bundles.md).
        balanced: The balanced accuracy of refusals.
        similarity: The mean similarity of answers to their references.
        ends: The share of answers that end by themselves.
        prompt_tokens: The mean number of tokens of a prompt.
    """

    composite: Interval
    balanced: Interval
    similarity: Interval
    ends: Interval
    prompt_tokens: float


@dataclass(frozen=True, slots=True)
class Difference:
    """The values of a bundle minus the values of a rival, on the same rows.

    Attributes:
        composite: The difference of the composites, with an interval of the confidence level `Figures.level`.
        similarity: The difference of the similarities, with a 95 % interval.
    """

    composite: Interval
    similarity: Interval


@dataclass(frozen=True, slots=True)
class Figures:
    """A measurement of a bundle and its rivals: other bundles and the model alone, on the same rows.

    Attributes:
        split: `validation` or `sealed`.
        model: The name of the model that answered.
        date: The day of the measurement, such as 2026-11-30.
        command: The command that measured.
        rows: The number of rows of each kind of row, such as queries that must be refused.
        max_tokens: The maximum number of tokens of an answer.
        bundle: The key of the measured bundle in `measured`. All other keys of `measured` name rivals.
        ids: The bundle id of each measured bundle, by its name. The entry `raw` has no bundle id.
        measured: What was measured, by the name of the bundle. The key `raw` is the model without a bundle.
        level: The confidence level of the intervals in `Difference.composite`, such as 0.9875. It is above 0.95 if
            there are several rivals (Bonferroni's correction).
        differences: The bundle's values minus the values of each rival, by the name of the rival.
    """

    split: str
    model: str
    date: str
    command: str
    rows: Mapping[str, int]
    max_tokens: int
    bundle: str
    ids: Mapping[str, str]
    measured: Mapping[str, Measured]
    level: float
    differences: Mapping[str, Difference]

    @property
    def own(self) -> Measured:
        """What was measured about the bundle itself."""
        return self.measured[self.bundle]


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a bundle was made, and what was measured.

    Attributes:
        bundle: The id of the bundle.
        made: How the bundle was made, such as `learned` or `written by hand`.
        date: The day on which it was made, such as 2026-11-30.
        licence: The licence of its texts.
        texts: Where its texts come from.
        notes: Further remarks, such as the commands that made it.
        run: The facts of the optimization run, as `drpo-optimizer ship` writes them; None if there was no run.
        figures: The measurements, at most one for each split.
    """

    bundle: str
    made: str
    date: str
    licence: str
    texts: str
    notes: tuple[str, ...] = ()
    run: Mapping[str, Any] | None = None
    figures: tuple[Figures, ...] = field(default=())

    def of(self, split: str) -> Figures | None:
        """Return the figures of a split; None if nothing was measured on its rows."""
        return next((one for one in self.figures if one.split == split), None)


def parse_provenance(data: bytes, location: str) -> Provenance:
    """Parse the content of provenance.json. `location` is the file's name in messages.

    Raises:
        BundleFormatError: The data is not JSON of format 1, or a key or a value is invalid.
    """
    fields = Fields(parse_json(data, location), location, _KEYS)
    fields.integer("format", FORMAT, FORMAT)
    figures = tuple(_figures(one, f"{location}, figures {number}") for number, one in _numbered(fields, "figures"))
    splits = [one.split for one in figures]
    if len(set(splits)) < len(splits):
        raise BundleFormatError(f"{location}: two figures have the same split. Keep the newer one")
    return Provenance(
        bundle=fields.line("bundle"),
        made=fields.line("made"),
        date=fields.line("date"),
        licence=fields.line("licence"),
        texts=fields.line("texts"),
        notes=fields.lines("notes"),
        run=None if fields.raw("run") is None else fields.table("run"),
        figures=figures,
    )


def provenance_bytes(provenance: Provenance) -> bytes:
    """Return the content of provenance.json: indented, one line break at the end."""
    record = {
        "format": FORMAT,
        "bundle": provenance.bundle,
        "made": provenance.made,
        "date": provenance.date,
        "licence": provenance.licence,
        "texts": provenance.texts,
        "notes": list(provenance.notes),
        "run": provenance.run,
        "figures": [figures_record(one) for one in provenance.figures],
    }
    return json_bytes(record)


def parse_figures(data: bytes, location: str) -> Figures:
    """Parse a file of figures. Raises BundleFormatError if it is invalid. `location` is its name in messages."""
    return _figures(parse_json(data, location), location)


def figures_record(figures: Figures) -> dict[str, Any]:
    """Return figures as an object of JSON."""
    return {
        "split": figures.split,
        "model": figures.model,
        "date": figures.date,
        "command": figures.command,
        "rows": dict(figures.rows),
        "max_tokens": figures.max_tokens,
        "bundle": figures.bundle,
        "ids": dict(figures.ids),
        "measured": {
            name: {key: _ends_of(getattr(one, key)) for key in _MEASURED} | {"prompt_tokens": one.prompt_tokens}
            for name, one in figures.measured.items()
        },
        "level": figures.level,
        "differences": {
            name: {key: _ends_of(getattr(one, key)) for key in _DIFFERENCES}
            for name, one in figures.differences.items()
        },
    }


def json_bytes(record: Mapping[str, Any]) -> bytes:
    """Return an object as indented JSON. A list of numbers or short texts takes one line."""
    return f"{_pretty(record, '')}\n".encode()


def _pretty(value: Any, indent: str) -> str:
    is_container = isinstance(value, Mapping | list | tuple)
    one_line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    fits = len(indent) + len(one_line) <= 100 and not any(isinstance(one, Mapping) for one in _items(value))
    if not is_container or (not isinstance(value, Mapping) and fits) or not value:
        return one_line
    deeper = f"{indent}  "
    if isinstance(value, Mapping):
        parts = [f"{json.dumps(key, ensure_ascii=False)}: {_pretty(one, deeper)}" for key, one in value.items()]
        return "{\n" + ",\n".join(deeper + part for part in parts) + f"\n{indent}}}"
    return "[\n" + ",\n".join(deeper + _pretty(one, deeper) for one in value) + f"\n{indent}]"


def _items(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _figures(value: object, location: str) -> Figures:
    fields = Fields(value, location, _FIGURES_KEYS)
    measured = {name: _measured(one, f"{location}, {name}") for name, one in fields.table("measured").items()}
    bundle = fields.choice("bundle", tuple(measured))
    rows, ids = Fields(fields.table("rows"), location, (), tuple(fields.table("rows"))), fields.table("ids")
    return Figures(
        split=fields.choice("split", _SPLITS),
        model=fields.line("model"),
        date=fields.line("date"),
        command=fields.line("command"),
        rows={kind: rows.integer(kind, 0, int(_MAX_FIGURE)) for kind in fields.table("rows")},
        max_tokens=fields.integer("max_tokens", 1, int(_MAX_FIGURE)),
        bundle=bundle,
        ids={name: str(one) for name, one in ids.items()},
        measured=measured,
        level=fields.number("level", 0.5, 1.0),
        differences={
            name: _difference(one, f"{location}, {name}") for name, one in fields.table("differences").items()
        },
    )


def _measured(value: object, location: str) -> Measured:
    fields = Fields(value, location, (*_MEASURED, "prompt_tokens"))
    composite, balanced, similarity, ends = (_interval(fields, key, location) for key in _MEASURED)
    return Measured(composite, balanced, similarity, ends, fields.number("prompt_tokens", 0.0, _MAX_FIGURE))


def _difference(value: object, location: str) -> Difference:
    fields = Fields(value, location, _DIFFERENCES)
    return Difference(*(_interval(fields, key, location) for key in _DIFFERENCES))


def _interval(fields: Fields, key: str, location: str) -> Interval:
    value = fields.raw(key)
    ends = cast("list[float]", value) if isinstance(value, list) else []
    if len(ends) != 3 or not all(is_number(one, -_MAX_FIGURE, _MAX_FIGURE) for one in ends):
        raise BundleFormatError(f"{location}: {quoted(key)} must be a list of three numbers: estimate, low, high")
    return Interval(*map(float, ends))


def _ends_of(interval: Interval) -> list[float]:
    return [round(value, 4) for value in (interval.estimate, interval.low, interval.high)]


def _numbered(fields: Fields, key: str) -> Sequence[tuple[int, object]]:
    value = fields.raw(key)
    if not isinstance(value, list):
        raise BundleFormatError(f"{quoted(key)} must be a list")
    return list(enumerate(value, 1))
