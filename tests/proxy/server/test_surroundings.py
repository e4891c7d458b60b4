"""Tests that the command works wherever it runs: its variables, locale, time zone, umask, and home folder."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.process import ROOT, command
from tests.faults.scripted import scripted_backend
from tests.proxy.experiments.test_mismatches import written
from tests.proxy.experiments.test_service import answer

DEAD = "http://127.0.0.1:9"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
ASCII = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
SURROUNDINGS: dict[str, dict[str, str]] = {
    "dead proxies": dict.fromkeys(PROXIES, DEAD),
    "Turkish": {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "TZ": "Asia/Kathmandu"},
    "ASCII": ASCII,
    "no home": {"HOME": "/proc/no-home", "XDG_CACHE_HOME": ""},
}


@pytest.fixture(params=[0o077, 0o000], ids=["umask 077", "umask 000"])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.parametrize("name", SURROUNDINGS)
async def test_command_serves_in_any_surroundings(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable, value in SURROUNDINGS[name].items():
        monkeypatch.setenv(variable, value)
    folder = tmp_path / "Über uns, mit Leerzeichen"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    experiment = ["--experiment", written(folder), "--store", f"sqlite:{folder}/Größe 1.sqlite3", "--workers", "2"]
    async with scripted_backend(answer) as backend, command("--backend", backend.url, *experiment) as server:
        status, headers, _ = await server.chat()
        assert (status, headers["x-drpo-experiment"].partition("=")[0]) == (200, "e")


@pytest.mark.usefixtures("umask")
async def test_store_is_private_whatever_the_umask(tmp_path: Path) -> None:
    store = tmp_path / "s.sqlite3"
    arguments = ["--experiment", written(tmp_path), "--store", f"sqlite:{store}"]
    async with scripted_backend(answer) as backend, command("--backend", backend.url, *arguments) as server:
        assert (await server.chat())[0] == 200
    for file in tmp_path.glob("s.sqlite3*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
