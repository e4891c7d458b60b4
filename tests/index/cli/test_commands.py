import subprocess
import sys
from pathlib import Path

import pytest

from index import __main__ as command
from index.bundle.bundle import default_bundle_directory, load_bundle, read_bundle, write_bundle
from index.layouts import LAYOUTS
from index.rendering import render_text
from index.types import Example, Message, RetrievalPolicy
from tests.index.commands import drpo_index, open_words, run
from tests.index.words import EXAMPLES, PROMPT, WordEmbedder, bundle_input, write_test_bundle


@pytest.fixture(autouse=True)
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "open_embedder", open_words)
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_test_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


# verify


def test_verify_reports_a_valid_bundle(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", directory) == 0
    assert "good. test bundle, 5 examples, 1 pinned" in capsys.readouterr().out


def test_default_names_the_bundle_of_the_package() -> None:
    with drpo_index("verify", "default", stdout=subprocess.PIPE) as process:
        output, errors = process.communicate()
    assert process.returncode == 0
    assert "drpo-index:" not in errors, "a busy machine prints progress there, but no error"
    assert output.startswith(f"{default_bundle_directory()}: good. ")


def test_verify_refuses_a_valid_bundle_with_another_id(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle_id = read_bundle(directory).id
    assert run("verify", directory, "--id", bundle_id) == 0
    assert run("verify", directory, "--id", bundle_id[::-1]) == 1
    assert f"has the id {bundle_id}, not that of --id. Name the right one" in capsys.readouterr().err
    assert run("verify", directory, "--id", bundle_id[:12]) == 2


def test_verify_names_the_broken_file_in_one_line(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / "prompt.txt").write_text("Be bad.")
    assert run("verify", directory) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"drpo-index: {directory / 'prompt.txt'}: has 7 bytes")
    assert output.err.count("\n") == 1


@pytest.mark.parametrize("name", ["verify", "show"])
def test_missing_bundle_is_a_one_line_error(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, tmp_path / "none") == 1
    assert capsys.readouterr().err.startswith(f"drpo-index: there is no directory {tmp_path / 'none'}, and no bundle")


def test_embedder_that_cannot_be_opened_is_a_one_line_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embedder = WordEmbedder()
    embedder.spec = type(embedder.spec)("elsewhere", "1", embedder.spec.dimension)
    write_bundle(tmp_path / "bundle", bundle_input(), embedder)
    assert run("verify", tmp_path / "bundle", "--allow-embedder", "elsewhere") == 1
    assert capsys.readouterr().err == "drpo-index: there is no embedder called elsewhere: use words\n"


@pytest.mark.parametrize("name", ["verify", "search"])
def test_embedder_named_by_a_bundle_is_not_opened_without_permission(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    embedder = WordEmbedder()
    embedder.spec = type(embedder.spec)("openai:http://127.0.0.1:9/v1#spy", "1", embedder.spec.dimension)
    write_bundle(tmp_path / "bundle", bundle_input(), embedder)
    assert run(name, tmp_path / "bundle", *(["hello"] if name == "search" else [])) == 1
    assert "add --allow-embedder 'openai:http://127.0.0.1:9/v1#spy'" in capsys.readouterr().err


# show


def test_show_prints_facts_prompt_and_examples(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", directory) == 0
    page = capsys.readouterr().out
    bundle = load_bundle(directory, WordEmbedder())
    for part in (
        bundle.id,
        "google/gemma-3-270m",
        "5, of them 1 pinned",
        "frequency_penalty = 0.4",
        *PROMPT.split("\n"),
    ):
        assert part in page
    for example in EXAMPLES:
        assert example.id in page
    assert "how-to, food" in page
    assert "and I understand" not in page


def test_show_full_prints_whole_texts(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", directory, "--full") == 0
    page = capsys.readouterr().out
    for example in EXAMPLES:
        assert example.query in page
        assert example.response in page


def test_bundle_can_neither_style_the_page_nor_control_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "[bold]x[/bold] :smile: \x1b[2J\x9b2J\r\x07"
    example = Example("a", hostile, hostile, tags=("[red]t",))
    write_bundle(tmp_path / "bundle", bundle_input([example], prompt=hostile), WordEmbedder())
    for arguments in (["show"], ["show", "--full"]):
        assert run(arguments[0], tmp_path / "bundle", *arguments[1:]) == 0
        page = capsys.readouterr().out
        assert "[bold]x[/bold] :smile: ␛[2J�2J" in page
        assert "[red]t" in page
        assert not set("\x1b\x9b\r\x07") & set(page)


# search


def test_search_shows_similarities_and_the_exact_prompt(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query = "What is the capital of Italy?"
    assert run("search", directory, query) == 0
    page = capsys.readouterr().out
    lock, first, second = EXAMPLES[1:4]
    shown = sorted((first, second), key=lambda example: page.index(f" {example.id} "), reverse=True)
    text = render_text(LAYOUTS["query-answer"], PROMPT, [lock, *shown], [Message("user", query)])
    assert page.endswith(f"\n{text}\n")
    embedder = WordEmbedder()
    for example in (first, second):
        similarity = embedder.embed([query])[0] @ embedder.embed([example.query])[0]
        assert f"{similarity:.3f} " in page
    assert "pinned " in page


def test_search_uses_the_layout_and_the_order_of_the_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = RetrievalPolicy(k=5, minimum_similarity=-1.0, order="canonical")
    write_bundle(tmp_path / "bundle", bundle_input(policy=policy, layout="user-assistant"), WordEmbedder())
    assert run("search", tmp_path / "bundle", "rain") == 0
    ordered = [EXAMPLES[1], EXAMPLES[0], *EXAMPLES[2:]]
    text = render_text(LAYOUTS["user-assistant"], PROMPT, ordered, [Message("user", "rain")])
    assert capsys.readouterr().out.endswith(f"\n{text}\n")


def test_query_without_text_is_a_usage_error(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("search", directory, " ") == 2
    assert "the text is empty" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["frobnicate"], ["verify"], ["show", "a", "b"], ["build"]])
def test_wrong_command_line_exits_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert "usage: drpo-index" in capsys.readouterr().err


@pytest.mark.parametrize("name", [[], ["verify"], ["show"], ["search"], ["build"]])
def test_help_explains_every_command(name: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*name, "--help") == 0
    assert f"usage: {' '.join(['drpo-index', *name])}" in capsys.readouterr().out


# progress, a reader that ends, interrupts


def test_reader_that_ends_early_is_not_an_error(tmp_path: Path) -> None:
    long = [Example(str(n), "q " * 100, f"{n} " * 100) for n in range(1_000)]
    write_bundle(tmp_path / "bundle", bundle_input(long), WordEmbedder())
    with drpo_index("show", tmp_path / "bundle", "--full", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_text_of_a_search_cannot_control_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bundle(tmp_path / "bundle", bundle_input([Example("a", "q", "\x1b[2J")]), WordEmbedder())
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run("search", tmp_path / "bundle", "q") == 0
    on_a_terminal = capsys.readouterr().out
    assert "␛[2J" in on_a_terminal
    assert "\x1b[2J" not in on_a_terminal
