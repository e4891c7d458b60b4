"""Finds out how much memory this process and its children can still use: on the machine, and in its control groups."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

_KIB: Final = 1024
_ROOT: Final = Path("/")


def available_memory(root: Path = _ROOT) -> int | None:
    """Return the bytes of memory that are available; None if the system does not report it.

    Memory in which the system caches files counts as available. The limits of control groups, such as those of a
    container, also apply.

    Args:
        root: The folder that has `proc` and `sys`. Tests pass another folder.
    """
    limits = [*_machine(root), *_groups_version_2(root), *_groups_version_1(root)]
    return min(limits, default=None)


def _machine(root: Path) -> Iterator[int]:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * _KIB


def _groups_version_2(root: Path) -> Iterator[int]:
    """Yield the bytes that are left in the control group of this process, and in each group that contains it."""
    base = root / "sys/fs/cgroup"
    own = next((line[3:] for line in _lines(root / "proc/self/cgroup") if line.startswith("0::")), "/")
    group = base / own.strip("/")
    while group.is_relative_to(base):
        yield from _left(group / "memory.max", group / "memory.current", group / "memory.stat")
        group = group.parent


def _groups_version_1(root: Path) -> Iterator[int]:
    group = root / "sys/fs/cgroup/memory"
    yield from _left(group / "memory.limit_in_bytes", group / "memory.usage_in_bytes", group / "memory.stat")


def _left(limit: Path, usage: Path, statistics: Path) -> Iterator[int]:
    most, used = (_lines(path)[:1] for path in (limit, usage))
    if most and used and most[0].isdigit() and used[0].isdigit():
        pairs = (line.split() for line in _lines(statistics))
        cached = sum(int(pair[1]) for pair in pairs if pair[:1] in (["inactive_file"], ["active_file"]))
        yield max(0, int(most[0]) - int(used[0]) + cached)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
