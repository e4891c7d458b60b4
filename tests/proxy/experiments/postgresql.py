"""A PostgreSQL of a test's own: Debian's server, installed where it is missing; a port and a folder of its own."""

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
from tools.steps import Say, run_step, tail

_PROGRAMS: Final = Path("/usr/lib/postgresql")
_INSTALL_WITHIN: Final = 300.0  # seconds
_START_WITHIN: Final = 30.0
_USER: Final = "postgres"


@dataclass(slots=True)
class PostgresqlServer:
    """A running server. It trusts whoever comes by loopback; `kill` and `start` are for tests of its absence."""

    programs: Path
    folder: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = ["-c", "listen_addresses=127.0.0.1", "-c", f"port={self.port}"]
        options += ["-c", f"unix_socket_directories={self.folder}", "-c", "max_connections=60"]
        command = [str(self.programs / "postgres"), "-D", str(self.folder / "data"), *options]
        self.process = _spawn(command, self.folder)
        ends = time.monotonic() + _START_WITHIN
        while not self._answers():
            if time.monotonic() > ends or self.process.poll() is not None:
                raise RuntimeError(f"PostgreSQL does not start:\n{tail(self.folder / 'log')}")
            time.sleep(0.05)

    def kill(self) -> None:
        """As a crash does it: no farewell to any client."""
        assert self.process is not None
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()

    def hang(self) -> None:
        """Stop answering, with every connection open."""
        self._signal_all(signal.SIGSTOP)

    def go_on(self) -> None:
        """Answer again."""
        self._signal_all(signal.SIGCONT)

    def database(self, name: str) -> str:
        """The URL of a new, empty database."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return f"{self.url.rpartition('/')[0]}/{name}"

    def _signal_all(self, number: signal.Signals) -> None:
        """To each of its processes: they make groups of their own."""
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
    """A server until the block ends. Needs root once, to install it and to run it as its own user."""
    programs = _programs(say)
    folder = Path(tempfile.mkdtemp(prefix="drpo-postgresql-"))
    try:
        folder.chmod(0o755)
        (folder / "data").mkdir()
        _hand_over(folder)
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
    """Where Debian puts the server's programs, newest first; installed where there are none."""
    found = sorted(_PROGRAMS.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not found:
        log = Path(tempfile.gettempdir()) / "drpo-apt.log"
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run_step("apt-get update", ["apt-get", "update"], log, say, _INSTALL_WITHIN, environment)
        install = ["apt-get", "install", "-y", "--no-install-recommends", "postgresql"]
        run_step("PostgreSQL (once)", install, log, say, _INSTALL_WITHIN, environment)
        found = sorted(_PROGRAMS.glob("*/bin/postgres"))
    return found[-1].parent


def _spawn(command: Sequence[str], folder: Path) -> "subprocess.Popen[bytes]":
    """Run it in a group of its own, as PostgreSQL's user where we are root: it refuses root."""
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


def _hand_over(folder: Path) -> None:
    if os.geteuid() == 0:
        owner = pwd.getpwnam(_USER)
        for place in (folder, folder / "data"):
            os.chown(place, owner.pw_uid, owner.pw_gid)
