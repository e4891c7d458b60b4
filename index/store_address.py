"""Parses the address of the store of experiments, which the proxy writes and the optimizer reads.

This module does not open the store.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

from index.errors import UsageError

QUERY_ONLY: Final = "PRAGMA query_only = ON"


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """The address of a store.

    Attributes:
        name: The address without user and password, for messages.
        path: The SQLite file. None for PostgreSQL.
        url: The URL of the PostgreSQL database; empty for SQLite.
    """

    name: str
    path: Path | None = None
    url: str = ""


def parse_store_address(text: str) -> StoreAddress:
    """Parse sqlite:PATH or postgresql://[USER@]HOST[:PORT]/DATABASE.

    Raises:
        UsageError: The text has neither of these forms. The message does not repeat it, because it may hold a password.
    """
    kind, _, rest = text.partition(":")
    if kind == "sqlite" and rest:
        path = Path(rest).expanduser()
        return StoreAddress(f"sqlite:{path}", path)
    if kind in {"postgresql", "postgres"} and rest.startswith("//"):
        return _postgresql_address(text)
    raise UsageError("--store: expected sqlite:PATH or postgresql://[USER@]HOST[:PORT]/DATABASE")


def reading_address(path: Path) -> str:
    """Return the address with which sqlite3.connect (with `uri=True`) opens a file to read it, and creates no file.

    With mode=ro, SQLite would leave the files PATH-wal and PATH-shm behind. So the mode is rw. The caller runs
    `QUERY_ONLY`, so that all statements that write are refused.
    """
    return f"file:{quote(str(path.resolve()))}?mode=rw"


def has_password(text: str) -> bool:
    """Return whether an address contains a password, which must not be shown or given in a flag."""
    url = urlsplit(text) if "://" in text else None
    return url is not None and bool(url.password or "password=" in url.query)


def _postgresql_address(text: str) -> StoreAddress:
    """Parse the URL of a PostgreSQL database.

    If the password contains an unescaped /, ? or #, the URL's authority (user, password and host) ends there, and the
    rest of the password is read as the path, query or fragment. The "@" after the password then lies in the path, query
    or fragment, and this is how the mistake is detected.
    """
    try:
        url = urlsplit(text)
        is_whole = url.port != 0 and "@" not in url.path + url.fragment + url.query.partition("=")[0]
    except ValueError:
        is_whole = False
    if not is_whole:
        raise UsageError("--store: in user and password, write %2F for /, %3F for ?, %23 for #, and %40 for @")
    return StoreAddress(f"postgresql://{url.netloc.rpartition('@')[2]}{url.path}", url=text)
