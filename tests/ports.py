"""Finds free ports for servers whose port a test must know before they start."""

import random
import socket
from typing import Final

_PORTS: Final = range(20_000, 32_000)  # below the ports that kernels choose for connections and servers


def free_port() -> int:
    """Return a port on which nobody listens, and which the kernel gives to no other process in the meantime."""
    while True:
        with socket.socket() as probe:
            port = random.SystemRandom().choice(_PORTS)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
