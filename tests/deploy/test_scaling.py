"""Guards that the capacity page says what the benchmarks' page says."""

import pytest

from tests.deploy import scaling

pytestmark = pytest.mark.deploy  # fails until the page and the benchmarks' new tables are brought together


def test_the_tables_are_those_of_the_benchmarks() -> None:
    text = scaling.PAGE.read_text(encoding="utf-8")
    assert text == scaling.written(text), "run `python -m tests.deploy.scaling`"


def test_what_was_measured_is_read_from_the_right_cells() -> None:
    of = scaling.measured()
    assert 0 < of.relayed < of.translated < of.request < of.embedding < 1
    assert 0 < of.router_chunk < of.router_request
    assert 0 < of.worker < of.worker_streaming
