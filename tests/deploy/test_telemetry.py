"""Tests of traces: if OpenTelemetry's variables ask for it, its SDK sends a span per request, without the content."""

import asyncio
import base64
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from proxy.core.tracing import open_telemetry
from tests.deploy.parts import environment
from tests.faults.process import command
from tests.faults.scripted import Received, Reply, completion, completion_events, scripted_backend

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "a secret that no span may hold"
_DECODE = """
import json, sys
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest as Metrics
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest as Traces
print(json.dumps([
    MessageToDict((Traces if path.endswith("traces") else Metrics).FromString(bytes.fromhex(body)))
    for path, body in json.load(sys.stdin)
]))
"""


def test_tracing_is_off_without_configuration() -> None:
    assert open_telemetry({"OTEL_SERVICE_NAME": "someone"}) is None


@asynccontextmanager
async def _collector() -> AsyncIterator[tuple[str, list[tuple[str, str]]]]:
    got: list[tuple[str, str]] = []

    async def take(request: web.Request) -> web.Response:
        got.append((request.path, (await request.read()).hex()))
        return web.Response(content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/v1/{what}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", got
    finally:
        await runner.cleanup()


@pytest.fixture
def sdk(monkeypatch: pytest.MonkeyPatch) -> Path:
    """bin/ of an environment with the extra `otel`. The proxies that the test starts can import it."""
    folder = environment("otel")
    monkeypatch.setenv("PYTHONPATH", str(next(folder.parent.glob("lib/python*/site-packages"))))
    return folder


def _named(decoded: list[Any], name: str) -> Any:
    """Return the data points of a metric in the last export that has them."""
    found = [
        metric["histogram"]["dataPoints"]
        for export in decoded
        for resource in export.get("resourceMetrics", ())
        for scope in resource["scopeMetrics"]
        for metric in scope["metrics"]
        if metric["name"] == name
    ]
    return found[-1]


def _values(attributes: list[Any]) -> dict[str, str]:
    return {one["key"]: str(next(iter(one["value"].values()))) for one in attributes}


@pytest.mark.deploy
@pytest.mark.slow
async def test_request_is_one_span_between_client_and_backend(sdk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(reply: Reply, request: Received) -> None:
        if not request.json.get("stream"):
            await reply.whole(completion("An answer."))
            return
        await reply.begin()
        for event in completion_events(["a ", "word"]):
            await reply.chunk(event)
        await reply.end()

    async with _collector() as (url, got), scripted_backend(script) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        async with command("--backend", backend.url, "--bundle", "scripted=default", "--no-warm-cache") as proxy:
            given = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "other=1"}
            assert (await proxy.chat(SECRET, given))[0] == 200
            await _stream(proxy.url)
            assert (await proxy.chat(SECRET, {"x-drpo-variant": "no such"}))[0] == 400
            proxy.process.terminate()
            assert await proxy.ended() == 0
        sent = backend.generating
    assert SECRET.encode().hex() not in "".join(body for _, body in got)
    decoded = await asyncio.to_thread(_decoded, sdk, got)
    spans = [
        span
        for export in decoded
        for resource in export.get("resourceSpans", ())
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]
    first, stream, refused = spans
    assert (_hex(first["traceId"]), _hex(first["parentSpanId"])) == (TRACE, PARENT)
    assert sent[0].headers["Traceparent"] == f"00-{TRACE}-{_hex(first['spanId'])}-01"
    assert sent[0].headers["Tracestate"] == "other=1"
    assert _hex(stream["spanId"]) in sent[1].headers["Traceparent"]
    assert first["name"] == "chat scripted"
    told = _values(first["attributes"])
    assert told["gen_ai.usage.output_tokens"] == "3"
    assert told["drpo.variant"] == "aligned"
    assert _values(refused["attributes"])["error.type"] == "bad_request"
    assert sum(int(point["count"]) for point in _named(decoded, "gen_ai.client.operation.duration")) == 3
    assert sum(int(point["count"]) for point in _named(decoded, "gen_ai.client.operation.time_to_first_chunk")) == 1
    kinds = {
        _values(point["attributes"])["gen_ai.token.type"] for point in _named(decoded, "gen_ai.client.token.usage")
    }
    assert kinds == {"input", "output"}


async def _stream(url: str) -> None:
    body = {"model": "scripted", "messages": [{"role": "user", "content": SECRET}], "stream": True}
    async with aiohttp.ClientSession() as session, session.post(f"{url}/chat/completions", json=body) as response:
        assert b"[DONE]" in await response.read()


def _decoded(sdk: Path, got: list[tuple[str, str]]) -> list[Any]:
    command = [sdk / "python", "-c", _DECODE]
    said = subprocess.run(command, input=json.dumps(got), capture_output=True, check=True, text=True).stdout
    return list(json.loads(said))


def _hex(base64_text: str) -> str:
    return base64.b64decode(base64_text).hex()


@pytest.mark.deploy
@pytest.mark.slow
async def test_missing_collector_fails_no_request_and_hardly_delays_the_shutdown(
    sdk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(reply: Reply, _request: Received) -> None:
        await reply.whole(completion("An answer."))

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    async with scripted_backend(script) as backend, command("--backend", backend.url) as proxy:
        statuses = [status for status, _, _ in await asyncio.gather(*(proxy.chat() for _ in range(20)))]
        assert statuses == [200] * 20
        proxy.process.terminate()
        assert await proxy.ended(within=15) == 0


@pytest.mark.deploy
@pytest.mark.slow
async def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(AssertionError, match=r"pip install 'drpo-proxy\[otel\]'"):
        async with command("--backend", "http://127.0.0.1:9"):
            pass
