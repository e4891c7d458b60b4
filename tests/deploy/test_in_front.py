"""Tests of the configurations for TLS: the real nginx and the real Envoy pass on each event of a stream at once.

Each event is sent only after the client has received the event before it, so a program that buffers events would stop
the stream for ever.
"""

import asyncio
import os
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.deploy.parts import DEPLOY, called, environment, program
from tests.faults.scripted import Received, Reply, completion_events, scripted_backend
from tests.ports import free_port
from tests.proxy.serving import serving

pytestmark = [pytest.mark.slow, pytest.mark.deploy]
NAME = "api.example.com"
EVENTS = 6


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate: NAME.pem and NAME.key."""
    folder = tmp_path_factory.mktemp("tls")
    command = [program("openssl", "openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    command += ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    files = ["-keyout", folder / f"{NAME}.key", "-out", folder / f"{NAME}.pem"]
    subprocess.run([*command, *files], check=True, capture_output=True)
    return folder


def nginx(folder: Path, tls: Path, port: int, proxy: int) -> list[str]:
    """Return the command of nginx with our configuration, in which only ports and paths are changed.

    `nginx -t` accepts it.
    """
    text = (DEPLOY / "nginx" / "drpo.conf").read_text(encoding="utf-8")
    text = text.replace("listen 443", f"listen 127.0.0.1:{port}").replace("127.0.0.1:8080", f"127.0.0.1:{proxy}")
    (folder / "drpo.conf").write_text(text.replace("/etc/nginx/tls", str(tls)), encoding="utf-8")
    temporary = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/log; {user} events {{}}"
        f"http {{ {temporary} access_log off; include {folder}/drpo.conf; }}",
        encoding="utf-8",
    )
    command = [str(program("nginx", "nginx-light")), "-c", str(folder / "nginx.conf"), "-e", str(folder / "log")]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "warn" not in checked.stderr
    return command


def envoy(folder: Path, tls: Path, port: int, proxy: int) -> list[str]:
    """Return the command of Envoy with our configuration, changed in the same way.

    `envoy --mode validate` accepts it.
    """
    text = (DEPLOY / "envoy" / "envoy.yaml").read_text(encoding="utf-8")
    text = text.replace("address: 0.0.0.0, port_value: 443", f"address: 127.0.0.1, port_value: {port}")
    text = text.replace("port_value: 8080", f"port_value: {proxy}").replace("/etc/envoy/tls", str(tls))
    (folder / "envoy.yaml").write_text(text, encoding="utf-8")
    command = [*called(environment("tools"), "envoy"), "-c", str(folder / "envoy.yaml")]
    command += ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"]
    checked = subprocess.run([*command, "--mode", "validate"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    return command


@asynccontextmanager
async def running(command: list[str], port: int) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        async with asyncio.timeout(60):
            while True:
                try:
                    (await asyncio.open_connection("127.0.0.1", port))[1].close()
                    break
                except ConnectionRefusedError:
                    assert process.returncode is None
                    await asyncio.sleep(0.05)
        yield
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.parametrize("front", [nginx, envoy])
async def test_events_pass_one_by_one_and_what_is_not_public_does_not(
    front: object, tmp_path: Path, certificate: Path
) -> None:
    arrived = asyncio.Semaphore(1)

    async def script(reply: Reply, _request: Received) -> None:
        await reply.begin()
        for event in completion_events(["word "] * EVENTS, usage=False):
            async with asyncio.timeout(60):
                await arrived.acquire()
            await reply.chunk(event)
        await reply.end()

    async with scripted_backend(script) as backend, serving(backend.url) as proxy:
        port = free_port()
        command = front(tmp_path, certificate, port, int(proxy.url.rpartition(":")[2]))  # type: ignore[operator]
        async with running(command, port), _session(certificate, port) as session:
            body = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], "stream": True}
            async with session.post("/v1/chat/completions", json=body, server_hostname=NAME) as response:
                assert response.status == 200
                said = await _read_one_by_one(response, arrived)
            async with session.get("/metrics", server_hostname=NAME) as hidden:
                assert hidden.status == 404
            async with session.get("/v1/models", server_hostname=NAME) as listed:
                assert listed.status == 200
    assert said.count(b'"word ') == EVENTS
    assert said.endswith(b"data: [DONE]\n\n")


async def _read_one_by_one(response: aiohttp.ClientResponse, arrived: asyncio.Semaphore) -> bytes:
    """Read a response. When an event has arrived, let the next one be sent."""
    said, seen = b"", 0
    async with asyncio.timeout(120):
        async for data in response.content.iter_any():
            said += data
            new = said.count(b'"word ') + said.count(b'"finish_reason":"stop"')
            for _ in range(new - seen):
                arrived.release()
            seen = new
    return said


def _session(certificate: Path, port: int) -> aiohttp.ClientSession:
    trusting = ssl.create_default_context(cafile=str(certificate / f"{NAME}.pem"))
    return aiohttp.ClientSession(f"https://127.0.0.1:{port}", connector=aiohttp.TCPConnector(ssl=trusting))


def test_systemd_takes_the_unit_and_finds_it_hardened(tmp_path: Path) -> None:
    """`systemd-analyze verify` checks the words, and `security` the exposure, from 0 to 10 (unhardened: 9.6)."""
    analyze = program("systemd-analyze", "systemd")
    unit = tmp_path / "drpo-proxy.service"
    text = (DEPLOY / "systemd" / "drpo-proxy.service").read_text(encoding="utf-8")
    unit.write_text(text.replace("/usr/local/lib/drpo/bin/drpo-proxy", "/bin/true"), encoding="utf-8")
    checked = subprocess.run([analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert not [line for line in checked.stderr.splitlines() if "drpo-proxy.service" in line], checked.stderr
    scored = subprocess.run(
        [analyze, "security", "--offline=yes", "--threshold=20", unit], capture_output=True, text=True, check=False
    )
    assert scored.returncode == 0, scored.stdout[-300:] + scored.stderr
