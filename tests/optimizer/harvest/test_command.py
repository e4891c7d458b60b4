"""Tests of the command harvest: its files, that no private data leaves it, the review, and how it is continued."""

import json
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from index.bundle.input_files import parse_input_examples
from index.types import Example
from optimizer.__main__ import main
from optimizer.cli.editor import edited
from optimizer.core.errors import DataError
from optimizer.data.dataset import read_rows
from optimizer.data.preferences import read_preferences
from optimizer.harvest.files import only_user_of
from proxy.experiments.store.dsn import dsn_of
from tests.optimizer.harvest.planted_strings import PLANTED
from tests.optimizer.harvest.recorded import Recording, stream_reply, turns

SUBJECTS = ("tea", "rum", "bees", "honey", "Bach", "rain", "iron", "chess")


def write_store(folder: Path, recording: Recording) -> str:
    recording.write(dsn_of(f"sqlite:{folder}/s.sqlite3"))
    return f"sqlite:{folder}/s.sqlite3"


def small_store(folder: Path) -> str:
    recording = Recording()
    for subject in SUBJECTS:
        recording.add(f"liker of {subject}", f"What is {subject}?", f"Something about {subject}.", vote=1.0)
    recording.add("x", "What is rye?", "Dunno.", vote=0.0, comment="Rude.")
    return write_store(folder, recording)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def answers(monkeypatch: pytest.MonkeyPatch, given: Iterable[str]) -> list[str]:
    """Let the user give these answers, and then end the input. Return the answers that are left."""
    left = list(given)

    def ask(_: str) -> str:
        if not left:
            raise EOFError
        return left.pop(0)

    monkeypatch.setattr("builtins.input", ask)
    return left


def test_files_of_a_harvest_are_read_by_the_other_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["harvest", "--store", small_store(tmp_path), "--out", str(out), "--yes"]) == 0
    assert len(parse_input_examples((out / "examples.jsonl").read_bytes(), "examples.jsonl")) == len(SUBJECTS)
    (row,) = read_rows(out / "rows.jsonl")
    assert row.query == "What is rye?"
    assert lines(out / "rows.jsonl")[0]["comments"] == ["Rude."]
    found = read_preferences(out / "preferences.jsonl")
    assert (found.pairs, found.comments) == ((), ("Rude.",))
    assert {(one.query, one.likes, one.dislikes) for one in found.ratings} == {
        *((f"What is {subject}?", 1, 0) for subject in SUBJECTS),
        ("What is rye?", 0, 1),
    }
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in out.iterdir()} == {0o600}
    shown = capsys.readouterr().out
    assert "Accepted as examples: 8 of 8 candidates" in shown
    assert "No private data was found" in shown


def test_store_without_texts_says_which_flag_logs_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording = Recording(logs_content=False)
    recording.add("a", "What is tea?", "A drink.", vote=1.0)
    store = write_store(tmp_path, recording)
    assert main(["harvest", "--store", store, "--out", str(tmp_path / "out"), "--yes"]) == 0
    assert "only with --store-content" in capsys.readouterr().out
    assert main(["harvest", "--store", store, "--out", str(tmp_path / "o"), "--metric", "stars", "--yes"]) == 0
    assert "thumbs_up (1 rating from 1 to 1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Give --store"),
        (["--store", "sqlite:none"], "this file does not exist"),
        (["--store", "STORE", "--experiment", "none"], "no request of the experiment none"),
        (["--store", "STORE", "--since", "2030-01-01"], "since the given date"),
        (["--store", "STORE", "--experiment", "x' OR 1=1 --"], "no request of the experiment x' OR 1=1 --"),
        (["--store", "STORE", "--experiment", "\udcff"], "in UTF-8"),
        (["--store", "STORE", "--at-least", "0"], "--at-most must be below"),
        (["--store", "STORE", "export.jsonl"], "Give one of them"),
    ],
)
def test_wrong_flags_are_errors_that_say_what_to_do(
    flags: Sequence[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DRPO_STORE", raising=False)
    store = small_store(tmp_path)
    given = [store if flag == "STORE" else flag for flag in flags]
    assert main(["harvest", *given, "--out", str(tmp_path / "out"), "--yes"]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags", [["--at-least", "nan"], ["--at-most", "-inf"], ["--words", "9" * 20], ["--since", "2026-13-01"]]
)
def test_flag_without_a_sensible_value_is_refused(flags: Sequence[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["harvest", "--store", small_store(tmp_path), *flags, "--out", str(tmp_path / "out"), "--yes"])
    assert not (tmp_path / "out").exists()


def test_folder_of_another_harvest_is_not_continued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, out = small_store(tmp_path), str(tmp_path / "out")
    assert main(["harvest", "--store", store, "--out", out, "--yes"]) == 0
    assert main(["harvest", "--store", store, "--out", out, "--words", "9", "--yes"]) == 1
    assert "contains another harvest" in capsys.readouterr().err


def plant(number: int, text: str, recording: Recording) -> None:
    """Put a private sentence into every text that a harvest reads."""
    user, subject = f"user {number}", f"{SUBJECTS[number % 8]} number {number}"
    asked = f"Tell me about {subject}. {text}"
    recording.add(user, asked, f"It is good. {text}", vote=1.0)
    recording.add(f"other {number}", asked, f"It is bad. {text}", vote=0.0, comment=f"Wrong! {text}")
    recording.add(user, turns(f"Hello. {text}", f"Hello. {text}", asked), f"No. {text}", vote=0.0, comment=text)
    recording.add(user, f"{asked} Now", f"First. {text}", body=stream_reply(f"First. {text}"))
    recording.add(user, f"{asked} Now", f"Second. {text}", judged=(1.0, f"Third. {text}"))


def test_no_planted_private_string_leaves_the_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = Recording()
    for number, (text, _) in enumerate(PLANTED):
        plant(number, text, recording)
    store, out = write_store(tmp_path, recording), tmp_path / "out"
    assert main(["harvest", "--store", store, "--out", str(out), "--yes"]) == 0
    answers(monkeypatch, "a" * 40)
    assert main(["harvest", "--store", store, "--out", str(out)]) == 0
    shown = capfd.readouterr()
    texts = {path.name: path.read_text(encoding="utf-8") for path in out.iterdir()}
    assert len(lines(out / "rows.jsonl")) >= 90
    assert len(lines(out / "preferences.jsonl")) >= 90
    assert len(lines(out / "examples.jsonl")) >= 10
    for name, written in {**texts, "output": shown.out, "errors": shown.err}.items():
        leaked = [private for _, private in PLANTED if private in written or json.dumps(private)[1:-1] in written]
        assert not leaked, name


def test_review_accepts_edits_rejects_quits_and_continues(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/^Something about .*/Ask ann@example.com./' \"$1\"\n")
    editor.chmod(0o755)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", str(editor))
    store, out = small_store(tmp_path), tmp_path / "out"
    command = ["harvest", "--store", store, "--out", str(out)]
    answers(monkeypatch, ["nonsense", "a", "r", "e", "a", "q"])
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "Replaced: e-mail address" in shown
    assert "5 candidates are undecided" in shown
    responses = [row["response"] for row in lines(out / "examples.jsonl")]
    assert responses[1] == "Ask [e-mail address]."
    assert len(responses) == 2
    with (out / "review.jsonl").open("ab") as file:
        file.write(b'{"id": "half a li')
    Path(store.removeprefix("sqlite:")).unlink()
    left = answers(monkeypatch, "aaaaa")
    assert main(command) == 0
    assert not left
    assert len(lines(out / "examples.jsonl")) == 7
    assert len(lines(out / "review.jsonl")) == 8


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 3", "the editor"),
        ('echo gone > "$1"', "Keep it between"),
        ("sed -i 's/^Some.*/# Query:/' \"$1\"", "cannot be used"),
    ],
)
def test_failed_edit_leaves_the_candidate_as_it_was(
    script: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = tmp_path / "editor"
    editor.write_text(f"#!/bin/sh\n{script}\n")
    editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(editor))
    answers(monkeypatch, ["e", "a"])
    assert main(["harvest", "--store", small_store(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert message in capsys.readouterr().out
    assert [row["response"].startswith("Something") for row in lines(tmp_path / "out" / "examples.jsonl")] == [True]


@pytest.mark.parametrize(
    ("editor", "message"),
    [
        ("printf '\\377' > \"$1\"", "in UTF-8"),
        ("sed -i 's/^Some.*/--- answer ---/' \"$1\"", "twice"),
        ('rm "$1"', "cannot be read"),
    ],
)
def test_edited_file_that_cannot_be_read_is_an_error_with_its_reason(
    editor: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "editor"
    program.write_text(f"#!/bin/sh\n{editor}\n")
    program.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(program))
    with pytest.raises(DataError, match=message):
        edited(Example("x", "What is tea?", "Something."))
    monkeypatch.setenv("VISUAL", "vi 'open")
    with pytest.raises(DataError, match="quotation mark"):
        edited(Example("x", "What is tea?", "Something."))


def test_text_of_a_user_is_in_no_line_that_vi_reads_as_a_modeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, seen = tmp_path / "editor", tmp_path / "seen"
    program.write_text(f'#!/bin/sh\ncp "$1" {seen}\n')
    program.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(program))
    assert edited(Example("x", "vim: set tw=1:", "ex: set tw=1:")) == ("vim: set tw=1:", "ex: set tw=1:")
    shown = seen.read_text().splitlines()
    assert not any("set tw" in line for line in (*shown[:5], *shown[-5:]))


def test_text_of_a_user_cannot_control_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = Recording()
    recording.add("a", "What is \x1b]0;tea\x07?\x9b2J", "A \u202edrink\u2066.\r\x1b[2J", vote=1.0)
    answers(monkeypatch, "q")
    assert main(["harvest", "--store", write_store(tmp_path, recording), "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "drink" in shown
    assert not set(shown) & set("\x1b\x07\x9b\r\u202e\u2066")


def test_files_are_private_even_in_the_place_of_links_and_public_files(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.write_text("kept")
    (out / "report.txt").symlink_to(elsewhere)
    (out / "rows.jsonl").write_text("old")
    (out / "rows.jsonl").chmod(0o644)
    assert main(["harvest", "--store", small_store(tmp_path), "--out", str(out), "--yes"]) == 0
    assert elsewhere.read_text() == "kept"
    assert not any(path.is_symlink() or stat.S_IMODE(path.stat().st_mode) & 0o077 for path in out.iterdir())


def test_second_command_on_the_same_folder_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["harvest", "--store", small_store(tmp_path), "--out", str(out), "--yes"]
    with only_user_of(out):
        assert main(command) != 0
        assert "another harvest works on this folder" in capsys.readouterr().err
        assert not list(out.iterdir())
    assert main(command) == 0


def test_kill_while_a_file_is_written_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    command = ["harvest", "--store", small_store(tmp_path), "--out", str(out), "--yes"]

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("optimizer.harvest.files.os.fsync", interrupted)
        assert main(command) == 130
    assert not list(out.iterdir())
    assert main(command) == 0


def test_damaged_decision_is_an_error_that_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["harvest", "--store", small_store(tmp_path), "--out", str(tmp_path / "out"), "--yes"]
    assert main(command) == 0
    with (tmp_path / "out" / "review.jsonl").open("ab") as file:
        file.write(b"broken\n")
    assert main(command) != 0
    assert "Remove the damaged line" in capsys.readouterr().err


def test_interrupt_while_reading_leaves_nothing_and_the_same_command_begins_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["harvest", "--store", small_store(tmp_path), "--out", str(tmp_path / "out"), "--yes"]

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    for step in ("count_exposures", "collect", "make_harvest"):
        with monkeypatch.context() as patch:
            patch.setattr(f"optimizer.harvest.run.{step}", interrupted)
            assert main(command) == 130
        assert not (tmp_path / "out").exists()
    assert "interrupted" in capsys.readouterr().err
    assert main(command) == 0


def test_interrupt_of_a_review_loses_no_decision(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "optimizer", "harvest", "--store", small_store(tmp_path), "--out", str(out)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"a\nr\n")
    process.stdin.flush()
    wait_until(lambda: (out / "review.jsonl").exists() and len(lines(out / "review.jsonl")) == 2, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert len(lines(out / "examples.jsonl")) == 1
    assert main([*command[3:], "--yes"]) == 0
    assert [one["decision"] for one in lines(out / "review.jsonl")] == ["accept", "reject", *["accept"] * 6]


def wait_until(condition: Any, process: "subprocess.Popen[bytes]") -> None:
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends
        assert process.poll() is None
        time.sleep(0.05)


def test_export_of_conversations_is_harvested_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given: list[dict[str, Any]] = [
        {"messages": [{"role": "system", "content": "Be good."}, *turns("What is tea?", "A drink.")], "outcome": True},
        {"messages": turns("What is tea?", "A drink again.", "And rum?"), "rating": 5},
        {"messages": turns("What is rum?", "Bad answer."), "score": 0},
        {"messages": turns("What is rye?", "word " * 200), "reward": 1},
        {"messages": turns("no answer"), "score": 1},
    ]
    export, out = tmp_path / "export.jsonl", tmp_path / "out"
    export.write_text("\n".join(json.dumps(line) for line in given))
    assert main(["harvest", str(export), "--out", str(out), "--yes"]) == 0
    assert [row["query"] for row in lines(out / "examples.jsonl")] == ["What is tea?"]
    assert [row["query"] for row in lines(out / "rows.jsonl")] == ["What is rum?"]
    assert "Read 5 requests, 4 with texts" in capsys.readouterr().out
    export.write_text('{"messages": []}')
    assert main(["harvest", str(export), "--out", str(tmp_path / "no"), "--yes"]) == 1
    assert "line 1: a conversation needs one of outcome" in capsys.readouterr().err


@pytest.mark.parametrize("outcome", ["1" + "0" * 400, '"1"', "null", "[1]", "1e300"])
def test_outcome_that_is_no_sensible_number_is_an_error_with_its_line(
    outcome: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "export.jsonl").write_text(f'{{"messages": [], "outcome": {outcome}}}')
    assert main(["harvest", str(tmp_path / "export.jsonl"), "--out", str(tmp_path / "out"), "--yes"]) == 1
    assert "line 1: a conversation needs one of outcome" in capsys.readouterr().err


def test_help_explains_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["harvest", "--help"])
    shown = capsys.readouterr().out
    for word in ("--store-content", "/v1/feedback", "preferences.jsonl", "DRPO_STORE", "docs/harvest.md"):
        assert word in shown
