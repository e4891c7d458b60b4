"""Builds a release: wheel and sdist, built twice to the same bytes and checked by twine, with a bill of materials.

python -m tests.deploy.release dist      into dist/: the two, sbom.cdx.json (CycloneDX), SHA256SUMS
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Final

from tests.deploy.bill import BILL
from tests.deploy.parts import ROOT, called, environment

_OLD: Final = 946_684_800  # seconds since 1970: 1 January 2000


def built(source: Path, into: Path, umask: int = 0o022) -> dict[str, str]:
    """Build wheel and sdist into a folder.

    Args:
        source: The folder of the project.
        into: The folder for the two files. It is created.
        umask: The permissions that new files do not get.

    Returns:
        The SHA-256 of each file, by its name.

    Raises:
        SystemExit: The build fails.
    """
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(into)]
    # Without this variable, hatchling writes the same fixed time into all builds.
    variables = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, env=variables, umask=umask, check=False)
    if done.returncode:
        sys.exit(f"{source} cannot be built: {done.stderr}")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(into.iterdir())}


def unpacked(sdist: Path, into: Path) -> Path:
    """Unpack an sdist into an empty folder, with another time and without permissions for others."""
    safe: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.3 has none
    with tarfile.open(sdist) as archive:
        archive.extractall(into, **safe)
    (folder,) = into.iterdir()
    for path in folder.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
        os.utime(path, (_OLD, _OLD))
    return folder


def dist(into: Path) -> None:
    """Build wheel and sdist, check that a build from the sdist gives the same bytes, and add the bill of materials.

    Raises:
        SystemExit: The second build gives other bytes.
    """
    shutil.rmtree(into, ignore_errors=True)
    sums = built(ROOT, into)
    with tempfile.TemporaryDirectory() as place:
        (source := Path(place, "source")).mkdir()
        again = built(unpacked(next(into.glob("*.tar.gz")), source), Path(place, "again"), umask=0o077)
    if differing := [name for name, digest in sums.items() if again.get(name) != digest]:
        sys.exit(f"A build of the unpacked sdist, with other times and permissions, gives other bytes: {differing}")
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
