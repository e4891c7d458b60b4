"""Tests that provenance.json and files of figures are read as they were written, and that wrong ones are refused."""

import json
from typing import Any

import pytest

from index.bundle.provenance import (
    SEALED,
    VALIDATION,
    Provenance,
    figures_record,
    json_bytes,
    parse_figures,
    parse_provenance,
    provenance_bytes,
)
from index.errors import BundleFormatError
from tests.index.shipped_library import figures

RUN = {"recipe": "raced", "models": {"task": "lm"}, "minutes": 40.5, "data": [{"part": "train", "rows": 297}]}
PROVENANCE = Provenance(
    "1" * 64, "learned", "2026-11-30", "Apache-2.0", "written", ("one", "two"), RUN, (figures(), figures(SEALED))
)


def test_provenance_is_read_as_it_was_written() -> None:
    assert parse_provenance(provenance_bytes(PROVENANCE), "here") == PROVENANCE
    assert PROVENANCE.of(SEALED) == figures(SEALED)
    assert PROVENANCE.of(VALIDATION) == figures()


def test_figures_are_read_as_they_were_written() -> None:
    written = json_bytes(figures_record(figures()))
    assert parse_figures(written, "here") == figures()
    assert b'"composite": [0.75, 0.71, 0.79],\n' in written, "an interval takes one line"


@pytest.mark.parametrize("value", [{}, [], {"a": {}, "b": [{"c": [1, 2]}, {}], "d": "x"}, {"long": ["word"] * 60}])
def test_written_json_has_the_given_value(value: Any) -> None:
    assert json.loads(json_bytes(value)) == value


def test_two_figures_of_one_split_are_refused() -> None:
    record = json.loads(provenance_bytes(PROVENANCE))
    record["figures"][1]["split"] = VALIDATION
    with pytest.raises(BundleFormatError, match="two figures have the same split"):
        parse_provenance(json.dumps(record).encode(), "here")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("split", "train", '"split" must be one of'),
        ("bundle", "nobody", '"bundle" must be one of'),
        ("level", 95, '"level" must be a number from 0.5 to 1'),
        ("measured", {"learned-chat": {"composite": [1, 2]}}, "is missing"),
        ("differences", {"raw": {"composite": [0, 1], "similarity": [0, 0, 0]}}, "a list of three numbers"),
        ("rows", {"general": -1}, '"general" must be an integer'),
    ],
)
def test_wrong_figures_are_named(key: str, value: object, message: str) -> None:
    with pytest.raises(BundleFormatError, match=message):
        parse_figures(json.dumps({**figures_record(figures()), key: value}).encode(), "here")
