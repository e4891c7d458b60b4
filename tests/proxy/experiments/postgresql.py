"""Starts a PostgreSQL server for tests, with its own port and folder. Installs Debian's server if it is missing."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg

from tests.faults.process import children
from tests.neutral import OUTSIDE
from tools.steps import Say, run_step, tail

_PROGRAMS: Final = Path("/usr/lib/postgresql")
_INSTALL_TIMEOUT: Final = 300.0  # seconds
_START_TIMEOUT: Final = 120.0
_USER: Final = "postgres"


@dataclass(slots=True)
class PostgresqlServer:
    """A running server. It trusts all clients on the loopback interface."""

    programs: Path
    folder: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = ["-c", "listen_addresses=127.0.0.1", "-c", f"port={self.port}"]
        options += ["-c", f"unix_socket_directories={self.folder}", "-c", "max_connections=60"]
        command = [str(self.programs / "postgres"), "-D", str(self.folder / "data"), *options]
        self.process = _spawn(command, self.folder)
        ends = time.monotonic() + _START_TIMEOUT
        while not self._answers():
            if time.monotonic() > ends or self.process.poll() is not None:
                raise RuntimeError(f"PostgreSQL does not start:\n{tail(self.folder / 'log')}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End the server like a crash, without closing connections cleanly."""
        assert self.process is not None
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()

    def hang(self) -> None:
        """Make the server stop answering while all connections stay open."""
        self._signal_all(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let the server answer again after `hang`."""
        self._signal_all(signal.SIGCONT)

    def database(self, name: str) -> str:
        """Create an empty database and return its URL."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return f"{self.url.rpartition('/')[0]}/{name}"

    def _signal_all(self, number: signal.Signals) -> None:
        """Send a signal to each process of the server. Each has its own process group."""
        assert self.process is not None
        for pid in (self.process.pid, *children(self.process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def postgresql_server(port: int, say: Say) -> Iterator[PostgresqlServer]:
    """Run a PostgreSQL server until the `with` block ends.

    Root rights are needed to install the server and to run it as the user `postgres`.
    """
    programs = _programs(say)
    folder = Path(tempfile.mkdtemp(prefix="drpo-postgresql-"))
    try:
        folder.chmod(0o755)
        (folder / "data").mkdir()
        _give_to_user(folder)
        initdb = [str(programs / "initdb"), "-D", str(folder / "data"), "-A", "trust", "-U", _USER, "-E", "UTF8"]
        process = _spawn([*initdb, "--no-sync"], folder)
        if process.wait() != 0:
            raise RuntimeError(f"initdb failed:\n{tail(folder / 'log')}")
        server = PostgresqlServer(programs, folder, port)
        server.start()
        try:
            yield server
        finally:
            server.go_on()
            server.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs(say: Say) -> Path:
    """Return the folder with the programs of the newest installed server. Install a server if none is installed."""
    found = sorted(_PROGRAMS.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not found:
        log = Path(tempfile.gettempdir()) / "drpo-apt.log"
        environment = {**OUTSIDE, "DEBIAN_FRONTEND": "noninteractive"}
        run_step("apt-get update", ["apt-get", "update"], log, say, _INSTALL_TIMEOUT, environment)
        install = ["apt-get", "install", "-y", "--no-install-recommends", "postgresql"]
        run_step("PostgreSQL (once)", install, log, say, _INSTALL_TIMEOUT, environment)
        found = sorted(_PROGRAMS.glob("*/bin/postgres"))
    return found[-1].parent


def _spawn(command: Sequence[str], folder: Path) -> "subprocess.Popen[bytes]":
    """Run a command in its own process group. Root runs it as PostgreSQL's user, since the server refuses root."""
    other = {"user": _USER, "group": _USER, "extra_groups": []} if os.geteuid() == 0 else {}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,
            **other,  # type: ignore[call-overload]
        )


def _give_to_user(folder: Path) -> None:
    if os.geteuid() == 0:
        owner = pwd.getpwnam(_USER)
        for path in (folder, folder / "data"):
            os.chown(path, owner.pw_uid, owner.pw_gid)
