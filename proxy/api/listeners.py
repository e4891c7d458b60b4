"""What the HTTP layers know of a listening socket: its type, and whether an address is this machine's own."""

import ipaddress
import socket
from contextlib import suppress

Listener = socket.socket


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    with suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host == "localhost"
