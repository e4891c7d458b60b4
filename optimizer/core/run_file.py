"""Remembers which run.toml a run began with. A resumed run reads the copy of this file in the directory of the run."""

import hashlib
from pathlib import Path
from typing import Final

from optimizer.core.journal import Event

BEGUN: Final = "begun"
"""The name of the note at the beginning of the journal."""


def begun_event(path: Path) -> Event:
    """Return the folder, the name and a hash of run.toml. Relative paths in run.toml start from this folder."""
    return {"folder": str(path.resolve().parent), "file": path.name, "digest": _digest(path)}


def changed_run_file(begun: Event, copy: Path) -> str:
    """Return a line for the user if the file that the run began with has changed since then; empty if it has not.

    Args:
        begun: The event that `begun_event` made.
        copy: The copy of the file, which the resumed run reads.
    """
    path = Path(begun["folder"]) / str(begun.get("file"))
    if not begun.get("digest") or not path.is_file() or _digest(path) == begun["digest"]:
        return ""
    return (
        f"{path} has changed since the run began, but resume reads {copy}. Make changes of [budget] and of servers "
        "there. Other changes need a new run with another --out."
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
