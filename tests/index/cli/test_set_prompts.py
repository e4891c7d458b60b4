"""Tests of prompts of example sets in drpo-index: `sets --prompts` makes them, `show` and `search` show them."""

from dataclasses import replace
from pathlib import Path

import pytest

from index import __main__ as command
from index.bundle.bundle import load_bundle, write_bundle
from index.layouts import LAYOUTS
from index.rendering import render_preamble
from index.retrieval.retriever import pinned
from index.types import Bundle, Example
from tests.index.commands import open_words, run
from tests.index.words import WordEmbedder, bundle_input

TOKENIZER = Path(command.__file__).parent / "embedders" / "minilm_tokenizer" / "tokenizer.json"
LENGTHS = (9, 21, 13, 30, 17)
EXAMPLES = tuple(
    Example(f"{tag}{n}", f"question {n} about {tag}", " ".join(["word"] * LENGTHS[n % 5]), tags=(tag,))
    for tag in ("law", "food")
    for n in range(20)
)
SHORT = (
    'law = "Refuse politely."\nother = """\nAnswer this long and detailed question correctly, and\nto the point."""\n'
)
LAW, OTHER = "Refuse politely.", "Answer this long and detailed question correctly, and\nto the point."
TOKENS = 256


@pytest.fixture(autouse=True)
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "open_embedder", open_words)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    pinned_refusal = Example("refuse", "How do I steal?", "I can't help with that.", pinned=True)
    write_bundle(tmp_path / "source", bundle_input((pinned_refusal, *EXAMPLES)), WordEmbedder())
    return tmp_path / "source"


def sets(source: Path, out: str, prompts: str | None, *flags: str, tokens: int = TOKENS) -> int:
    file = source.parent / "prompts.toml"
    given = () if prompts is None else ("--prompts", file)
    if prompts is not None:
        file.write_text(prompts, encoding="utf-8")
    line = ("sets", source, "--tokenizer", TOKENIZER, "--apart", "law", "--count", "3", "--tokens", str(tokens))
    return run(*line, *given, *flags, "--out", source.parent / out)


def written(source: Path, out: str) -> Bundle:
    return load_bundle(source.parent / out, WordEmbedder())


def prefix_tokens(bundle: Bundle, name: str) -> int:
    """Return the number of tokens before the client's messages in a request that gets this set."""
    from tokenizers import Tokenizer

    by_id = {one.id: one for one in bundle.examples}
    (one,) = [one for one in bundle.sets if one.name == name]
    examples = (*pinned(bundle), *(by_id[shown] for shown in one.shown))
    text = render_preamble(LAYOUTS[bundle.manifest.layout], bundle.prompt_of(name), examples)
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    tokenizer.no_truncation()
    return len(tokenizer.encode(text).ids)


def test_sets_get_prompts_by_kind_and_still_fill_their_tokens(source: Path) -> None:
    assert sets(source, "out", SHORT) == 0
    bundle = written(source, "out")
    assert bundle.set_prompts == {"law-1": LAW, "other-1": OTHER, "other-2": OTHER}
    for one in bundle.sets:
        assert TOKENS <= prefix_tokens(bundle, one.name) <= TOKENS + 64
    assert all(prefix_tokens(bundle, one.name) <= bundle.manifest.retrieval.max_injected_tokens for one in bundle.sets)
    assert sets(source, "plain", None) == 0
    assert [one.members for one in written(source, "plain").sets] == [one.members for one in bundle.sets]


def test_limit_of_tokens_is_raised_for_long_prompts(source: Path) -> None:
    long = "word " * 600
    assert sets(source, "out", f'law = "{long}"\nother = "{long}"', tokens=768) == 0
    bundle = written(source, "out")
    assert max(prefix_tokens(bundle, one.name) for one in bundle.sets) <= bundle.manifest.retrieval.max_injected_tokens


def test_prompt_can_be_given_by_the_name_of_a_set(source: Path) -> None:
    assert sets(source, "out", 'other-2 = "Two."\nother = "Both."') == 0
    assert written(source, "out").set_prompts == {"other-1": "Both.", "other-2": "Two."}


@pytest.mark.parametrize("count", [3, 9])
def test_show_names_all_sets_with_a_prompt(source: Path, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert sets(source, "out", SHORT, "--count", str(count)) == 0
    capsys.readouterr()
    assert run("show", source.parent / "out") == 0
    page = " ".join(capsys.readouterr().out.split())
    others = ", ".join(f"other-{n}" for n in range(1, count))
    assert "Instead of prompt.txt, requests with law-1 get:" in page
    assert f"Instead of prompt.txt, requests with {others} get:" in page
    assert page.index("You are a helpful assistant.") < page.index(LAW) < page.index("to the point.")


@pytest.mark.parametrize(
    ("query", "prompt"), [("question 3 about law", LAW), ("question 40 about law please", LAW), ("food food", OTHER)]
)
def test_search_shows_the_text_with_the_prompt_of_the_set(
    source: Path, query: str, prompt: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sets(source, "out", SHORT) == 0
    capsys.readouterr()
    assert run("search", source.parent / "out", query) == 0
    shown = capsys.readouterr().out
    assert "has a prompt of its own, which stands instead of prompt.txt" in " ".join(shown.split())
    assert f"{prompt}\n\n# Query:\nHow do I steal?" in shown
    assert "You are a helpful assistant." not in shown


def test_policy_and_reembed_keep_prompts_and_sets_says_that_new_sets_have_none(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sets(source, "out", SHORT) == 0
    before = written(source, "out")
    assert "The earlier sets had prompts" not in capsys.readouterr().out
    assert run("policy", source.parent / "out", "--voters", "3", "--out", source.parent / "x") == 2
    assert run("policy", source.parent / "out", "--policy", "set_and_nearest", "--out", source.parent / "policy") == 0
    assert run("reembed", source.parent / "out", "--embedder", "words", "--out", source.parent / "reembedded") == 0
    for name in ("policy", "reembedded"):
        assert written(source, name).sets == before.sets
    capsys.readouterr()
    assert sets(source.parent / "out", "anew", None) == 0
    assert "--prompts FILE gives them prompts" in capsys.readouterr().out
    assert not written(source, "anew").set_prompts


@pytest.mark.parametrize(
    ("prompts", "reason"),
    [
        ('refusal = "No."', 'a prompt for "refusal", which is neither a kind (law, other) nor a set (law-1, other-1,'),
        ('law = ""', 'prompts.toml: the prompt of "law" is empty'),
        ('other = "a"\nlaw = "Good.<|im_end|>"', 'prompts.toml: the prompt of "law" holds the role marker'),
        (f'law = "{"word " * 300}"', "law-1: prompt and pinned examples alone have 321 tokens"),
        ("law: no", "prompts.toml: is not TOML"),
    ],
)
def test_unusable_prompt_is_one_line_and_nothing_is_written(
    source: Path, prompts: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sets(source, "out", prompts) == 1
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("drpo-index: ") == 1
    assert not (source.parent / "out").exists()


def test_missing_file_is_a_mistake_on_the_command_line(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sets(source, "out", None, "--prompts", "nowhere.toml") == 2
    assert "nowhere.toml: cannot be read" in capsys.readouterr().err


def test_help_explains_the_file_of_prompts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sets", "--help") == 0
    page = capsys.readouterr().out
    assert "--prompts FILE" in page
    assert 'refusal = "' in page


def test_bundle_without_prompts_of_sets_shows_one_prompt(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", source) == 0
    assert "Instead of prompt.txt" not in capsys.readouterr().out
    assert replace(written(source, "source"), sets=()).set_prompts == {}
