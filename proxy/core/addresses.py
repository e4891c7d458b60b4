"""Parses the addresses and URLs that an operator gives in flags. It opens no sockets."""

import ipaddress
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from proxy.core.errors import StartupError

MAX_PORT: Final = 65535


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    with suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host == "localhost"


def server_root(url: str, flag: str = "--backend") -> str:
    """The root URL of a model server, without /v1 at its end.

    Args:
        url: What the operator gave, with or without /v1.
        flag: The flag to name in an error. The flag of the key file is this one and `-api-key-file`.

    Raises:
        StartupError: It is not an http(s) URL, or it contains a password or a query.
    """
    if "@" in url or "?" in url:
        raise StartupError(f"{flag}: a URL with a password or a query in it; use {flag}-api-key-file.")
    try:
        parts = urlsplit(url)
        has_host = bool((parts.hostname or "").encode("idna"))
        is_root = parts.scheme in {"http", "https"} and has_host and not parts.fragment and parts.port != 0
    except ValueError:
        is_root = False
    if not is_root:
        raise StartupError(f"{flag} {url}: not a base URL such as http://127.0.0.1:8000/v1.")
    return url.rstrip("/").removesuffix("/v1")


def split_address(text: str, flag: str) -> tuple[str, int]:
    """Host and port of ADDRESS:PORT. Raises StartupError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise StartupError(f"{flag} {text}: expected ADDRESS:PORT (port 0 picks a free one), or off.")
    check_port(int(port), flag)
    return host.strip("[]"), int(port)


def check_port(port: int, flag: str) -> None:
    """Raise StartupError for a number that is not a port."""
    if not 0 <= port <= MAX_PORT:
        raise StartupError(f"{flag} {port}: a port is a number from 0 to {MAX_PORT}.")
