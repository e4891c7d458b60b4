"""Tests of counts with their nouns."""

import pytest

from index.counted import counted


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (0, "row", "0 rows"),
        (1, "row", "1 row"),
        (2_000, "sealed row", "2,000 sealed rows"),
        (1, "query", "1 query"),
        (3, "reply", "3 replies"),
        (2, "day", "2 days"),
    ],
)
def test_noun_has_the_number_of_its_count(count: int, noun: str, text: str) -> None:
    assert counted(count, noun) == text
