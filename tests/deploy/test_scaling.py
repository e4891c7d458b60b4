"""Guards that the capacity page says what the benchmarks' page says."""

import pytest

from tests.deploy import scaling

pytestmark = pytest.mark.deploy


def test_tables_equal_those_of_the_benchmarks() -> None:
    text = scaling.PAGE.read_text(encoding="utf-8")
    assert text == scaling.written(text), "run `python -m tests.deploy.scaling`"


def test_measurements_are_read_from_the_right_cells() -> None:
    of = scaling.measured(scaling.BENCH.read_text(encoding="utf-8"))
    assert 0 < max(of.relayed, of.translated) < of.request < of.new_query < 1
    assert of.worker_streaming > 0


PAGE = """
| | on top of a repeated query |
| --- | --- |
| MiniLM | 52 ms |
| the default embedder | 4.5 ms |

| | p50 | CPU per request, 2 KB | times |
| --- | --- | --- | --- |
| **drpo-proxy** | 0.6 ms | 1,400 µs (379 to 493) | 1.26 |
| vllm-router | 0.1 ms | | |

| streams | memory, 1,000 slow ones | CPU per chunk |
| --- | --- | --- |
| drpo-proxy, base model (translated) | 211 MiB | 3.1 µs |
| drpo-proxy | 212 MiB | 1.6 µs |
"""


def test_columns_are_found_by_their_heads_wherever_they_stand() -> None:
    of = scaling.measured(PAGE)
    assert [of.request, of.relayed, of.translated] == pytest.approx([1400e-6, 1.6e-6, 3.1e-6])
    assert of.new_query == pytest.approx(4.5e-3)
    assert of.worker_streaming == 212
    assert (of.router_request, of.router_chunk) == (None, None)


def test_missing_figure_is_an_error() -> None:
    with pytest.raises(AssertionError, match="'drpo-proxy' and a column 'CPU per chunk'"):
        scaling.measured(PAGE.replace("CPU per chunk", "chunks"))
