"""Installs the packages that requirements/NAME.txt pins, and this project, into .venv. environment.sh starts it.

    python -m tools.environment NAME DESCRIPTION_OF_RUN DESCRIPTION_OF_DEV

Packages are installed once, into an environment in the cache folder. Its name contains the hash of the requirements.
The files of that environment are linked into a new .venv, which takes seconds. If the cache folder is not writable or
uv does not find a package, pip installs into .venv itself. An existing .venv is updated by pip. A lock on the project's
folder prevents that two processes change .venv at the same time. This module needs only the standard library.
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

from tools.keep import cache_root, kept, key_of
from tools.packages import install
from tools.steps import StepError

ROOT: Final = Path(__file__).parents[1]
VENV: Final = ROOT / ".venv"
_FOLDER: Final = VENV / "drpo-folder"  # the project's folder when .venv was made
_LINKING: Final = VENV / "drpo-linking"  # exists while files are linked
_MAX_SHEBANG: Final = 120  # bytes; Linux cuts longer lines

Descriptions = Mapping[str, str]
"""A text that identifies the requirements of each name (run or dev). The stamp file in .venv contains it."""


def main() -> None:
    """Create, update or complete .venv."""
    name, of_run, of_dev = sys.argv[1:]
    descriptions = {"run": of_run, "dev": of_dev}
    with _lock():
        if not _is_ready(name, descriptions):
            _make(name, descriptions)


@contextmanager
def _lock() -> Iterator[None]:
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
    sufficient = ("dev",) if name == "dev" else ("run", "dev")
    stamped = any(_is_stamped(one, descriptions) for one in sufficient)
    return stamped and (VENV / "bin" / "drpo-proxy").exists() and _is_usable()


def _stamp(name: str) -> Path:
    return VENV / f"drpo-{name}.stamp"


def _is_stamped(name: str, descriptions: Descriptions) -> bool:
    with suppress(OSError):
        return _stamp(name).read_text(encoding="utf-8").strip() == descriptions[name]
    return False


def _is_usable() -> bool:
    """Return whether .venv runs, has this version of Python, was made in this folder, and was linked completely."""
    version = "{}.{}.{}".format(*sys.version_info)
    command = [str(VENV / "bin" / "python"), "-c", "import pip, platform; print(platform.python_version())"]
    with suppress(OSError):
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        is_ours = _FOLDER.read_text(encoding="utf-8").strip() == str(ROOT)
        return found.stdout.strip() == version and is_ours and not _LINKING.exists()
    return False


def _make(name: str, descriptions: Descriptions) -> None:
    """Create .venv, or bring it up to date.

    If .venv is complete for the other name, its missing packages are linked. If the requirements or pyproject.toml have
    changed since .venv was made, pip updates it.
    """
    is_new = not _is_usable()
    is_current = any(_is_stamped(one, descriptions) for one in descriptions)
    if is_new:
        _create()
    for one in descriptions:
        _stamp(one).unlink(missing_ok=True)
    if not (is_new or is_current):
        _say(f"Updating .venv to requirements/{name}.txt and pyproject.toml")
        _install_with_pip(name, "--quiet")
    elif not _link_kept_environment(name):
        _say(f"Installing requirements/{name}.txt into .venv (a few hundred MB)")
        _install_with_pip(name)
    _run_pip("--quiet", "--no-deps", "--no-build-isolation", "--editable", ".")
    if not str(ROOT).isascii():
        for file in VENV.glob("lib/python*/site-packages/_editable_impl_*.pth"):
            file.write_bytes(path_line(ROOT))
    _stamp(name).write_text(f"{descriptions[name]}\n", encoding="utf-8")


def path_line(folder: Path) -> bytes:
    """Return the content of a .pth file that adds a folder to the import path.

    Python up to 3.12 reads a .pth file in the encoding of the locale, and does not start if this encoding cannot decode
    the file. The line is therefore in ASCII, whatever the folder is called.
    """
    return f"import os, sys; sys.path.append(os.fsdecode({os.fsencode(folder)!r}))\n".encode("ascii")


def _create() -> None:
    print(f"Making .venv with Python {sys.version.split()[0]}", flush=True)
    shutil.rmtree(VENV, ignore_errors=True)
    try:
        venv.create(VENV, symlinks=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"Making .venv failed: {error}. On Debian and Ubuntu: apt-get install python3-venv") from error
    _FOLDER.write_text(f"{ROOT}\n", encoding="utf-8")


def _link_kept_environment(name: str) -> bool:
    """Link the environment in the cache folder into .venv. Returns whether that environment could be built."""
    requirements = ROOT / "requirements" / f"{name}.txt"
    key = key_of(requirements, sys.implementation.cache_tag or "", sysconfig.get_platform())
    try:
        environment = kept(cache_root() / f"environment-{name}-{key}", lambda folder: _build(folder, name), _say)
    except (OSError, StepError, subprocess.CalledProcessError) as error:
        _say(f"no environment can be kept ({error}): pip installs into .venv itself")
        return False
    _LINKING.touch()
    _link_files(environment)
    _LINKING.unlink()
    return True


def _build(folder: Path, name: str) -> None:
    venv.create(folder, symlinks=True, with_pip=True)
    into = ["--python", str(folder / "bin" / "python")]
    title = f"Installing requirements/{name}.txt (once; a few hundred MB)"
    install([ROOT / "requirements" / f"{name}.txt"], into, folder.with_suffix(".log"), _say, title)


def _link_files(environment: Path) -> None:
    """Link the files that .venv lacks. Scripts in bin are copied instead, so that they start the Python of .venv."""
    for folder, folders, files in os.walk(environment):
        folders[:] = [one for one in folders if one != "__pycache__"]
        into = VENV / Path(folder).relative_to(environment)
        into.mkdir(exist_ok=True)
        for file in files:
            source, target = Path(folder, file), into / file
            if folder == str(environment) or os.path.lexists(target):
                continue
            if into == VENV / "bin" and (text := _script(source)):
                target.write_bytes(text)
                target.chmod(0o755)
            else:
                _link(source, target)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # the cache folder is on another file system, or the file system has no links
        shutil.copy2(source, target, follow_symlinks=False)


def _script(source: Path) -> bytes | None:
    """Return a Python script with a new first line, which starts the Python of .venv; None for other files."""
    first, _, body = source.read_bytes().partition(b"\n")
    if first == b"#!/bin/sh" and body.startswith(b"'''exec' "):
        body = body.split(b"\n", 2)[2]
    elif not first.startswith(b"#!") or b"python" not in first:
        return None
    python = os.fsencode(VENV / "bin" / "python")
    if b" " in python or len(python) > _MAX_SHEBANG:
        return b"#!/bin/sh\n'''exec' \"" + python + b'" "$0" "$@"\n\' \'\'\'\n' + body
    return b"#!" + python + b"\n" + body


def _install_with_pip(name: str, *options: str) -> None:
    """Install with pip. The pinned list is complete, so pip has nothing to resolve, and every file has a hash."""
    if subprocess.run([VENV / "bin" / "python", "-c", "import pip"], capture_output=True, check=False).returncode:
        subprocess.run([VENV / "bin" / "python", "-m", "ensurepip"], check=True, stdout=subprocess.DEVNULL)
    _run_pip(*options, "--no-deps", "--require-hashes", "--requirement", f"requirements/{name}.txt")


def _run_pip(*arguments: str) -> None:
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"pip failed with exit status {done.returncode}")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
