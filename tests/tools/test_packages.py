"""Tests that npm gets the options with which its packages are to be installed."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.clients import environments
from tools.packages import install_npm
from tools.steps import Say

_NPM = '#!/bin/sh\necho "$@" >> "$CALLS"\nmkdir -p "$3/node_modules"\n'
"""A program that notes its arguments in place of npm. Its third argument is the value of --prefix."""


def test_options_reach_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "npm").write_text(_NPM, encoding="utf-8")
    (tmp_path / "npm").chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    for name in ("package.json", "package-lock.json"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    install_npm(tmp_path, tmp_path / "place", print, "packages", ["--omit=optional"])
    install_npm(tmp_path, tmp_path / "other", print, "packages")
    first, second = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
    assert first.startswith("ci --prefix ")
    assert first.endswith(" --omit=optional")
    assert "--omit" not in second


def test_packages_with_other_options_are_installed_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[Sequence[str]] = []

    def install(pins: Path, place: Path, say: Say, title: str, options: Sequence[str]) -> None:
        place.mkdir()
        installed.append(options)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(environments, "install_npm", install)
    plain, omitted = environments.node_packages(print), environments.node_packages(print, "node", "--omit=optional")
    assert environments.node_packages(print) == plain != omitted
    assert installed == [(), ("--omit=optional",)]
