"""The life of the server: bind, start what it needs, serve, drain, stop. Knows no request."""

import asyncio
import errno
import ipaddress
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from aiohttp import web

from proxy.app import create_app, open_gateway, parse_kinds
from proxy.backend import Backend, backend_url
from proxy.chat import Gateway
from proxy.embedded import MODEL_NAME, EmbeddedModel
from proxy.errors import EmbeddedError, StartupError
from proxy.front import FrontDoor
from proxy.live import Live, check_bundle_arguments, load_bundles
from proxy.log import log_event
from proxy.reload import read_keyring, reloading, warm_up
from proxy.settings import EMBEDDED, Settings, bundle_arguments

_LONGEST_PAUSE: Final = 30.0
_LARGEST_PORT: Final = 65535

Report = Callable[[str], None]
Announce = Callable[[str, Gateway], None]


async def serve(settings: Settings, report: Report, announce: Announce) -> None:
    """Serve until SIGINT or SIGTERM. `report` gets progress; `announce` the base URL once requests are answered.

    Raises StartupError, BundleError, EmbedderError before anything is served.
    """
    parse_kinds(settings.kind)  # what can be refused at once is, before a model is started
    check_bundle_arguments(bundle_arguments(settings))
    with bind(settings) as listener:
        async with _gateway(settings, report) as gateway:
            stop = _stop_signals()  # not before: until then an interrupt ends the start itself
            runner = FrontDoor(create_app(gateway, settings.cors_origin), settings.read_timeout)
            await runner.setup()
            try:
                await web.SockSite(runner, listener).start()
                async with reloading(settings, gateway):
                    announce(_base_url(settings.host, listener), gateway)
                    await stop.wait()
                await _drain(gateway, settings.drain_timeout, stop, report)
            finally:
                await runner.cleanup()


def bind(settings: Settings) -> socket.socket:
    """The listening socket. Raises StartupError for a busy port, a wrong address, or one that is open to others."""
    guarded = settings.api_keys_file or settings.allow_unauthenticated
    if not guarded and not _is_loopback(settings.host):
        raise StartupError(
            f"--host {settings.host} can be reached from other machines and nothing asks for a key: give "
            "--api-keys-file, or --allow-unauthenticated behind a proxy that asks, or keep --host 127.0.0.1."
        )
    if not 0 <= settings.port <= _LARGEST_PORT:
        raise StartupError(f"--port {settings.port}: a port is a number from 0 to {_LARGEST_PORT}.")
    try:
        family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family, backlog=1024)
    except socket.gaierror as error:
        raise StartupError(f"--host {settings.host}: no such address ({error.strerror}).") from error
    except OSError as error:
        why = "in use" if error.errno == errno.EADDRINUSE else (error.strerror or "no reason given").lower()
        raise StartupError(
            f"Cannot listen on {settings.host} port {settings.port}: {why}. Choose another with --port."
        ) from error


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _base_url(host: str, listener: socket.socket) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}/v1"


@asynccontextmanager
async def _gateway(settings: Settings, report: Report) -> AsyncIterator[Gateway]:
    """The wired gateway, its bundles loaded while the embedded model starts."""
    loading = asyncio.create_task(asyncio.to_thread(load_bundles, bundle_arguments(settings), settings.allow_embedder))
    try:
        async with open_backends(settings, report) as backends:
            live = Live(await loading, read_keyring(settings))
            async with open_gateway(settings, backends, live) as gateway:
                await warm_up(gateway, live.bundles, report)
                yield gateway
    finally:
        loading.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await loading


@asynccontextmanager
async def open_backends(settings: Settings, report: Report) -> AsyncIterator[list[Backend]]:
    """The backends of the settings; the embedded one is started, watched, and stopped at the end."""
    api_key = read_key(settings.backend_api_key_file)
    backends = [Backend(backend_url(url), api_key) for url in settings.backend if url != EMBEDDED]
    if EMBEDDED not in settings.backend:
        yield backends
        return
    model = EmbeddedModel(context=settings.context)
    try:
        backend = Backend(await model.start(report), model.api_key, {MODEL_NAME: "completion"}, takes_client_keys=False)
        watch = asyncio.create_task(_keep_alive(model, backend), name="embedded model")
        try:
            yield [*backends, backend]
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
    finally:
        await model.stop()


async def _keep_alive(model: EmbeddedModel, backend: Backend) -> None:
    """Start the embedded model again whenever it dies, after a pause that grows."""
    pause = 1.0
    while True:
        await model.exited.wait()
        backend.checked("the embedded model died", answering=False)
        log_event("embedded model died", restart_in_seconds=pause)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
        with suppress(EmbeddedError):
            backend.url = await model.start(lambda _: None)
            backend.api_key = model.api_key
            log_event("embedded model restarted", model=MODEL_NAME)


def read_key(file: str) -> str | None:
    """The key in a file, without white space around it. Raises StartupError."""
    if not file:
        return None
    try:
        key = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"--backend-api-key-file {file}: cannot be read ({type(error).__name__}).") from error
    if not key or not key.isprintable():
        raise StartupError(f"--backend-api-key-file {file}: holds no key on a single line.")
    return key


def _stop_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _drain(gateway: Gateway, grace: float, stop: asyncio.Event, report: Report) -> None:
    """Take no new requests; wait for open ones until they end, `grace` seconds are over, or a second signal comes."""
    gateway.admission.draining = True
    stop.clear()
    if gateway.admission.in_flight:
        report(f"Waiting for {gateway.admission.in_flight} open requests (at most {grace:g} s; Ctrl-C stops at once)")
    ends = [asyncio.create_task(event.wait()) for event in (gateway.admission.idle, stop)]
    await asyncio.wait(ends, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
    for end in ends:
        end.cancel()
