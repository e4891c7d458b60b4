import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from index import __main__ as command
from index.bundle.bundle import load_bundle
from index.cli import progress
from index.types import Example, RetrievalPolicy, Vectors
from tests.index.commands import drpo_index, open_words, run
from tests.index.words import WordEmbedder


@pytest.fixture(autouse=True)
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "open_embedder", open_words)


@pytest.fixture
def sources(tmp_path: Path) -> list[str]:
    """Return the arguments of a build that succeeds and writes to `out`."""
    (tmp_path / "prompt.txt").write_text("\ufeff Be good.\n\n")
    lines = [
        {"query": " How do I boil an egg?\n", "response": "Eight minutes. "},
        {"id": "lock", "query": "How do I pick a lock?", "response": "I can't.", "pinned": True, "tags": ["refusal"]},
    ]
    (tmp_path / "examples.jsonl").write_text("\ufeff" + "\n\r\n".join(map(json.dumps, lines)))
    files = ["--prompt", str(tmp_path / "prompt.txt"), "--examples", str(tmp_path / "examples.jsonl")]
    return ["build", *files, "--embedder", "words", "--out", str(tmp_path / "out")]


def test_build_writes_a_bundle_with_generated_ids_and_trimmed_texts(sources: list[str], tmp_path: Path) -> None:
    flags = ["--model", "m", "--name", "n", "--layout", "user-assistant", "--k", "1", "--order", "canonical"]
    flags += ["--minimum-similarity", "0.1", "--duplicate-similarity", "0.9", "--max-injected-tokens", "99"]
    flags += ["--sampling", "temperature=0.5", "--sampling", "stop=###", "--provenance", "author=me=us"]
    assert run(*sources, *flags) == 0
    bundle = load_bundle(tmp_path / "out", WordEmbedder())
    manifest = bundle.manifest
    assert bundle.prompt == "Be good."
    made, given = bundle.examples
    assert (made.query, made.response, made.pinned) == ("How do I boil an egg?", "Eight minutes.", False)
    assert given == Example("lock", "How do I pick a lock?", "I can't.", pinned=True, tags=("refusal",))
    assert (manifest.name, manifest.model, manifest.layout) == ("n", "m", "user-assistant")
    assert manifest.retrieval == RetrievalPolicy(
        k=1,
        minimum_similarity=0.1,
        duplicate_similarity=0.9,
        order="canonical",
        max_injected_tokens=99,
    )
    assert manifest.sampling == {"temperature": 0.5, "stop": "###"}
    assert manifest.provenance == {"origin": "built by hand with drpo-index build, not optimised", "author": "me=us"}


def test_generated_ids_do_not_depend_on_the_order_of_lines(sources: list[str], tmp_path: Path) -> None:
    assert run(*sources) == 0
    lines = (tmp_path / "examples.jsonl").read_text("utf-8-sig").split("\n")
    (tmp_path / "examples.jsonl").write_text("\n".join(reversed(lines)))
    assert run(*sources[:-1], tmp_path / "again") == 0
    one, two = (load_bundle(tmp_path / name, WordEmbedder()) for name in ("out", "again"))
    assert one.examples == two.examples[::-1]
    assert one.manifest.name == "out"


def test_every_invalid_line_is_named_with_its_number_and_reason(
    sources: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["{}", "", '{"query": "q", "response": "r"}', '{"query": "q", "respones": "r"}', "nonsense"]
    (tmp_path / "examples.jsonl").write_text("\n".join([*lines, '{"query": "q", "response": "a\\nUser: b"}']))
    assert run(*sources) == 1
    place, errors = tmp_path / "examples.jsonl", capsys.readouterr().err
    for number, reason in (
        (1, 'the key "query" is missing'),
        (4, 'unknown key "respones"; the nearest known key is "response"'),
        (5, "is not valid JSON"),
        (6, 'holds the role marker "User:"'),
    ):
        assert any(f"{place}, line {number}: " in line and reason in line for line in errors.splitlines())
    assert errors.count("\n") == 4
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("\n \n", "there is no example"),
        ('{"query": "q", "response": "r"}\n\n{"query": "q ", "response": "r"}', "line 3: the id .* is taken by line 1"),
    ],
)
def test_empty_examples_file_or_duplicate_example_is_refused(
    sources: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, reason: str
) -> None:
    (tmp_path / "examples.jsonl").write_text(content)
    assert run(*sources) == 1
    assert re.search(reason, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("flags", "code", "reason"),
    [
        (["--sampling", "temprature=1"], 2, 'unknown key "temprature"; the nearest known key is "temperature"'),
        (["--sampling", "temperature=hot"], 2, '"temperature" must be a number from 0 to 2'),
        (["--sampling", "temperature"], 2, "not of the form KEY=VALUE"),
        (["--k", "-1"], 2, '"k" must be an integer from 0 to 1000, not -1'),
        (["--k", "many"], 2, "invalid int value"),
        (["--minimum-similarity", "nan"], 2, '"minimum_similarity" must be a number from -1 to 1'),
        (["--layout", "xml"], 2, "invalid choice: 'xml'"),
        (["--embedder", "unheard-of"], 1, "there is no embedder called unheard-of"),
        (["--name", "two\nlines"], 1, '"name" must be a string of one line'),
        (["--prompt", "/nowhere/prompt.txt"], 2, "/nowhere/prompt.txt: cannot be read: No such file or directory"),
        (["--examples", "/"], 2, "/: cannot be read: Is a directory"),
        (["--prompt", sys.executable], 2, "is not UTF-8"),
        (["--out", "/"], 1, "/: exists already"),
        (["--out", "/nowhere/at/all"], 1, "/nowhere/at: there is no such directory"),
    ],
)
def test_wrong_flag_is_one_message_with_its_exit_code(
    sources: list[str], capsys: pytest.CaptureFixture[str], flags: Sequence[str], code: int, reason: str
) -> None:
    assert run(*sources, *flags) == code
    assert reason in capsys.readouterr().err


COUNT = r"embedding the queries \(64 of 200, \d+ s\)\n"


class WaitsForAWord(WordEmbedder):
    """Waits with the second batch until the count of the first batch was printed, for at most thirty seconds."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__()
        self._capsys = capsys
        self._batches = 0
        self.heard = ""

    def embed(self, texts: Sequence[str]) -> Vectors:
        self._batches += 1
        for _ in range(3000 if self._batches == 2 else 0):
            self.heard += self._capsys.readouterr().err
            if re.search(COUNT, self.heard):
                break
            time.sleep(0.01)
        return super().embed(texts)


def test_long_build_reports_progress(
    sources: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    embedder = WaitsForAWord(capsys)
    monkeypatch.setattr(progress, "FIRST_MESSAGE_SECONDS", 0.01)
    monkeypatch.setattr(progress, "MAX_SILENCE_SECONDS", 0.01)
    monkeypatch.setattr(command, "open_embedder", lambda name: embedder)
    lines = [json.dumps({"query": f"question {n}", "response": "r"}) for n in range(200)]
    (tmp_path / "examples.jsonl").write_text("\n".join(lines))
    assert run(*sources) == 0
    assert re.search(COUNT, embedder.heard)


def test_short_build_is_silent(sources: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*sources) == 0
    assert capsys.readouterr().err == ""


def test_handwritten_bundle_works_with_the_real_embedder(sources: list[str], tmp_path: Path) -> None:
    query = "How many minutes does an egg take to boil?"
    sources[sources.index("words")] = "multilingual"
    for arguments in (sources, ["verify", tmp_path / "out"], ["search", tmp_path / "out", query]):
        with drpo_index(*arguments, stdout=subprocess.PIPE) as process:
            output, errors = process.communicate()
        assert process.returncode == 0, errors  # a slow machine prints progress
    boiled = "# Query:\nHow do I boil an egg?\n\n# Answer:\nEight minutes.\n\n"
    assert output.endswith(f"{boiled}# Query:\n{query}\n\n# Answer:\n\n")


def test_interrupt_prints_one_line_without_stack_trace(sources: list[str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with drpo_index(*sources, "--prompt", tmp_path / "pipe", stdout=subprocess.DEVNULL) as process:
        # Within the block, the command is reading the pipe. The end of the pipe's data comes after the signal.
        with (tmp_path / "pipe").open("w"):
            process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.stderr.read() == "drpo-index: interrupted\n"
    assert process.returncode == 130
