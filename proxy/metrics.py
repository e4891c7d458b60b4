"""The Prometheus metrics, in one place so that every label is seen to be bounded. Knows no request content.

Of several workers each keeps its numbers in files (prometheus-client's multiprocess mode, which a worker's environment
switches on), and any of them shows those of all.
"""

import os
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from proxy.log import lost_lines

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_TOKENS = (0, 50, 100, 200, 400, 600, 800, 1200, 1600, 2400, 4800)


@dataclass(frozen=True, slots=True)
class Metrics:
    """Labels are bounded: served paths, our own names for variants and outcomes, never a client's word."""

    registry: CollectorRegistry
    requests: Counter
    in_flight: Gauge
    duration: Histogram
    first_byte: Histogram
    retrieval: Histogram
    injected_tokens: Histogram
    degraded: Counter
    tokens: Counter
    retries: Counter
    backend_up: Gauge
    ejections: Counter
    queued: Gauge
    log_lines_lost: Gauge

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format, of all workers together."""
        self.log_lines_lost.set(lost_lines())
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)


def create_metrics() -> Metrics:
    """Metrics on a registry of their own."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return Metrics(
        registry=registry,
        requests=Counter(
            "drpo_requests", "Requests by how they ended.", ("route", "variant", "status", "outcome"), registry=registry
        ),
        in_flight=_sum("drpo_requests_in_flight", "Requests being served.", registry),
        queued=_sum("drpo_requests_queued", "Requests that wait for a place.", registry),
        log_lines_lost=_sum("drpo_log_lines_lost", "Log lines that nobody read fast enough.", registry),
        duration=_histogram("drpo_request_duration_seconds", "Request to last byte.", registry, ("route", "variant")),
        first_byte=_histogram(
            "drpo_first_byte_seconds",
            "Request to the answer's first byte.",
            registry,
            ("variant",),
        ),
        retrieval=_histogram("drpo_retrieval_seconds", "Finding the examples.", registry, ("cache",)),
        injected_tokens=Histogram(
            "drpo_injected_tokens", "Prompt and examples per request.", registry=registry, buckets=_TOKENS
        ),
        degraded=Counter("drpo_degraded", "Requests served without their examples.", ("reason",), registry=registry),
        tokens=Counter("drpo_tokens", "Tokens as the backends count them.", ("variant", "type"), registry=registry),
        retries=Counter("drpo_backend_retries", "Requests sent to a backend again.", ("reason",), registry=registry),
        backend_up=Gauge(
            "drpo_backend_up",
            "1 if the backend answers (every worker, where there are several).",
            ("backend",),
            registry=registry,
            multiprocess_mode="livemin",
        ),
        ejections=Counter(
            "drpo_backend_ejections", "Times that a backend was set aside.", ("backend",), registry=registry
        ),
    )


def _sum(name: str, text: str, registry: CollectorRegistry) -> Gauge:
    return Gauge(name, text, registry=registry, multiprocess_mode="livesum")


def _histogram(name: str, text: str, registry: CollectorRegistry, labels: tuple[str, ...]) -> Histogram:
    return Histogram(name, text, labels, registry=registry, buckets=_SECONDS)
