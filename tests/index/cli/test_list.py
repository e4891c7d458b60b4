"""Tests of `drpo-index list`, and of the provenance that `drpo-index show` prints."""

import json
from pathlib import Path

import pytest

from index.bundle.shipped import GENERAL, shipped_names
from index.cli.list_command import print_list
from tests.index.commands import run
from tests.index.shipped_library import BASE_MODEL, CHAT_MODEL, Learned, write_library


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return write_library(tmp_path / "shipped", Learned("learned-chat", sealed=True), Learned("worse", "org/w", -0.02))


def test_list_shows_names_models_and_figures(library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_list(library, None, as_json=False)
    lines = {line.split()[0]: " ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert lines[GENERAL] == f"{GENERAL} google/gemma-3-270m written by hand 5 at most 700 not measured not measured"
    assert lines["learned-chat"] == f"learned-chat {CHAT_MODEL} learned 5 412 0.75 [0.71, 0.79] 0.75 [0.71, 0.79]"
    assert lines["worse"] == "worse org/w learned 5 412 0.68 [0.64, 0.72] not measured"


def test_a_rival_is_shown_with_what_was_measured_about_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_list(write_library(tmp_path / "other", Learned("learned-base", BASE_MODEL)), None, as_json=False)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(f" {GENERAL}"))
    assert line.split()[-6:] == ["412", "0.70", "[0.66,", "0.74]", "not", "measured"]


def test_list_says_what_default_means(library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_list(library, None, as_json=False)
    output = " ".join(capsys.readouterr().out.split())
    assert f"means learned-chat: the composite of learned-chat minus that of {GENERAL} is +0.050" in output
    assert f"For org/w, `default` means {GENERAL}: the composite of worse minus that of {GENERAL} is -0.020" in output
    assert output.endswith(f"For all other models, `default` means {GENERAL}.")
    print_list(library, "Qwen/Qwen2.5-Coder-1.5B-Instruct", as_json=False)
    assert capsys.readouterr().out.startswith(
        "For Qwen/Qwen2.5-Coder-1.5B-Instruct, `default` means learned-chat, because "
    )
    print_list(library, "org/other", as_json=True)
    reason = "no bundle of drpo was learned for org/other"
    assert json.loads(capsys.readouterr().out) == {"model": "org/other", "bundle": GENERAL, "reason": reason}


def test_list_as_json_has_all_figures(library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_list(library, None, as_json=True)
    general, learned, worse = json.loads(capsys.readouterr().out)
    assert [one["is_default_for_its_model"] for one in (general, learned, worse)] == [True, True, False]
    assert general["figures"] == {"validation": None, "sealed": None}
    assert learned["figures"]["sealed"]["measured"]["raw"]["composite"] == [0.5, 0.46, 0.54]
    assert worse["figures"]["sealed"] is None
    assert learned["prompt_tokens"] == 412.5


def test_the_command_lists_the_bundles_of_drpo(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--json") == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == shipped_names()


def test_show_prints_the_provenance(
    library: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert run("show", library / "learned-chat") == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "made learned date 2026-11-30 licence Apache-2.0 texts written for the tests" in output
    assert "sealed rows (72 general, 27 comply, 20 refuse), answers of qwen2.5-coder-1.5b-instruct" in output
    assert (
        "raw 0.50 [0.46, 0.54] 0.90 [0.86, 0.94] 0.50 [0.46, 0.54] 0.80 [0.76, 0.84] 412 +0.250 [+0.210, +0.290]"
        in output
    )


def test_an_unknown_name_is_an_error_with_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "learned-nothing") == 1
    expected = "drpo-index: there is no directory learned-nothing, and no bundle of drpo has this name (default, "
    assert capsys.readouterr().err.startswith(expected)


def test_show_knows_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", GENERAL) == 0
    by_name = capsys.readouterr().out
    assert run("show", "default") == 0
    assert capsys.readouterr().out == by_name
