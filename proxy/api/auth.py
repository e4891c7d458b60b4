"""Reads the file of API keys, finds the key of a request, and limits the requests and tokens of each key.

The file has one line for each key: the name of the key, its SHA-256 in hexadecimal, and optional limits:

    alice  9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08  requests_per_minute=60

A line that begins with # is a comment. `drpo-proxy new-key NAME` makes a key and its line. Such a key has 256 random
bits, so nobody can find the key from its hash. The file therefore need not be secret.

The module does not depend on HTTP.
"""

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from math import ceil
from pathlib import Path
from typing import Final

from index.bundle.input_files import decode_text
from index.errors import BundleFormatError
from proxy.core.errors import RateLimitError, StartupError, UnauthorizedError
from proxy.core.shared_state import Cells, SharedState

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_LIMITS: Final = ("requests_per_minute", "tokens_per_minute")
_MINUTE: Final = 60.0

Clock = Callable[[], float]  # returns the time in seconds


@dataclass(frozen=True, slots=True)
class Key:
    """One line of the file: a key and its limits.

    Attributes:
        name: The name of the key.
        digest: The SHA-256 of the key.
        requests_per_minute: The maximum number of requests per minute; None for no limit.
        tokens_per_minute: The maximum number of tokens per minute, of prompts and answers together; None for no limit.
    """

    name: str
    digest: bytes = field(repr=False)
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


def new_key(name: str) -> tuple[str, str]:
    """Return a new random key and its line for the file. Raises StartupError if `name` is not a valid name."""
    if not _NAME.fullmatch(name):
        raise StartupError(f"new-key {name!r}: a name has 1 to 64 letters, digits, dots, dashes or underscores.")
    key = f"drpo-{secrets.token_urlsafe(32)}"
    return key, f"{name} {sha256(key.encode()).hexdigest()}"


def read_keys(file: Path) -> tuple[Key, ...]:
    """Read the keys of a file.

    Raises:
        StartupError: The file cannot be read, has no key, has the same name or key twice, or has an invalid line. For
            an invalid line, the message gives the number but not the text, because the text may contain a key.
    """
    try:
        lines = decode_text(file.read_bytes(), f"--api-keys-file {file}").splitlines()
    except OSError as error:
        raise StartupError(f"--api-keys-file {file}: cannot be read ({type(error).__name__}).") from error
    except BundleFormatError as error:
        raise StartupError(f"{error}.") from error
    numbered = [(n, line.split()) for n, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    keys = tuple(_parse(f"--api-keys-file {file}, line {number}", words) for number, words in numbered)
    for what, values in (("name", [key.name for key in keys]), ("key", [key.digest for key in keys])):
        if len(set(values)) != len(values):
            raise StartupError(f"--api-keys-file {file}: two lines have the same {what}. Remove one of them.")
    if not keys:
        raise StartupError(f"--api-keys-file {file}: contains no key. Make one with `drpo-proxy new-key NAME`.")
    return keys


def _parse(place: str, words: Sequence[str]) -> Key:
    if len(words) < 2 or not _NAME.fullmatch(words[0]) or not _DIGEST.fullmatch(words[1]):
        raise StartupError(f"{place}: expected NAME SHA256, as `drpo-proxy new-key NAME` prints it.")
    limits: dict[str, int] = {}
    for word in words[2:]:
        name, _, value = word.partition("=")
        if name not in _LIMITS or not value.isdecimal() or int(value) == 0:
            limits_text = " or ".join(f"{limit}=N" for limit in _LIMITS)
            raise StartupError(f"{place}: expected {limits_text} after the hash, where N is at least 1.")
        limits[name] = int(value)
    return Key(words[0], bytes.fromhex(words[1]), **limits)


class Bucket:
    """A rate limit as a token bucket. Its capacity is the limit per minute, and it fills at a constant rate.

    The state is in two cells that all workers share. The first cell is the level: the number of requests or tokens that
    are allowed now. It is negative if requests used more tokens than they had reserved. The second cell is the time at
    which the level was computed, in seconds.
    """

    def __init__(self, per_minute: int, cells: Cells) -> None:
        self.per_minute = per_minute
        self._cells = cells

    def fill(self, now: float) -> None:
        """Raise the level by the amount that has flowed in since the last call.

        Args:
            now: The time in seconds.
        """
        level, at = self._cells
        gained = max(0.0, now - at) * self.per_minute / _MINUTE
        self._cells[0], self._cells[1] = min(float(self.per_minute), level + gained), now

    def wait(self, amount: float) -> float:
        """Return the seconds until the level reaches `amount`; 0 if the level is high enough now.

        An amount above the capacity is replaced by the capacity, because the level can never be higher than that.
        """
        missing = min(amount, self.per_minute) - self._cells[0]
        return max(0.0, missing * _MINUTE / self.per_minute)

    def add(self, amount: float) -> None:
        """Add an amount to the level, up to the capacity. A negative amount lowers the level."""
        self._cells[0] = min(float(self.per_minute), self._cells[0] + amount)


class Account:
    """Limits the requests and the tokens of one key, on all workers together.

    Tokens are reserved before a request is sent to a backend. After the reply, `settle` replaces the reserved number by
    the number of tokens that were used. If a worker is killed, its reservations stay, but the bucket fills again with
    time.
    """

    def __init__(self, key: Key, clock: Clock, shared: SharedState) -> None:
        self._clock = clock
        self._shared = shared
        requests, tokens = key.requests_per_minute, key.tokens_per_minute
        cells = shared.cells(_account_name(key), [requests or 0, clock(), tokens or 0, clock()])
        self._requests = Bucket(requests, cells[:2]) if requests is not None else None
        self._tokens = Bucket(tokens, cells[2:]) if tokens is not None else None

    def enter(self) -> None:
        """Count one request. Raises RateLimitError if the key's requests per minute are used up."""
        self._take(self._requests, 1, "requests")

    def reserve(self, tokens: int) -> None:
        """Reserve tokens for a request. Raises RateLimitError if the key's tokens per minute are used up."""
        self._take(self._tokens, tokens, "tokens")

    def settle(self, reserved: int, used: int) -> None:
        """Replace a reservation by the tokens that were used.

        Args:
            reserved: The number of tokens that were reserved.
            used: The number of tokens that the request used. It may be larger than the reserved number.
        """
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
            seconds = max(1, ceil(wait))
            message = f"This key's {what} per minute ({bucket.per_minute}) are used up. Wait {seconds} s."
            raise RateLimitError(message, wait)


def _account_name(key: Key) -> bytes:
    """Return the name under which workers share the cells of an account.

    It is a hash of the key's line in the file. So a key whose line is unchanged keeps its account after a reload.
    """
    limits = f"{key.requests_per_minute} {key.tokens_per_minute}"
    return sha256(b"\0".join((key.name.encode(), key.digest, limits.encode()))).digest()


class Keyring:
    """Holds the keys of the file and their accounts, and identifies the key of a request."""

    def __init__(self, keys: Sequence[Key], clock: Clock, shared: SharedState) -> None:
        self._known = {key.digest: (key, Account(key, clock, shared)) for key in keys}

    @property
    def keys(self) -> tuple[Key, ...]:
        """The keys, in the order of the file."""
        return tuple(key for key, _ in self._known.values())

    def identify(self, authorization: str | None) -> tuple[str, Account]:
        """Return the name and the account of the key in an Authorization header (`Bearer KEY`).

        The key is looked up by its SHA-256, and the time of the lookup depends only on this digest. An attacker cannot
        control the digest of a guessed key, so measured times do not help to guess a key.

        Raises:
            UnauthorizedError: The header is absent or malformed, or the key is not in the file.
        """
        scheme, _, given = (authorization or "").partition(" ")
        digest = sha256(given.strip().encode("utf-8", "surrogateescape")).digest()
        found = self._known.get(digest)
        if scheme.lower() != "bearer" or found is None:
            raise UnauthorizedError("Send a valid API key: the header `Authorization: Bearer KEY`.")
        key, account = found
        return key.name, account
