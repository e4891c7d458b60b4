"""Guards backends behind TLS: the proxy connects to them only if it trusts their certificate."""

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
    """Return a file with a self-signed certificate of 127.0.0.1 and its key."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "1", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    file = tmp_path / "both.pem"
    subprocess.run([*command, "-keyout", file, "-out", tmp_path / "cert.pem"], check=True, capture_output=True)
    file.write_text(file.read_text() + (tmp_path / "cert.pem").read_text())
    return file


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, ssl.SSLError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def behind_tls(url: str, certificate: Path) -> AsyncIterator[str]:
    """Put TLS in front of a server, and yield the https URL."""
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


async def test_backend_with_tls_answers_over_reused_connections(
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


async def test_untrusted_certificate_is_refused_before_a_request_is_sent(certificate: Path) -> None:
    async with scripted_backend(answer) as backend, behind_tls(backend.url, certificate) as url:
        async with serving(url) as proxy:
            status, _, reply = await proxy.chat()
            assert status == 503
            assert "certificate" in proxy.gateway.pool.backends[0].problem
            assert "127.0.0.1" not in reply["error"]["message"]
        assert backend.received == []
