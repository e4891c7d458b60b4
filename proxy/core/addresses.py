"""Parses the addresses and URLs that an operator gives in flags. The module opens no sockets."""

import ipaddress
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from index.base_urls import without_endpoint
from proxy.core.errors import StartupError

MAX_PORT: Final = 65535
ANY_ORIGIN: Final = "*"
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HOST: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\]")
_NUMBER: Final = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)", re.IGNORECASE)
_AMBIGUOUS: Final = re.compile("[\u00df\u03c2\u200c\u200d]")
"""Letters that the old and the new rules for host names (IDNA 2003 and 2008) encode differently."""
_NO_URL: Final = re.compile(r"[\s,#]")
_API: Final = re.compile(r"(?:/v1)+$", re.IGNORECASE)
_DEFAULT_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}


def is_loopback(host: str) -> bool:
    """Return whether `host` is a loopback address or `localhost`, which only this machine can reach."""
    with suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host == "localhost"


def server_root(url: str, flag: str = "--backend") -> str:
    """Return the root URL of a model server. An endpoint, /v1 or a slash at the end of the given URL is removed.

    Args:
        url: The URL that the operator gave. It may end in /v1, or in an endpoint such as /v1/chat/completions.
        flag: The flag that gave the URL, for error messages. Messages also name the flag `<flag>-api-key-file`.

    Raises:
        StartupError: `url` is not the base URL of an HTTP server, or it contains a password or a query.
    """
    url = url.strip()
    if "@" in url or "?" in url:
        raise StartupError(f"{flag}: a URL must not contain a password or a query. Give {flag}-api-key-file FILE.")
    try:
        parts = urlsplit(url)
        has_host = bool((parts.hostname or "").encode("idna"))
        is_root = parts.scheme in {"http", "https"} and has_host and not _NO_URL.search(url) and parts.port != 0
    except ValueError:
        is_root = False
    if not is_root:
        raise StartupError(f"{flag} {url}: this is not a base URL. Give a URL such as http://127.0.0.1:8000/v1.")
    return _API.sub("", without_endpoint(url))


def web_origin(text: str, flag: str) -> str:
    """Return an origin in the form in which browsers send it: lower case, no slash at the end, no default port.

    Args:
        text: The origin that the operator gave: SCHEME://HOST[:PORT], `*` for any origin, or `null`, which browsers
            send for pages that were opened from a file (file://).
        flag: The flag that gave the origin, for error messages.

    Raises:
        StartupError: No browser sends such an origin.
    """
    if text in (ANY_ORIGIN, "null"):
        return text
    if not _SCHEME.match(text):
        raise StartupError(f"{flag} {text}: an origin begins with a scheme, such as https://app.example.")
    try:
        parts = urlsplit(text)
        host, port = _host_in_origin(parts.hostname or ""), parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise StartupError(f"{flag} {text}: an origin has no path, query or user. Give {parts.scheme}://{host}.")
    if _AMBIGUOUS.search(text):
        raise StartupError(f"{flag} {text}: write the host as browsers send it, in ASCII (xn--...).")
    if not _HOST.fullmatch(host):
        raise StartupError(f"{flag} {text}: expected SCHEME://HOST[:PORT] without wildcards, or * for any origin.")
    is_default = port is None or port == _DEFAULT_PORTS.get(parts.scheme)
    return f"{parts.scheme}://{host}" if is_default else f"{parts.scheme}://{host}:{port}"


def _host_in_origin(host: str) -> str:
    """Return the host of an origin as browsers write it. Raises ValueError if it is not valid or ambiguous."""
    if ":" in host:
        return f"[{ipaddress.IPv6Address(host).compressed}]"
    if _NUMBER.fullmatch(host.rpartition(".")[2]):  # browsers read 127.1 and 0x7f.1 as 127.0.0.1
        return _ipv4_address(host)
    if _AMBIGUOUS.search(host):
        raise ValueError(host)
    return host.encode("idna").decode("ascii")


def _ipv4_address(host: str) -> str:
    """Return an IPv4 address in its usual form. Its last number may stand for several bytes, as in 127.1."""
    *first, last = [_number(part) for part in host.split(".")]
    if len(first) > 3 or any(number > 255 for number in first) or last >= 256 ** (4 - len(first)):
        raise ValueError(host)
    return str(ipaddress.IPv4Address(sum(number << (24 - 8 * n) for n, number in enumerate(first)) + last))


def _number(text: str) -> int:
    """Return a number of an IPv4 address, which may be hexadecimal or octal. Raises ValueError if it is no number."""
    if text.startswith("0x"):
        return int(text, 16)
    return int(text, 8 if text.startswith("0") else 10)


def split_address(text: str, flag: str) -> tuple[str, int]:
    """Split ADDRESS:PORT into host and port. Raises StartupError if the form or the port is wrong."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise StartupError(f"{flag} {text}: expected ADDRESS:PORT (port 0 means any free port), or off.")
    check_port(int(port), flag)
    return host.strip("[]"), int(port)


def check_port(port: int, flag: str) -> None:
    """Raise StartupError unless `port` is from 0 to MAX_PORT."""
    if not 0 <= port <= MAX_PORT:
        raise StartupError(f"{flag} {port}: a port is a number from 0 to {MAX_PORT}.")
