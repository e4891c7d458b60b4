"""Opens the sockets that the server listens on. It does not depend on HTTP."""

import errno
import socket
from dataclasses import replace
from typing import Final

from proxy.api.listeners import Listener
from proxy.core.addresses import split_address
from proxy.core.errors import StartupError
from proxy.core.settings import ADMIN_OFF, ServerSettings

_BACKLOG: Final = 1024


def bind(settings: ServerSettings) -> Listener:
    """The listening socket of clients. Raises StartupError if the port is busy or the address does not exist."""
    return _listen(settings.host, settings.port, "--host", "--port")


def bind_admin(settings: ServerSettings) -> Listener | None:
    """The admin listener's socket; None if --admin is off. Raises StartupError as `bind` does."""
    if settings.admin == ADMIN_OFF:
        return None
    host, port = split_address(settings.admin, "--admin")
    return _listen(host, port, "--admin", "--admin")


def hold_port(settings: ServerSettings) -> tuple[Listener, ServerSettings]:
    """A socket that keeps the port for the workers, who share it, and the settings with that port.

    Raises StartupError as `bind` does. A port that the workers of another server share counts as busy.
    """
    with bind(settings) as probe:
        port = probe.getsockname()[1]
    family, address = _resolve(settings.host, port, "--host")
    holder = _shareable_socket(family)
    holder.bind(address)
    return holder, replace(settings, port=port)


def join_port(settings: ServerSettings) -> Listener:
    """A worker's own socket on the port that is held. The kernel distributes connections over the workers' sockets."""
    family, address = _resolve(settings.host, settings.port, "--host")
    listener = _shareable_socket(family)
    listener.bind(address)
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def base_url(host: str, port: int) -> str:
    """The base URL for clients."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def _listen(host: str, port: int, host_flag: str, port_flag: str) -> Listener:
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


def _shareable_socket(family: socket.AddressFamily) -> Listener:
    shareable = socket.socket(family, socket.SOCK_STREAM)
    shareable.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    shareable.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return shareable
