"""Records what model servers and clients receive from the proxy, to show that a change of the code does not change it.

    python -m tests.snapshots --out FILE [--seed N] [--plans 6000] [--replies 500] [--tree DIR]
    python -m tests.snapshots --compare OLD NEW

For a plan case, the record contains the request that the model server receives. For a reply case, it contains what the
client receives. Each case is one line: `kind index sha256 label`. The last line is the digest of all others. The same
seed gives the same file.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

from tests.snapshots.generator import plan_case
from tests.snapshots.recorder import Recorded, record
from tests.snapshots.replies import reply_case

_MAX_DIFFERENCES: Final = 20  # that are printed


def main(arguments: Sequence[str] | None = None) -> int:
    """Record, or compare two records. The exit status is 1 if they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the file to write")
    parser.add_argument("--seed", type=int, default=20261129)
    parser.add_argument("--plans", type=int, default=6000)
    parser.add_argument("--replies", type=int, default=500)
    parser.add_argument("--tree", type=Path, default=Path(__file__).parents[2], help="the tree whose proxy is recorded")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("OLD", "NEW"), help="print the cases that differ")
    options = parser.parse_args(arguments)
    if options.compare:
        return _compare(*options.compare)
    if options.out is None:
        parser.error("give --out or --compare")
    cases = [plan_case(options.seed, index) for index in range(options.plans)]
    cases += [reply_case(options.seed, index) for index in range(options.replies)]
    started = time.monotonic()
    recorded = asyncio.run(record(cases, options.tree.resolve()))
    text = "".join(f"{one.line}\n" for one in recorded)
    digest = sha256(text.encode()).hexdigest()
    options.out.write_text(f"{text}all {len(recorded)} {digest}\n", encoding="utf-8")
    _summarise(recorded, digest, time.monotonic() - started)
    return 0


def _summarise(recorded: Sequence[Recorded], digest: str, seconds: float) -> None:
    for kind in ("plan", "reply"):
        statuses = Counter(one.status for one in recorded if one.case.kind == kind)
        print(f"{kind}: {sum(statuses.values())} cases, {dict(sorted(statuses.items()))}")
    print(f"{seconds:.0f} s, digest {digest}")
    if late := sum(one.late for one in recorded):
        print(
            f"{late} cases without examples because retrieval failed: this record cannot be compared", file=sys.stderr
        )


def _compare(old: Path, new: Path) -> int:
    before, after = _lines(old), _lines(new)
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    for name in names[:_MAX_DIFFERENCES]:
        print(f"- {before.get(name, 'nothing')}\n+ {after.get(name, 'nothing')}")
    print(f"{len(names)} of {len({**before, **after})} cases differ")
    return 1 if names else 0


def _lines(path: Path) -> dict[str, str]:
    """Return the lines of the cases by kind and number, without the digest."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {" ".join(line.split(" ", 2)[:2]): line for line in lines if not line.startswith("all ")}


if __name__ == "__main__":
    sys.exit(main())
