"""Tests that the documentation lists every table and key of run.toml."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

from optimizer.core.config_tables import ModelTable, RunConfig

PAGE = Path(__file__).parents[3] / "docs" / "optimizing.md"


def test_every_table_and_key_is_documented() -> None:
    rows = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"\| `\[(\w+)(?:\.\w+)?\]`.*? \| (.*) \|$", line):
            rows[found[1]] = set(re.findall(r"`(\w+)`", found[2]))
    hints = get_type_hints(RunConfig)
    tables = {one.name: hints[one.name] for one in fields(RunConfig)} | {"models": ModelTable}
    assert rows.keys() == tables.keys()
    for name, kind in tables.items():
        assert is_dataclass(kind)
        assert {one.name for one in fields(kind)} <= rows[name], name
