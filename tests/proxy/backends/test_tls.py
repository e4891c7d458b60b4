"""Guards backends behind TLS: they are reached where their certificate is trusted, and not where it is not."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.faults.scripted import Received, Reply, completion, completion_events, scripted_backend
from tests.proxy.serving import serving


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of 127.0.0.1 that signs itself, with its key in one file."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "1", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    place = tmp_path / "both.pem"
    subprocess.run([*command, "-keyout", place, "-out", tmp_path / "cert.pem"], check=True, capture_output=True)
    place.write_text(place.read_text() + (tmp_path / "cert.pem").read_text())
    return place


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, ssl.SSLError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def behind_tls(url: str, certificate: Path) -> AsyncIterator[str]:
    """The https URL of a plain server."""
    port = int(url.rpartition(":")[2])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))

    server = await asyncio.start_server(pass_on, "127.0.0.1", 0, ssl=context)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def answer(reply: Reply, request: Received) -> None:
    if request.json.get("stream"):
        await reply.begin()
        for event in completion_events(["Because", " of air."]):
            await reply.chunk(event)
        await reply.end()
    else:
        await reply.whole(completion("Because of air."))


async def test_a_backend_behind_tls_answers_whole_and_streamed_over_kept_connections(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with scripted_backend(answer) as backend, behind_tls(backend.url, certificate) as url:
        async with serving(url) as proxy:
            for _ in range(3):
                status, _, reply = await proxy.chat()
                assert (status, reply["choices"][0]["message"]["content"]) == (200, "Because of air.")
                assert (await proxy.stream()).endswith(b"data: [DONE]\n\n")
        assert len(backend.generating) == 6


async def test_a_certificate_that_nobody_vouches_for_is_refused_before_anything_is_sent(certificate: Path) -> None:
    async with scripted_backend(answer) as backend, behind_tls(backend.url, certificate) as url:
        async with serving(url) as proxy:
            status, _, reply = await proxy.chat()
            assert status in (404, 502)
            assert "certificate" in proxy.gateway.pool.backends[0].problem
            assert "127.0.0.1" not in reply["error"]["message"]
        assert backend.received == []
