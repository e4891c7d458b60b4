"""Tests which bundle `[bundle] start` names."""

from dataclasses import replace
from pathlib import Path

import pytest

from index.bundle.shipped import GENERAL
from index.errors import BundleError
from optimizer.core.config import read_config
from optimizer.core.config_tables import RunConfig
from optimizer.stages.run_context import starting_bundle
from tests.index.shipped_library import CHAT_MODEL, Learned, write_library
from tests.optimizer.scripted_models import write_run


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return write_library(tmp_path / "shipped", Learned("learned-chat"))


def config(folder: Path, start: str | None = None, task: str = "task", model: str | None = None) -> RunConfig:
    written = {} if start is None else {"start": start}
    read = read_config(write_run(folder, "http://127.0.0.1:9/v1", bundle=written, models__task={"model": task}))
    return replace(read, bundle=replace(read.bundle, model=model))


def test_a_path_starts_at_the_folder_of_run_toml(tmp_path: Path, library: Path) -> None:
    found = starting_bundle(config(tmp_path / "run"), library)
    assert (found.directory, found.reason) == (tmp_path / "run" / "start", "")


@pytest.mark.parametrize(
    ("task", "model", "name"),
    [
        ("task", None, GENERAL),
        ("Qwen/Qwen2.5-Coder-1.5B-Instruct", None, "learned-chat"),
        (f"{CHAT_MODEL}@raw", None, "learned-chat"),
        ("task", CHAT_MODEL, "learned-chat"),
        (CHAT_MODEL, "org/other", GENERAL),
    ],
)
def test_default_is_the_bundle_of_the_model(
    tmp_path: Path, library: Path, task: str, model: str | None, name: str
) -> None:
    found = starting_bundle(config(tmp_path / "run", "default", task, model), library)
    assert (found.name, found.directory) == (name, library / name)
    assert found.reason


def test_the_name_of_a_bundle_of_drpo_is_a_starting_bundle(tmp_path: Path) -> None:
    found = starting_bundle(config(tmp_path / "run", GENERAL, CHAT_MODEL))
    assert (found.name, found.reason) == (GENERAL, "")


def test_an_unknown_bundle_is_an_error_with_the_names(tmp_path: Path, library: Path) -> None:
    with pytest.raises(BundleError, match=r"learned-caht, and no bundle of drpo .* \(default, hand-written, "):
        starting_bundle(config(tmp_path / "run", "learned-caht"), library)
