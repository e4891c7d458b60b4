"""Defines all Prometheus metrics in one place, so that a reviewer can check that each label has few possible values.

If the server has several workers, the workers store their metrics in files. This is the multiprocess mode of
prometheus-client, which the environment variable in FOLDER_VARIABLE switches on. Each worker then reports the numbers
of all workers together. No metric contains text of a request.
"""

import os
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from proxy.core.log import lost_lines

FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable of prometheus-client that names the folder of the workers' files."""

# The upper bounds of the buckets of histograms.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_TOKENS = (0, 50, 100, 200, 400, 600, 800, 1200, 1600, 2400, 4800)


_Metric = TypeVar("_Metric", Counter, Gauge, Histogram)


class Labelled(Generic[_Metric]):
    """A metric with labels, and a cache of its children. A child is the metric for one combination of label values.

    prometheus-client takes a lock whenever it looks up a child. The cache avoids this lock in requests.
    """

    def __init__(self, metric: _Metric) -> None:
        self._metric: _Metric = metric
        self._children: dict[tuple[str, ...], _Metric] = {}

    def labels(self, *values: str) -> _Metric:
        """Return the child for these label values. The cache stays small: labels have few values (see Metrics)."""
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._metric.labels(*values)
        return child


@dataclass(frozen=True, slots=True)
class Metrics:
    """All metrics of a process.

    `create_metrics` gives the help text of each metric. The values of labels come from the code (such as paths,
    variants and outcomes), from HTTP statuses, or from the operator (backends, experiments and arms). A client
    therefore cannot add label values.
    """

    registry: CollectorRegistry
    requests: Labelled[Counter]
    in_flight: Gauge
    duration: Labelled[Histogram]
    first_byte: Labelled[Histogram]
    retrieval: Labelled[Histogram]
    injected_tokens: Histogram
    injection_reduced: Labelled[Counter]
    refusal_left_out: Counter
    below_floor: Counter
    unread_turns: Counter
    tokens: Labelled[Counter]
    warmed_prefixes: Labelled[Counter]
    retries: Labelled[Counter]
    backend_up: Labelled[Gauge]
    ejections: Labelled[Counter]
    set_placements: Labelled[Counter]
    queued: Gauge
    log_lines_lost: Gauge
    experiment_requests: Labelled[Counter]
    exposures: Labelled[Counter]
    feedback: Labelled[Counter]
    judgements: Labelled[Counter]
    store_up: Gauge

    def exposition(self) -> bytes:
        """Return the metrics of all workers in Prometheus' text format."""
        return generate_latest(self.collect_workers())

    def collect_workers(self) -> CollectorRegistry:
        """Return a registry with the current metrics of all workers."""
        self.log_lines_lost.set(lost_lines())
        if FOLDER_VARIABLE not in os.environ:
            return self.registry
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry


def create_metrics() -> Metrics:
    """Create the metrics with a new registry."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return Metrics(
        registry=registry,
        requests=_counter(
            "drpo_requests", "Requests, by how they ended.", registry, ("route", "variant", "status", "outcome")
        ),
        in_flight=_sum("drpo_requests_in_flight", "Requests being served.", registry),
        queued=_sum("drpo_requests_queued", "Requests that wait until fewer are in flight.", registry),
        log_lines_lost=_sum("drpo_log_lines_lost", "Log lines that were not written.", registry),
        duration=_histogram(
            "drpo_request_duration_seconds", "Seconds to the last byte of the reply.", registry, ("route", "variant")
        ),
        first_byte=_histogram("drpo_first_byte_seconds", "Seconds to the answer's first byte.", registry, ("variant",)),
        retrieval=_histogram("drpo_retrieval_seconds", "Seconds to find the examples.", registry, ("cache",)),
        injected_tokens=Histogram(
            "drpo_injected_tokens", "Tokens of prompt and examples per request.", registry=registry, buckets=_TOKENS
        ),
        injection_reduced=_counter(
            "drpo_injection_reduced", "Requests with fewer examples than usual.", registry, ("reason",)
        ),
        refusal_left_out=_total(
            "drpo_refusal_left_out", "Requests that got none of the bundle's pinned refusals.", registry
        ),
        below_floor=_total("drpo_retrieval_below_floor", "Requests whose query is unlike every example.", registry),
        unread_turns=_total("drpo_retrieval_unread_turns", "User turns that retrieval did not read in time.", registry),
        tokens=_counter("drpo_tokens", "Tokens, as the backends count them.", registry, ("variant", "type")),
        warmed_prefixes=_counter(
            "drpo_warmed_prefixes", "Example sets sent to warm the backends' prefix caches.", registry, ("result",)
        ),
        retries=_counter("drpo_backend_retries", "Requests sent to a backend again.", registry, ("reason",)),
        backend_up=Labelled(
            _least("drpo_backend_up", "1 if the backend answers every worker; 0 if not.", registry, ("backend",))
        ),
        ejections=_counter("drpo_backend_ejections", "Times that a backend was ejected.", registry, ("backend",)),
        set_placements=_counter(
            "drpo_set_placements", "Requests with an example set, by how the backend was chosen.", registry, ("choice",)
        ),
        experiment_requests=_counter(
            "drpo_experiment_requests", "Requests, by experiment and arm.", registry, ("experiment", "arm")
        ),
        exposures=_counter("drpo_exposures", "Exposures, by whether they were stored.", registry, ("result",)),
        feedback=_counter("drpo_feedback", "Feedback by result (see docs/api.md).", registry, ("result",)),
        judgements=_counter("drpo_judgements", "Answers offered to the shadow judge.", registry, ("result",)),
        store_up=_least("drpo_store_up", "1 if every worker can store exposures and feedback; 0 if not.", registry),
    )


def _sum(name: str, text: str, registry: CollectorRegistry) -> Gauge:
    return Gauge(name, text, registry=registry, multiprocess_mode="livesum")


def _least(name: str, text: str, registry: CollectorRegistry, labels: tuple[str, ...] = ()) -> Gauge:
    return Gauge(name, text, labels, registry=registry, multiprocess_mode="livemin")


def _total(name: str, text: str, registry: CollectorRegistry) -> Counter:
    return Counter(name, text, registry=registry)


def _counter(name: str, text: str, registry: CollectorRegistry, labels: tuple[str, ...]) -> Labelled[Counter]:
    return Labelled(Counter(name, text, labels, registry=registry))


def _histogram(name: str, text: str, registry: CollectorRegistry, labels: tuple[str, ...]) -> Labelled[Histogram]:
    return Labelled(Histogram(name, text, labels, registry=registry, buckets=_SECONDS))
