"""Checks that each test exists that the threat model, the table of faults or the list of questions names."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("page", "fewest"), [("docs/security.md", 26), ("tests/faults/README.md", 26), ("docs/faq.md", 20)]
)
def test_every_test_named_on_a_page_exists(page: str, fewest: int) -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / page).read_text(encoding="utf-8")))
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    defined = set(re.findall(r"^(?:async )?def (test_\w+)", "\n".join(sources), re.MULTILINE))
    assert len(named) >= fewest
    assert named <= defined, named - defined
