"""Sends spans and metrics to an OpenTelemetry collector: one span per request, and metrics of times and token counts.

The environment variables in ENDPOINTS name the collector. If none of them is set, OpenTelemetry is not imported. The
names of spans, attributes and metrics follow OpenTelemetry's conventions for generative AI. In 2026, these conventions
are not final yet. Spans and metrics never contain the text of requests or answers. If a client sends a W3C trace
context, the proxy's span becomes a child of the client's span. The proxy sends the context of its own span to the
backend.
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
_FLUSH_TIMEOUT: Final = 2.0  # seconds to send the last data at shutdown
# The operation that each path stands for, in the words of the conventions.
_OPERATIONS: Final[Mapping[str, str]] = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
# The upper bounds of the buckets of histograms, from the conventions.
_SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS: Final = tuple(4**power for power in range(14))
_MIN_SERVER_ERROR: Final = 500


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """The measured outcome of one request.

    Attributes:
        model: The id of the model at the backend; None if no backend was chosen.
        status: The HTTP status of the reply to the client.
        outcome: How the request ended, such as `complete` or `truncated`.
        seconds: Seconds from the beginning of the request to its end.
        first_byte: Seconds from the beginning of the request to the first byte of a stream; None if the reply is not
            a stream.
        input_tokens: The number of tokens of the prompt, as the backend counted them; None if it reported no number.
        output_tokens: The number of tokens of the answer, as the backend counted them; None if it reported no number.
        extra_attributes: Further attributes of the span, which OpenTelemetry's conventions do not define.
    """

    model: str | None
    status: int
    outcome: str
    seconds: float
    first_byte: float | None
    input_tokens: int | None
    output_tokens: int | None
    extra_attributes: Mapping[str, object]


class Telemetry:
    """Creates a span for each request, records metrics, and exports both."""

    def __init__(self) -> None:
        """Create the exporters. Raises StartupError if the packages of OpenTelemetry are not installed."""
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
            raise StartupError(
                f"A variable such as {ENDPOINTS[0]} is set, but the package {error.name} is not installed. "
                "Run: pip install 'drpo-proxy[otel]'"
            ) from error
        resource = Resource.create({"service.name": "drpo-proxy"})  # OTEL_SERVICE_NAME takes precedence over this name
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
        """Start the span of a request. If the headers contain a trace context, the client's span becomes the parent."""
        from opentelemetry.trace import SpanKind

        context = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        parent = self._contexts.extract(context)
        return Trace(self, self._tracer.start_span(f"POST {route}", parent, SpanKind.SERVER), route)

    def headers(self, span: Any) -> dict[str, str]:
        """Return the headers that carry the context of a span to the backend."""
        from opentelemetry.trace import set_span_in_context

        carrier: dict[str, str] = {}
        self._contexts.inject(carrier, set_span_in_context(span))
        return {name.capitalize(): value for name, value in carrier.items()}

    def record_metrics(self, attributes: Mapping[str, str], outcome: RequestOutcome) -> None:
        """Record the times and the token counts of a request in the metrics."""
        self._duration.record(outcome.seconds, attributes)
        if outcome.first_byte is not None:
            self._first_chunk.record(outcome.first_byte, attributes)
        for name, tokens in (("input", outcome.input_tokens), ("output", outcome.output_tokens)):
            if tokens is not None:
                self._usage.record(tokens, {**attributes, "gen_ai.token.type": name})

    def close(self) -> None:
        """Send the remaining spans and metrics.

        The method waits at most _FLUSH_TIMEOUT for the spans, and then at most _FLUSH_TIMEOUT for the metrics. The
        limit is necessary because the SDK repeats its attempts for a long time if the collector cannot be reached.
        """
        flushes = [Thread(target=provider.force_flush, daemon=True) for provider in (self._spans, self._meters)]
        for flush in flushes:
            flush.start()
        for flush in flushes:
            flush.join(_FLUSH_TIMEOUT)
        for exporter in self._exporters:
            exporter.shutdown()


@dataclass(frozen=True, slots=True)
class Trace:
    """The span of one request.

    Attributes:
        telemetry: The Telemetry object that created the span and exports the span.
        span: OpenTelemetry's span.
        route: The path of the request.
    """

    telemetry: Telemetry
    span: Any
    route: str

    @property
    def headers(self) -> dict[str, str]:
        """The headers that carry the context of the span to the backend."""
        return self.telemetry.headers(self.span)

    def end(self, outcome: RequestOutcome) -> None:
        """End the span and record the metrics of the request."""
        operation = _OPERATIONS.get(self.route, self.route.rpartition("/")[2])
        attributes = {"gen_ai.operation.name": operation, "gen_ai.provider.name": "drpo"}
        if outcome.model is not None:
            attributes["gen_ai.request.model"] = outcome.model
            self.span.update_name(f"{operation} {outcome.model}")
        if outcome.outcome != "complete":
            attributes["error.type"] = outcome.outcome
        self.telemetry.record_metrics(attributes, outcome)
        counts = {
            "gen_ai.usage.input_tokens": outcome.input_tokens,
            "gen_ai.usage.output_tokens": outcome.output_tokens,
        }
        values = {**attributes, **counts, "http.response.status_code": outcome.status, **outcome.extra_attributes}
        self.span.set_attributes({name: value for name, value in values.items() if value is not None})
        if outcome.status >= _MIN_SERVER_ERROR or outcome.outcome == "truncated":
            self._mark_as_failed()
        self.span.end()

    def _mark_as_failed(self) -> None:
        from opentelemetry.trace import StatusCode

        self.span.set_status(StatusCode.ERROR)


def open_telemetry(environment: Mapping[str, str]) -> Telemetry | None:
    """Return a new Telemetry if the environment sets a variable of ENDPOINTS; None otherwise.

    Raises StartupError if the packages of OpenTelemetry are not installed.
    """
    return Telemetry() if any(environment.get(name) for name in ENDPOINTS) else None


def _histogram(meter: Any, name: str, unit: str, bounds: tuple[float, ...]) -> Any:
    return meter.create_histogram(name, unit, explicit_bucket_boundaries_advisory=list(bounds))
