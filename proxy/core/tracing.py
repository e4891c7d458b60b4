"""A span for each request, and OpenTelemetry's own metrics of model calls, sent where OTEL_EXPORTER_OTLP_ENDPOINT says.

Without that variable nothing here is made or imported. Names are those of OpenTelemetry's conventions for generative AI
(in development, as of 2026); times and counts alone, never what was asked or answered. Trace contexts are W3C's: a
client's is the parent of ours, and ours goes to the backend.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from threading import Thread
from typing import Any, Final

from proxy.core.errors import StartupError

ENDPOINTS: Final = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)
_LAST_WORDS_WITHIN: Final = 2.0  # seconds, at the end
_OPERATIONS: Final[Mapping[str, str]] = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
_SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS: Final = tuple(4**power for power in range(14))
_FIRST_SERVER_ERROR: Final = 500


@dataclass(frozen=True, slots=True)
class Told:
    """What a request came to. model: a backend's own name for it; seconds: from its beginning; first_byte: of a stream,
    else None; tokens as the backend counted them; others: attributes of ours."""

    model: str | None
    status: int
    outcome: str
    seconds: float
    first_byte: float | None
    input_tokens: object
    output_tokens: object
    others: Mapping[str, object]


class Telemetry:
    """Spans and metrics on their way out. Raises StartupError where the packages are missing."""

    def __init__(self) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.metrics import MeterProvider
            from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise StartupError(f"{ENDPOINTS[0]} is set: pip install 'drpo-proxy[otel]' ({error.name}).") from error
        resource = Resource.create({"service.name": "drpo-proxy"})  # OTEL_SERVICE_NAME wins
        self._spans = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._exporters = OTLPSpanExporter(), OTLPMetricExporter()
        self._spans.add_span_processor(BatchSpanProcessor(self._exporters[0]))
        self._meters = MeterProvider(
            [PeriodicExportingMetricReader(self._exporters[1])], resource=resource, shutdown_on_exit=False
        )
        self._tracer = self._spans.get_tracer("drpo-proxy")
        self._contexts = TraceContextTextMapPropagator()
        meter = self._meters.get_meter("drpo-proxy")
        self._duration = _histogram(meter, "gen_ai.client.operation.duration", "s", _SECONDS)
        self._first_chunk = _histogram(meter, "gen_ai.client.operation.time_to_first_chunk", "s", _SECONDS)
        self._usage = _histogram(meter, "gen_ai.client.token.usage", "{token}", _TOKENS)

    def begin(self, route: str, headers: Mapping[str, str]) -> "Trace":
        """A request's span, a child of the client's if it has one."""
        from opentelemetry.trace import SpanKind

        given = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        parent = self._contexts.extract(given)
        return Trace(self, self._tracer.start_span(f"POST {route}", parent, SpanKind.SERVER), route)

    def headers(self, span: Any) -> dict[str, str]:
        """What tells the backend of a span."""
        from opentelemetry.trace import set_span_in_context

        carrier: dict[str, str] = {}
        self._contexts.inject(carrier, set_span_in_context(span))
        return {name.capitalize(): value for name, value in carrier.items()}

    def measure(self, attributes: Mapping[str, str], told: Told) -> None:
        """A request's times and tokens."""
        self._duration.record(told.seconds, attributes)
        if told.first_byte is not None:
            self._first_chunk.record(told.first_byte, attributes)
        for name, tokens in (("input", told.input_tokens), ("output", told.output_tokens)):
            if isinstance(tokens, int):
                self._usage.record(tokens, {**attributes, "gen_ai.token.type": name})

    def close(self) -> None:
        """Send what is left, for a moment at most: the SDK tries a collector that is gone again and again."""
        flushes = [Thread(target=provider.force_flush, daemon=True) for provider in (self._spans, self._meters)]
        for flush in flushes:
            flush.start()
        for flush in flushes:
            flush.join(_LAST_WORDS_WITHIN)
        for exporter in self._exporters:
            exporter.shutdown()


@dataclass(frozen=True, slots=True)
class Trace:
    """One request's span."""

    telemetry: Telemetry
    span: Any
    route: str

    @property
    def headers(self) -> dict[str, str]:
        """For the backend."""
        return self.telemetry.headers(self.span)

    def end(self, told: Told) -> None:
        """End the span with what the request came to, and count it."""
        operation = _OPERATIONS.get(self.route, self.route.rpartition("/")[2])
        attributes = {"gen_ai.operation.name": operation, "gen_ai.provider.name": "drpo"}
        if told.model is not None:
            attributes["gen_ai.request.model"] = told.model
            self.span.update_name(f"{operation} {told.model}")
        if told.outcome != "complete":
            attributes["error.type"] = told.outcome
        self.telemetry.measure(attributes, told)
        counts = {"gen_ai.usage.input_tokens": told.input_tokens, "gen_ai.usage.output_tokens": told.output_tokens}
        all_of_it = {**attributes, **counts, "http.response.status_code": told.status, **told.others}
        self.span.set_attributes({name: value for name, value in all_of_it.items() if value is not None})
        if told.status >= _FIRST_SERVER_ERROR or told.outcome == "truncated":
            self._mark_as_failed()
        self.span.end()

    def _mark_as_failed(self) -> None:
        from opentelemetry.trace import StatusCode

        self.span.set_status(StatusCode.ERROR)


def open_telemetry(environment: Mapping[str, str]) -> Telemetry | None:
    """What OpenTelemetry's variables ask for; None where they ask for nothing. Raises StartupError."""
    return Telemetry() if any(environment.get(name) for name in ENDPOINTS) else None


def _histogram(meter: Any, name: str, unit: str, bounds: tuple[float, ...]) -> Any:
    return meter.create_histogram(name, unit, explicit_bucket_boundaries_advisory=list(bounds))
