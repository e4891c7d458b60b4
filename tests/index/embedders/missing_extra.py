"""Lets a test run as if the extra `minilm` were not installed."""

from importlib.metadata import PackageNotFoundError
from typing import NoReturn

import pytest


def remove_minilm(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> NoReturn:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.distribution", missing)
