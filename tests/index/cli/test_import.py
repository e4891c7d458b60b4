import json
import re
from pathlib import Path

import pytest

from index import __main__ as command
from index.bundle.bundle import load_bundle
from tests.index.commands import open_words, run
from tests.index.published.texts import ANSWERS, INSTRUCTION, PROMPT, URIAL
from tests.index.words import WordEmbedder

MODEL = ("--model", "my/base-model")


@pytest.fixture(autouse=True)
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "open_embedder", open_words)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a text of URIAL, and a prompt and examples of DRPO."""
    (tmp_path / "urial.txt").write_text(URIAL, "utf-8")
    (tmp_path / "output.txt").write_text(PROMPT, "utf-8")
    (tmp_path / "ICL_examples.json").write_text(json.dumps(ANSWERS), "utf-8")
    (tmp_path / "output.pkl").write_bytes(b"\x80\x04.")
    (tmp_path / "other.json").write_text(json.dumps([{"instruction": "a", "output": "b"}]), "utf-8")
    return tmp_path


def run_import(origin: str, path: Path, *arguments: str) -> int:
    out = path.parent / "bundle"
    return run("import", "--from", origin, path, "--embedder", "words", "--out", out, *MODEL, *arguments)


def test_urial_becomes_a_bundle_with_a_report(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_import("urial", files / "urial.txt", "--name", "mine", "--sampling", "max_tokens=512") == 0
    bundle = load_bundle(files / "bundle", WordEmbedder())
    manifest = bundle.manifest
    assert (manifest.name, manifest.model, manifest.layout) == ("mine", "my/base-model", "urial")
    assert (bundle.prompt, len(bundle.examples)) == (INSTRUCTION, 3)
    assert manifest.sampling == {"temperature": 0, "max_tokens": 512}
    assert str(manifest.provenance["origin"]).startswith("URIAL, published by its authors: https://")
    assert str(files) not in json.dumps(manifest.provenance)
    printed = capsys.readouterr()
    assert f"bundle id {bundle.id}" in printed.out
    assert "examples pinned in their order: 3; a system prompt" in printed.out
    assert re.search(r"byte for byte \(compared: \d+ bytes, all examples\)", printed.out)
    assert printed.out.endswith("Nothing is lost.\n")
    assert printed.err == ""


def test_drpo_becomes_a_bundle_and_the_other_embedder_is_reported(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_import("drpo", files / "output.txt") == 0
    bundle = load_bundle(files / "bundle", WordEmbedder())
    assert (bundle.manifest.name, bundle.manifest.layout, bundle.prompt) == ("bundle", "drpo", PROMPT)
    assert bundle.manifest.provenance["lost"]
    printed = capsys.readouterr().out
    assert "the 3 nearest of 4; a system prompt" in printed
    assert "byte for byte" in printed
    assert re.search(
        r"Lost:\n- The nearest examples are found with the embedder words, and not with all-mpnet", printed
    )


def test_text_without_instruction_becomes_a_bundle_without_prompt(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "plain.txt").write_text(URIAL.removeprefix(f"{INSTRUCTION}\n\n"), "utf-8")
    assert run_import("urial", files / "plain.txt") == 0
    assert load_bundle(files / "bundle", WordEmbedder()).prompt == ""
    assert "no system prompt" in capsys.readouterr().out
    for arguments in (("verify",), ("show",), ("search", "tea")):
        assert run(arguments[0], files / "bundle", *arguments[1:]) == 0


@pytest.mark.parametrize(
    ("origin", "name", "flags", "code", "reason"),
    [
        ("urial", "output.txt", (), 1, "--from drpo"),
        ("drpo", "urial.txt", (), 1, "--from urial"),
        ("urial", "nowhere.txt", (), 2, "there is no such file or folder"),
        ("urial", "output.pkl", (), 1, "reading a pickle can run code"),
        ("drpo", "output.pkl", (), 2, "python3 -c"),
        ("drpo", "ICL_examples.json", (), 2, "has the examples. Name the file of the prompt"),
        ("drpo", "output.txt", ("--examples", "other.json"), 1, "one answer for each query"),
        ("drpo", "output.txt", ("--examples", "nowhere.json"), 2, "cannot be read: No such file"),
        ("urial", "urial.txt", ("--examples", "ICL_examples.json"), 2, "has its examples in it. Leave this option out"),
        ("urial", "urial.txt", ("--sampling", "temprature=1"), 2, 'the nearest known key is "temperature"'),
        ("urial", "urial.txt", ("--embedder", "unheard-of"), 1, "there is no embedder called unheard-of"),
        ("uriel", "urial.txt", (), 2, "invalid choice: 'uriel'"),
    ],
)
def test_mistake_is_one_message_and_writes_nothing(
    files: Path,
    capsys: pytest.CaptureFixture[str],
    origin: str,
    name: str,
    flags: tuple[str, ...],
    code: int,
    reason: str,
) -> None:
    named = [str(files / flag) if flag.endswith(".json") else flag for flag in flags]
    assert run_import(origin, files / name, *named) == code
    assert reason in capsys.readouterr().err
    assert not (files / "bundle").exists()


def test_help_of_import_says_what_path_can_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("import", "--help") == 0
    printed = capsys.readouterr().out
    for part in ("inst_1k_v4.txt", "model_mapping.json", "ICL_examples.json", "pickle", "drpo-proxy --backend"):
        assert part in printed
