"""Tests that docs/scaling.md agrees with the measured figures."""

from dataclasses import replace

import pytest

from tests.bench.open_loop.figures import BASE, KNOWN, NEW, OURS, ROUTER, STREAM, Cpu, read
from tests.deploy import scaling

pytestmark = pytest.mark.deploy


def test_tables_equal_those_of_the_benchmarks() -> None:
    text = scaling.PAGE.read_text(encoding="utf-8")
    assert text == scaling.written(text), "run `python -m tests.deploy.scaling`"


def test_measured_figures_are_plausible() -> None:
    cpu = read().cpu
    assert cpu
    of = scaling.measured(cpu, scaling.BENCH.read_text(encoding="utf-8"))
    assert 0 < max(of.relayed, of.translated) < of.request < of.new_query < 1
    assert of.worker_streaming > 0


PAGE = """
| streams | memory, 1,000 slow ones |
| --- | --- |
| drpo-proxy | 1,500 MiB |

Since then:

| streams | memory, 1,000 slow ones | CPU per chunk |
| --- | --- | --- |
| drpo-proxy, base model (translated) | 211 MiB | 3.1 µs |
| drpo-proxy | 1,212 MiB | 1.6 µs |
"""
TIMES = {KNOWN.name: [1.0, 9.0, 2.0], NEW.name: [6.0] * 3, STREAM.name: [2.0 + 199 * 0.05] * 3}
CPU = Cpu("2026-01-01", "command", "machine", {}, {OURS: TIMES, BASE: TIMES})


def test_times_are_medians_and_a_chunk_is_what_a_stream_takes_longer() -> None:
    of = scaling.measured(CPU, PAGE)
    assert (of.request, of.new_query) == pytest.approx((2e-3, 4e-3))
    assert (of.relayed, of.translated) == pytest.approx((50e-6, 50e-6))
    assert of.worker_streaming == 1212
    assert (of.router_request, of.router_chunk) == (None, None)
    with_router = replace(CPU, milliseconds={**CPU.milliseconds, ROUTER: TIMES})
    assert scaling.measured(with_router, PAGE).router_chunk == pytest.approx(50e-6)


def test_missing_figure_is_an_error() -> None:
    with pytest.raises(AssertionError, match="'drpo-proxy' and a column 'memory, 1,000 slow'"):
        scaling.measured(CPU, PAGE.replace("memory", "room"))
