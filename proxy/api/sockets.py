"""Opens the sockets on which the server listens. It does not depend on HTTP."""

import errno
import socket
from dataclasses import replace
from typing import Final

from proxy.api.listeners import Listener
from proxy.core.addresses import split_address
from proxy.core.errors import StartupError
from proxy.core.settings import ADMIN_OFF, ServerSettings

_BACKLOG: Final = 1024  # new connections that may wait to be accepted


def bind(settings: ServerSettings) -> Listener:
    """Return a socket that listens for clients.

    Raises:
        StartupError: The port is in use, or the address does not exist.
    """
    return _listen(settings.host, settings.port, "--host", "--port")


def bind_admin(settings: ServerSettings) -> Listener | None:
    """Return the socket of the admin listener, or None if it is off. Raises StartupError as `bind` does."""
    if settings.admin == ADMIN_OFF:
        return None
    host, port = split_address(settings.admin, "--admin")
    return _listen(host, port, "--admin", "--admin")


def hold_port(settings: ServerSettings) -> tuple[Listener, ServerSettings]:
    """Reserve the port on which all workers listen.

    Returns:
        A socket that is bound to the port but does not listen, and the settings with the number of the reserved port.
        If the number in the given settings is 0, the kernel chooses the port.

    Raises:
        StartupError: The port is in use (for example by the workers of another server), or the address does not exist.
    """
    # `bind` fails if the port is in use. A shareable socket would share the port with another server.
    with bind(settings) as probe:
        port = probe.getsockname()[1]
    family, address = _resolve(settings.host, port, "--host")
    holder = _shareable_socket(family)
    holder.bind(address)
    return holder, replace(settings, port=port)


def join_port(settings: ServerSettings) -> Listener:
    """Return a new socket of one worker, which listens on the port that `hold_port` has reserved.

    The kernel distributes new connections over the sockets of all workers.
    """
    family, address = _resolve(settings.host, settings.port, "--host")
    listener = _shareable_socket(family)
    listener.bind(address)
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def base_url(host: str, port: int) -> str:
    """Return the base URL for clients."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def _listen(host: str, port: int, host_flag: str, port_flag: str) -> Listener:
    family, address = _resolve(host, port, host_flag)
    try:
        return socket.create_server(address, family=family, backlog=_BACKLOG)
    except OSError as error:
        why = "in use" if error.errno == errno.EADDRINUSE else (error.strerror or "no reason given").lower()
        raise StartupError(
            f"Cannot listen on {host} port {port}: {why}. Choose another port with {port_flag}."
        ) from error


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
