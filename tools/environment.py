"""Makes .venv hold exactly what requirements/NAME.txt pins, and this project. environment.sh starts it.

    python -m tools.environment NAME DESCRIPTION_OF_RUN DESCRIPTION_OF_DEV

Packages are installed once, into an environment in the cache folder whose name has the hash of the requirements. Its
files are linked into a new .venv, which takes seconds. Where the cache folder cannot be written or uv lacks a package,
pip installs into .venv itself. A lock on the project's folder lets one process at a time work.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.vllm.environment import install
from tests.vllm.keep import cache_root, kept, key_of
from tests.vllm.steps import StepError

ROOT: Final = Path(__file__).parents[1]
VENV: Final = ROOT / ".venv"
_FOLDER: Final = VENV / "drpo-folder"
_LINKING: Final = VENV / "drpo-linking"
_LONGEST_SHEBANG: Final = 120  # bytes; Linux cuts longer ones

Descriptions = Mapping[str, str]
"""By name, run or dev: what .venv is made of. A stamp with this text says that it is complete."""


def main() -> None:
    """Complete .venv or make it anew."""
    name, of_run, of_dev = sys.argv[1:]
    descriptions = {"run": of_run, "dev": of_dev}
    with _only_one():
        if not _is_ready(name, descriptions):
            _make(name, descriptions)


@contextmanager
def _only_one() -> Iterator[None]:
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another command makes .venv; waiting for it", flush=True)
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _is_ready(name: str, descriptions: Descriptions) -> bool:
    enough = ("dev",) if name == "dev" else ("run", "dev")
    stamped = any(_is_stamped(one, descriptions) for one in enough)
    return stamped and (VENV / "bin" / "drpo-proxy").exists() and _is_usable()


def _stamp(name: str) -> Path:
    return VENV / f"drpo-{name}.stamp"


def _is_stamped(name: str, descriptions: Descriptions) -> bool:
    with suppress(OSError):
        return _stamp(name).read_text(encoding="utf-8").strip() == descriptions[name]
    return False


def _is_usable() -> bool:
    """A .venv of this Python that was made in this folder and was not left half linked."""
    version = "{}.{}.{}".format(*sys.version_info)
    command = [str(VENV / "bin" / "python"), "-c", "import pip, platform; print(platform.python_version())"]
    with suppress(OSError):
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        is_ours = _FOLDER.read_text(encoding="utf-8").strip() == str(ROOT)
        return found.stdout.strip() == version and is_ours and not _LINKING.exists()
    return False


def _make(name: str, descriptions: Descriptions) -> None:
    """A .venv that is complete for another name is added to, one of older requirements is brought up to date by pip."""
    is_new = not _is_usable()
    is_current = any(_is_stamped(one, descriptions) for one in descriptions)
    if is_new:
        _create()
    for one in descriptions:
        _stamp(one).unlink(missing_ok=True)
    if not (is_new or is_current) or not _linked(name):
        _install_with_pip(name)
    _run_pip("--quiet", "--no-deps", "--no-build-isolation", "--editable", ".")
    _stamp(name).write_text(f"{descriptions[name]}\n", encoding="utf-8")


def _create() -> None:
    print(f"Making .venv with Python {sys.version.split()[0]}", flush=True)
    shutil.rmtree(VENV, ignore_errors=True)
    try:
        venv.create(VENV, symlinks=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"Making .venv failed: {error}. On Debian and Ubuntu: apt-get install python3-venv") from error
    _FOLDER.write_text(f"{ROOT}\n", encoding="utf-8")


def _linked(name: str) -> bool:
    """Whether .venv now has the files of the kept environment."""
    requirements = ROOT / "requirements" / f"{name}.txt"
    key = key_of(requirements, sys.implementation.cache_tag or "", sysconfig.get_platform())
    try:
        environment = kept(cache_root() / f"environment-{name}-{key}", lambda place: _build(place, name), _say)
    except (OSError, StepError, subprocess.CalledProcessError) as error:
        _say(f"no environment can be kept ({error}): pip installs into .venv itself")
        return False
    _LINKING.touch()
    _link_files(environment)
    _LINKING.unlink()
    return True


def _build(place: Path, name: str) -> None:
    venv.create(place, symlinks=True, with_pip=True)
    into = ["--python", str(place / "bin" / "python")]
    title = f"Installing requirements/{name}.txt (once; a few hundred MB)"
    install([ROOT / "requirements" / f"{name}.txt"], into, place.with_suffix(".log"), _say, title)


def _link_files(environment: Path) -> None:
    """Link what .venv lacks; commands are written anew, since they name the interpreter that runs them."""
    for folder, folders, files in os.walk(environment):
        folders[:] = [one for one in folders if one != "__pycache__"]
        into = VENV / Path(folder).relative_to(environment)
        into.mkdir(exist_ok=True)
        for file in files:
            source, target = Path(folder, file), into / file
            if folder == str(environment) or os.path.lexists(target):
                continue
            if into == VENV / "bin" and (text := _command(source)):
                target.write_bytes(text)
                target.chmod(0o755)
            else:
                _link(source, target)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target, follow_symlinks=False)


def _command(source: Path) -> bytes | None:
    """The text of a Python script, to be run by the Python of .venv; None for another kind of file."""
    first, _, body = source.read_bytes().partition(b"\n")
    if first == b"#!/bin/sh" and body.startswith(b"'''exec' "):
        body = body.split(b"\n", 2)[2]
    elif not first.startswith(b"#!") or b"python" not in first:
        return None
    python = os.fsencode(VENV / "bin" / "python")
    if b" " in python or len(python) > _LONGEST_SHEBANG:
        return b"#!/bin/sh\n'''exec' \"" + python + b'" "$0" "$@"\n\' \'\'\'\n' + body
    return b"#!" + python + b"\n" + body


def _install_with_pip(name: str) -> None:
    """The pinned list is complete, so pip has nothing to resolve (--no-deps) and every file has a hash."""
    _say(f"Installing requirements/{name}.txt into .venv (a few hundred MB)")
    if subprocess.run([VENV / "bin" / "python", "-c", "import pip"], capture_output=True, check=False).returncode:
        subprocess.run([VENV / "bin" / "python", "-m", "ensurepip"], check=True, stdout=subprocess.DEVNULL)
    _run_pip("--no-deps", "--require-hashes", "--requirement", f"requirements/{name}.txt")


def _run_pip(*arguments: str) -> None:
    command = [VENV / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"pip failed with exit status {done.returncode}")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
