"""The sockets that the server listens on, and which addresses it may listen on. Knows no HTTP."""

import errno
import socket
from dataclasses import replace
from typing import Final

from proxy.api.listeners import Listener, is_loopback
from proxy.core.errors import StartupError
from proxy.core.settings import ADMIN_OFF, Settings

_LARGEST_PORT: Final = 65535
_BACKLOG: Final = 1024


def bind(settings: Settings) -> Listener:
    """The listening socket. Raises StartupError for a busy port, a wrong address, or one that is open to others."""
    guarded = settings.api_keys_file or settings.allow_unauthenticated
    if not guarded and not is_loopback(settings.host):
        raise StartupError(
            f"--host {settings.host} can be reached from other machines and nothing asks for a key: give "
            "--api-keys-file, or --allow-unauthenticated behind a proxy that asks, or keep --host 127.0.0.1."
        )
    return _listen(settings.host, settings.port, "--host", "--port")


def bind_admin(settings: Settings) -> Listener | None:
    """The admin listener's socket; None where it is off. Raises StartupError."""
    if settings.admin == ADMIN_OFF:
        return None
    host, _, port = settings.admin.rpartition(":")
    if not host or not port.isdecimal():
        raise StartupError(f"--admin {settings.admin}: expected ADDRESS:PORT (port 0 picks a free one), or off.")
    if not is_loopback(host) and not settings.allow_unauthenticated:
        raise StartupError(
            f"--admin {settings.admin} can be reached from other machines and asks for no key: keep it on 127.0.0.1, "
            "or give --allow-unauthenticated behind a proxy that asks."
        )
    return _listen(host.strip("[]"), int(port), "--admin", "--admin")


def hold_port(settings: Settings) -> tuple[Listener, Settings]:
    """A socket that keeps the port for workers, who listen there together, and the settings with that port.

    Raises StartupError, as `bind` does: a port that another server shares out among its own workers is busy, too.
    """
    with bind(settings) as probe:
        port = probe.getsockname()[1]
    family, address = _resolve(settings.host, port, "--host")
    holder = _sharing(family)
    holder.bind(address)
    return holder, replace(settings, port=port)


def join_port(settings: Settings) -> Listener:
    """A worker's own socket on the port that is held; the kernel spreads connections over those of all workers."""
    family, address = _resolve(settings.host, settings.port, "--host")
    listener = _sharing(family)
    listener.bind(address)
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def base_url(host: str, port: int) -> str:
    """The URL that clients are given."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def _listen(host: str, port: int, host_flag: str, port_flag: str) -> Listener:
    if port > _LARGEST_PORT or port < 0:
        raise StartupError(f"{port_flag} {port}: a port is a number from 0 to {_LARGEST_PORT}.")
    family, address = _resolve(host, port, host_flag)
    try:
        return socket.create_server(address, family=family, backlog=_BACKLOG)
    except OSError as error:
        why = "in use" if error.errno == errno.EADDRINUSE else (error.strerror or "no reason given").lower()
        raise StartupError(f"Cannot listen on {host} port {port}: {why}. Choose another with {port_flag}.") from error


def _resolve(host: str, port: int, flag: str) -> tuple[socket.AddressFamily, tuple[str, int]]:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise StartupError(f"{flag} {host}: no such address ({error.strerror}).") from error
    return family, (str(address[0]), int(address[1]))


def _sharing(family: socket.AddressFamily) -> Listener:
    shared = socket.socket(family, socket.SOCK_STREAM)
    shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return shared
