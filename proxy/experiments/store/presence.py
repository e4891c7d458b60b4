"""Says whether a place holds a store. This module creates and changes nothing there."""

import os
from contextlib import closing
from pathlib import Path
from typing import Final, Literal

from proxy.core.errors import StartupError
from proxy.experiments.store.dsn import StoreDsn
from proxy.experiments.store.schema import EXPOSURES

Presence = Literal["no file", "no tables", "store"]
"""What a place holds.

no file: there is no such SQLite file.
no tables: the file or the database exists, but has no tables of a store.
store: the tables exist.
"""
_SQLITE: Final = "sqlite:"


def presence_of(dsn: StoreDsn) -> Presence:
    """Return what the place holds. Raises StoreError if it cannot be read."""
    if dsn.name.startswith(_SQLITE) and not _path(dsn).exists():
        return "no file"
    with closing(dsn.connect_to_read()) as session, session.reading():
        return "store" if session.columns(EXPOSURES) else "no tables"


def check_place_of_new_store(dsn: StoreDsn) -> None:
    """Raise StartupError if a server could not create this SQLite file."""
    folder = next(folder for folder in _path(dsn).absolute().parents if folder.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise StartupError(f"--store: {dsn.name} cannot be created: {folder} is no folder that this user may write to.")


def _path(dsn: StoreDsn) -> Path:
    return Path(dsn.name.removeprefix(_SQLITE))
