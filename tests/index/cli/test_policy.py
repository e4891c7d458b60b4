"""Tests of `drpo-index policy`: it changes how a bundle retrieves, and measures the similarity floor."""

from dataclasses import replace
from pathlib import Path

import pytest

from index import __main__ as command
from index.bundle.bundle import load_bundle, write_bundle
from index.types import Bundle, Example, ExampleSet, RetrievalPolicy
from tests.index.commands import open_words, run
from tests.index.words import WordEmbedder, bundle_input

TOPICS = ("law", "food", "music")
EXAMPLES = tuple(Example(f"e{n}", f"question {n} about {TOPICS[n % 3]}", "An answer.") for n in range(30))
SETS = tuple(
    ExampleSet(topic, (f"e{n}", f"e{n + 3}"), tuple(f"e{m}" for m in range(n, 30, 3)), kind)
    for n, (topic, kind) in enumerate(zip(TOPICS, ("other", "other", "refusal"), strict=True))
)


@pytest.fixture(autouse=True)
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "open_embedder", open_words)


@pytest.fixture
def in_sets(tmp_path: Path) -> Path:
    source = replace(bundle_input(EXAMPLES, policy=RetrievalPolicy("set", minimum_similarity=-1.0)), sets=SETS)
    write_bundle(tmp_path / "in-sets", source, WordEmbedder())
    return tmp_path / "in-sets"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "plain", bundle_input(EXAMPLES), WordEmbedder())
    return tmp_path / "plain"


def queries(tmp_path: Path, form: str) -> Path:
    """Write 19 queries like the bank's, one unlike them, and two of the bank itself, which do not count.

    Return the file.
    """
    texts = [f"question {n} about {TOPICS[n % 3]} and more" for n in range(19)]
    texts += ["xyzzy plugh", EXAMPLES[0].query, f" {EXAMPLES[1].query} "]
    place = tmp_path / f"queries.{form}"
    lines = texts if form == "txt" else [f'{{"split": "train", "query": "{text}"}}' for text in texts]
    place.write_text("\n".join(lines), encoding="utf-8")
    return place


def written(place: Path) -> Bundle:
    return load_bundle(place, WordEmbedder())


@pytest.mark.parametrize("form", ["jsonl", "txt"])
def test_floor_is_measured_and_stored_with_a_neutral_set_of_the_kind_other(
    in_sets: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("policy", in_sets, "--queries", queries(tmp_path, form), "--out", tmp_path / "out") == 0
    before, after = written(in_sets), written(tmp_path / "out")
    policy = after.manifest.retrieval
    assert policy.similarity_floor is not None
    assert policy.neutral_set in ("law", "food")
    assert replace(policy, similarity_floor=None, neutral_set=None) == before.manifest.retrieval
    assert (after.sets, after.examples, after.prompt) == (before.sets, before.examples, before.prompt)
    assert "1 of 20 queries are below it" in capsys.readouterr().out
    capsys.readouterr()
    for text, below in (("xyzzy plugh", True), ("question 40 about music", False)):
        assert run("search", tmp_path / "out", text) == 0
        assert (f"neutral set {policy.neutral_set}" in " ".join(capsys.readouterr().out.split())) is below


def test_without_out_the_floor_is_measured_and_nothing_is_written(
    in_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    place = queries(tmp_path, "txt")
    assert run("policy", in_sets, "--queries", place, "--share-below", "0.1") == 0
    assert sorted(tmp_path.rglob("*")) == sorted([*before, place])
    assert "similarity floor" in (out := capsys.readouterr().out)
    assert "nothing was written" in out


def test_values_of_the_policy_are_replaced(in_sets: Path, tmp_path: Path) -> None:
    flags = ["--policy", "set_and_nearest", "--k", "2", "--max-nearest-tokens", "64", "--max-injected-tokens", "900"]
    assert run("policy", in_sets, *flags, "--out", tmp_path / "out") == 0
    changed = RetrievalPolicy(
        "set_and_nearest", k=2, minimum_similarity=-1.0, max_nearest_tokens=64, max_injected_tokens=900
    )
    assert written(tmp_path / "out").manifest.retrieval == changed


def test_search_says_whether_an_example_is_in_the_set_or_among_the_nearest(
    in_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("policy", in_sets, "--policy", "set_and_nearest", "--k", "2", "--out", tmp_path / "out") == 0
    capsys.readouterr()
    assert run("search", tmp_path / "out", "question 0 about law") == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    parts = [" ".join(row.split("│")[2].split()) for row in rows]
    assert [part for part in parts if part] == ["set law", "set law", "nearest"]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--policy", "set"], "the bundle has no sets. Make them with `drpo-index sets`"),
        (["--policy", "set_and_nearest"], "the bundle has no sets"),
        (["--policy", "cached"], "invalid choice: 'cached'"),
        (["--similarity-floor", "2"], "is no cosine"),
        (["--neutral-set", "law"], "sets.json"),
        (["--max-nearest-tokens", "0"], "is not a whole number of at least 1"),
        (["--share-below", "5"], "is no share. Write a number from 0 to 1"),
        (["--queries", "nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
        (["--queries", "nowhere.jsonl", "--similarity-floor", "0.2"], "not allowed with argument"),
    ],
)
def test_error_of_the_command_is_one_line_and_nothing_is_written(
    plain: Path, tmp_path: Path, flags: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("policy", plain, *flags, "--out", tmp_path / "out") in (1, 2)
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["nothing", "music"])
def test_neutral_set_must_exist_and_must_not_be_of_a_separate_kind(
    in_sets: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("policy", in_sets, "--neutral-set", name, "--out", tmp_path / "out") == 1
    advice = 'Set "neutral_set" in the manifest to a set of the kind other: law, food'
    assert advice in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "there is no query"),
        ('{"question": "a"}', 'line 1: must be an object with a string "query"'),
        ('{"query": ""}', 'a string "query" that is not empty'),
        ('["a"]', "is a JSON list, and no JSONL"),
        ("What is law?", "line 1: is not valid JSON"),
        ('{"query": "only one"}', "too few queries. To measure a floor"),
    ],
)
def test_unusable_file_of_queries_is_an_error(
    plain: Path, tmp_path: Path, content: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "queries.jsonl").write_text(content, encoding="utf-8")
    assert run("policy", plain, "--queries", tmp_path / "queries.jsonl") == 1
    assert reason in capsys.readouterr().err
