"""The order of the training rows in a search: each beginning has a fair share of each kind."""

from collections import Counter
from collections.abc import Mapping

import pytest

from optimizer.core.config_tables import EQUAL, PROPORTIONAL
from optimizer.data.dataset import COMPLY, GENERAL, REFUSE, Row
from optimizer.stages.prompt_stage import mixed_by_kind

COUNTS: Mapping[str, int] = {GENERAL: 24, COMPLY: 8, REFUSE: 4}
ROWS = tuple(Row(f"{kind} {number}", kind) for kind, count in COUNTS.items() for number in range(count))


@pytest.mark.parametrize(
    ("mix", "expected"),
    [(PROPORTIONAL, {GENERAL: 6, COMPLY: 2, REFUSE: 1}), (EQUAL, {GENERAL: 3, COMPLY: 3, REFUSE: 3})],
)
def test_each_beginning_has_a_fair_share_of_each_kind(mix: str, expected: Mapping[str, int]) -> None:
    mixed = mixed_by_kind(ROWS, mix)
    assert Counter(row.kind for row in mixed[:9]) == expected
    assert sorted(mixed, key=ROWS.index) == list(ROWS)
    for kind in COUNTS:
        assert [row for row in mixed if row.kind == kind] == [row for row in ROWS if row.kind == kind]


def test_rows_of_one_kind_stay_in_their_order() -> None:
    rows = tuple(Row(str(number)) for number in range(9))
    assert [list(mixed_by_kind(rows, mix)) for mix in (PROPORTIONAL, EQUAL)] == [list(rows)] * 2
