"""API keys: the keys file, and the account that limits each key. It does not depend on HTTP or on requests' content.

The file has a line for each key: its name, the SHA-256 of the key in hexadecimal, and optional limits:

    alice  9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08  requests_per_minute=60

A line that begins with # is a comment. `drpo-proxy new-key NAME` makes a key and its line. Such a key has 256 random
bits, so it cannot be found from its hash, and the file need not be secret.
"""

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from proxy.core.errors import RateLimitError, StartupError, UnauthorizedError
from proxy.core.shared_state import Cells, SharedState

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_LIMITS: Final = ("requests_per_minute", "tokens_per_minute")
_MINUTE: Final = 60.0

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Key:
    """One line of the file.

    Attributes:
        name: The name of the key.
        digest: The SHA-256 of the key.
        requests_per_minute: None if requests are not limited.
        tokens_per_minute: None if tokens are not limited.
    """

    name: str
    digest: bytes = field(repr=False)
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


def new_key(name: str) -> tuple[str, str]:
    """Make a random key, and its line for the file. Raises StartupError for an invalid name."""
    if not _NAME.fullmatch(name):
        raise StartupError(f"new-key {name!r}: a name has 1 to 64 letters, digits, dots, dashes or underscores.")
    key = f"drpo-{secrets.token_urlsafe(32)}"
    return key, f"{name} {sha256(key.encode()).hexdigest()}"


def read_keys(file: Path) -> tuple[Key, ...]:
    """Read the keys of a file. Raises StartupError, which names the line but does not repeat it."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"--api-keys-file {file}: cannot be read ({type(error).__name__}).") from error
    numbered = [(n, line.split()) for n, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    keys = tuple(_parse(f"--api-keys-file {file}, line {number}", words) for number, words in numbered)
    for what, values in (("name", [key.name for key in keys]), ("key", [key.digest for key in keys])):
        if len(set(values)) != len(values):
            raise StartupError(f"--api-keys-file {file}: the same {what} stands there twice.")
    if not keys:
        raise StartupError(f"--api-keys-file {file}: holds no key; `drpo-proxy new-key NAME` makes one.")
    return keys


def _parse(place: str, words: Sequence[str]) -> Key:
    if len(words) < 2 or not _NAME.fullmatch(words[0]) or not _DIGEST.fullmatch(words[1]):
        raise StartupError(f"{place}: expected NAME SHA256, as `drpo-proxy new-key NAME` prints it.")
    limits: dict[str, int] = {}
    for word in words[2:]:
        name, _, value = word.partition("=")
        if name not in _LIMITS or not value.isdecimal() or int(value) == 0:
            raise StartupError(f"{place}: expected {' or '.join(f'{limit}=N' for limit in _LIMITS)}, N at least 1.")
        limits[name] = int(value)
    return Key(words[0], bytes.fromhex(words[1]), **limits)


class Bucket:
    """A token bucket that holds the amount of one minute.

    Its first cell is the level, which is negative if more was used than reserved. The second is the time of that level.
    """

    def __init__(self, per_minute: int, cells: Cells) -> None:
        self.per_minute = per_minute
        self._cells = cells

    def fill(self, now: float) -> None:
        """Add the amount that has accrued since the last call."""
        level, at = self._cells
        gained = max(0.0, now - at) * self.per_minute / _MINUTE
        self._cells[0], self._cells[1] = min(float(self.per_minute), level + gained), now

    def wait(self, amount: float) -> float:
        """Seconds until `amount` is available; 0 if it is. A full bucket admits any amount."""
        missing = min(amount, self.per_minute) - self._cells[0]
        return max(0.0, missing * _MINUTE / self.per_minute)

    def add(self, amount: float) -> None:
        """Return an unused amount, or take a negative one."""
        self._cells[0] = min(float(self.per_minute), self._cells[0] + amount)


class Account:
    """What one key may still use, on all workers together.

    Tokens are reserved before a request, and settled when its usage is known. Reservations of a worker that was killed
    are lost; the bucket fills again within a minute.
    """

    def __init__(self, key: Key, clock: Clock, shared: SharedState) -> None:
        self._clock = clock
        self._shared = shared
        requests, tokens = key.requests_per_minute, key.tokens_per_minute
        cells = shared.cells(_account_name(key), [requests or 0, clock(), tokens or 0, clock()])
        self._requests = Bucket(requests, cells[:2]) if requests is not None else None
        self._tokens = Bucket(tokens, cells[2:]) if tokens is not None else None

    def enter(self) -> None:
        """Count one request. Raises RateLimitError."""
        self._take(self._requests, 1, "requests")

    def reserve(self, tokens: int) -> None:
        """Reserve tokens. Raises RateLimitError."""
        self._take(self._tokens, tokens, "tokens")

    def settle(self, reserved: int, used: int) -> None:
        """Return reserved tokens that were not used, or take those that were used beyond the reservation."""
        if self._tokens is not None:
            with self._shared.lock:
                self._tokens.fill(self._clock())
                self._tokens.add(reserved - used)

    def _take(self, bucket: Bucket | None, amount: int, what: str) -> None:
        if bucket is None:
            return
        with self._shared.lock:
            bucket.fill(self._clock())
            wait = bucket.wait(amount)
            if wait <= 0:
                bucket.add(-amount)
        if wait > 0:
            raise RateLimitError(f"This key's {what} per minute ({bucket.per_minute}) are used up.", wait)


def _account_name(key: Key) -> bytes:
    """The name of the shared cells. It depends on the line of the file, so a reload keeps the account of a line."""
    limits = f"{key.requests_per_minute} {key.tokens_per_minute}"
    return sha256(b"\0".join((key.name.encode(), key.digest, limits.encode()))).digest()


class Keyring:
    """The current keys and their accounts."""

    def __init__(self, keys: Sequence[Key], clock: Clock, shared: SharedState) -> None:
        self._known = {key.digest: (key, Account(key, clock, shared)) for key in keys}

    @property
    def keys(self) -> tuple[Key, ...]:
        """The keys, in the order of the file."""
        return tuple(key for key, _ in self._known.values())

    def identify(self, authorization: str | None) -> tuple[str, Account]:
        """Find the name and the account of a key, given as `Bearer KEY`. Raises UnauthorizedError.

        The key is looked up by its SHA-256. The time of the lookup depends on this digest alone, which an attacker
        cannot choose, so it does not help to guess a key.
        """
        scheme, _, given = (authorization or "").partition(" ")
        digest = sha256(given.strip().encode("utf-8", "surrogateescape")).digest()
        found = self._known.get(digest)
        if scheme.lower() != "bearer" or found is None:
            raise UnauthorizedError("Send a valid API key: the header `Authorization: Bearer KEY`.")
        key, account = found
        return key.name, account
