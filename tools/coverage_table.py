"""Prints the branch coverage of build/coverage, and the ten modules that the tests cover least.

`make coverage` runs the tests with coverage.py, and then this module. No figure makes the command fail, because a
figure shows where tests are missing, and does not prove that a module is tested well.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Covered:
    """How much of a file, or of all files together, the tests ran.

    Attributes:
        name: The path of the file, or a name for all files together.
        share: The percentage of statements and branches that were run.
        missed: The number of statements and branches that were not run.
    """

    name: str
    share: float
    missed: int


def main() -> int:
    """Print the table; return the exit status of coverage.py."""
    command = [sys.executable, "-m", "coverage", "json", "--quiet", "-o", "-"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout + done.stderr, end="", file=sys.stderr)
        return done.returncode
    print(table(json.loads(done.stdout)))
    return 0


def table(report: Mapping[str, Any]) -> str:
    """Return the table of a report in coverage.py's JSON."""
    modules = [_covered(name, file["summary"]) for name, file in report["files"].items()]
    worst = sorted((one for one in modules if one.missed), key=lambda one: (one.share, one.name))[:_SHOWN]
    everything = _covered(f"all {len(modules)} modules", report["totals"])
    return "\n".join(("Statements and branches that the tests run:", *_rows([everything, *worst])))


def _covered(name: str, summary: Mapping[str, Any]) -> Covered:
    missed = summary["missing_lines"] + summary.get("missing_branches", 0)
    return Covered(name, summary["percent_covered"], missed)


def _rows(rows: Sequence[Covered]) -> list[str]:
    width = max(len(one.name) for one in rows)
    return [f"  {one.name:<{width}}  {one.share:5.1f} %  {one.missed:5} missed" for one in rows]


if __name__ == "__main__":
    sys.exit(main())
