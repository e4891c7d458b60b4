"""Lets a test run as if the extra `minilm` were not installed."""

from importlib.metadata import PackageNotFoundError
from typing import NoReturn

import pytest

from index.embedders import registry
from index.embedders.minilm import MiniLMEmbedder


def remove_minilm(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> NoReturn:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.distribution", missing)
    monkeypatch.setattr(registry, "MiniLMEmbedder", MiniLMEmbedder)  # tests share one open embedder (tests/conftest.py)
