"""What a release is: wheel and sdist, built twice to the same bytes and checked by twine, with a list of what is in it.

python -m tests.deploy.release dist      into dist/: the two, sbom.cdx.json (CycloneDX), SHA256SUMS
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.deploy.bill import BILL
from tests.deploy.parts import ROOT, called, environment


def built(into: Path) -> dict[str, str]:
    """Build wheel and sdist into a folder; their SHA-256 by name."""
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(into)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(into.iterdir())}


def dist(into: Path) -> None:
    """Both, the same when built again, taken by twine; and what is in them. Exits with what is wrong."""
    shutil.rmtree(into, ignore_errors=True)
    sums = built(into)
    with tempfile.TemporaryDirectory() as again:
        if built(Path(again)) != sums:
            sys.exit("two builds are not the same bytes")
    tools = environment("release")
    subprocess.run([*called(tools, "twine"), "check", "--strict", *(str(into / name) for name in sums)], check=True)
    bill = Path(shutil.copyfile(BILL, into / BILL.name))
    sums[bill.name] = hashlib.sha256(bill.read_bytes()).hexdigest()
    lines = [f"{digest}  {name}\n" for name, digest in sums.items()]
    (into / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")
    print("".join(lines), end="")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["dist"]:
            dist(ROOT / "dist")
        case _:
            sys.exit(__doc__)
