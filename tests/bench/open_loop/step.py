"""Measures one step: a gateway under one arrival rate. Times are those of client.c, in seconds unless stated."""

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

import numpy as np

from tests.bench.open_loop.plan import DIRECT, GATEWAY, Shape, Target, arrivals, encoded, warm_up_arrivals
from tests.bench.open_loop.programs import Backend, Programs
from tests.bench.peers.gateways import Gateway
from tests.bench.peers.machine import usage
from tests.bench.peers.source import MODEL

WHOLE, DEGRADED, FAILED = 1, 2, 4  # flags of a result
RESULT: Final = np.dtype(
    [(name, "f8") for name in ("at", "started", "headers", "first", "last", "ended")]
    + [("tokens", "u4"), ("target", "u4"), ("status", "u2"), ("flags", "u2"), ("padding", "u4")]
)
TIMEOUT: Final = 5.0  # seconds without a token after which a request counts as failed
MAX_FAILED: Final = 20  # failed requests after which a step ends early
MAX_WARM_UPS: Final = 3  # times; a busy machine needs more than one
_SLACK: Final = 0.1  # of a stream's length: how much later than due a stream may end
WARM_UP_TOKENS: Final = 40  # take a second, so that many connections are open at a time, and each worker gets some
Results = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Bench:
    """What all steps share.

    Attributes:
        programs: The compiled programs.
        backend: The running backend.
        words: The words that queries consist of.
        pace: Tokens per second of a stream.
        seconds: How long requests are measured, in seconds. Before that, for as long as a stream takes, requests arrive
            that are not measured, so that the number of open streams is steady.
    """

    programs: Programs
    backend: Backend
    words: Sequence[str]
    pace: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Step:
    """What was measured at one arrival rate.

    "Added" is the time from the planned arrival to the first token, minus the median of this time for the requests that
    went straight to the backend in the same step. All times are in milliseconds.

    Attributes:
        rate: Arrivals per second.
        requests: The number of measured requests.
        failed: The number of requests without a whole stream of all tokens.
        degraded: The number of requests that the gateway served with fewer examples than usual (x-drpo-reduced).
        completed: The share of the requests that arrived in the first `Bench.seconds` seconds and whose streams ended
            in time: at most 1.1 times the length of a stream after these seconds. It is less than 1 if requests arrive
            faster than they are served.
        p50: Median of the added time.
        p99: 99th percentile of the added time.
        direct_p99: 99th percentile of the same figure for the requests straight to the backend.
        late_p99: 99th percentile of the time between the planned arrival of a request and the time at which the client
            began to send it.
        gap_p99: 99th percentile of the time between two tokens of a stream.
        cpu: CPU time of the gateway for each request.
        busy: The share of a core that client and backend used.
    """

    rate: float
    requests: int
    failed: int
    degraded: int
    completed: float
    p50: float
    p99: float
    direct_p99: float
    late_p99: float
    gap_p99: float
    cpu: float
    busy: float


def measure(bench: Bench, gateway: Gateway, rate: float, shape: Shape, seed: str) -> Step:
    """Send requests to the gateway at an arrival rate."""
    stream = shape.tokens / bench.pace
    targets = [_target(gateway), Target(bench.backend.port, MODEL, {})]
    planned = arrivals(rate, stream + bench.seconds, shape, bench.words, seed)
    before, backend_before, began = _cpu(gateway.pid), _cpu(bench.backend.pid), monotonic()
    results, about = run_client(bench.programs, encoded(planned, targets, shape.tokens))
    seconds = monotonic() - began
    cpu = (_cpu(gateway.pid) - before) / max(1, np.count_nonzero(results["target"] == GATEWAY))
    busy = (about["cpu"] + _cpu(bench.backend.pid) - backend_before) / seconds
    return summary(
        results, rate, stream, bench.seconds, {"cpu": 1e3 * cpu, "busy": busy, "gap": about["gap_p99_ms"][0]}
    )


def warm_up(bench: Bench, gateway: Gateway) -> None:
    """Ask each known query several times, until the gateway has it in its caches."""
    plan = encoded(warm_up_arrivals(bench.words), [_target(gateway)], WARM_UP_TOKENS)
    for _ in range(MAX_WARM_UPS):
        results, _about = run_client(bench.programs, plan)
        if (results["flags"] == WHOLE).all():
            return


def run_client(programs: Programs, plan: bytes) -> tuple[Results, dict[str, Any]]:
    """Run the client with a plan. Return a result for each arrival, and what the client says about itself."""
    with tempfile.TemporaryDirectory() as name:
        plan_file, result_file = Path(name) / "plan", Path(name) / "results"
        plan_file.write_bytes(plan)
        command = [str(programs.client), str(plan_file), str(result_file), str(TIMEOUT), str(MAX_FAILED)]
        output = subprocess.run(command, capture_output=True, check=True, env=dict(os.environ)).stdout
        return np.fromfile(result_file, RESULT), json.loads(output)


def summary(results: Results, rate: float, stream: float, window: float, also: dict[str, float]) -> Step:
    """Return the figures of a step.

    Args:
        results: One result for each arrival.
        rate: Arrivals per second.
        stream: How long a stream takes, in seconds. Requests that arrive in this time after the start of the step are
            not measured.
        window: How long requests are measured, in seconds.
        also: The values of `Step.cpu`, `Step.busy` and `Step.gap_p99`, under the keys cpu, busy and gap.
    """
    ours = results[results["target"] == GATEWAY]
    measured = ours[ours["at"] >= stream]
    started = measured[measured["started"] > 0]
    straight = results[(results["target"] == DIRECT) & (results["at"] >= stream)]
    direct = _to_first_token(straight[straight["first"] > 0])
    base = float(np.median(direct)) if len(direct) else 0.0
    added = 1e3 * (_to_first_token(measured) - base)
    is_whole = ours["flags"] & WHOLE > 0
    due = ours["at"] < window
    in_time = is_whole & due & (ours["ended"] < window + (1 + _SLACK) * stream)
    return Step(
        rate=rate,
        requests=len(measured),
        failed=int(np.count_nonzero(~is_whole)),
        degraded=int(np.count_nonzero(ours["flags"] & DEGRADED)),
        completed=float(np.mean(in_time[due])) if due.any() else 1.0,
        p50=_quantile(added, 0.5),
        p99=_quantile(added, 0.99),
        direct_p99=_quantile(1e3 * (direct - base), 0.99),
        late_p99=_quantile(1e3 * (started["started"] - started["at"]), 0.99),
        gap_p99=also["gap"],
        cpu=also["cpu"],
        busy=also["busy"],
    )


def _to_first_token(results: Results) -> Results:
    """Return the seconds from the planned arrival to the first token; TIMEOUT without a token."""
    times: Results = np.where(results["first"] > 0, results["first"] - results["at"], TIMEOUT)
    return times


def _quantile(values: Results, share: float) -> float:
    """Return a quantile, rounded up to one of the values, so that it is never too small; 0 if there are no values."""
    return float(np.quantile(values, share, method="higher")) if len(values) else 0.0


def _target(gateway: Gateway) -> Target:
    return Target(int(gateway.url.rpartition(":")[2]), gateway.model, gateway.headers)


def _cpu(pid: int | None) -> float:
    return usage(pid).seconds if pid else 0.0
