import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index import __main__ as command
from index.bundle.bundle import load_bundle, write_bundle
from index.bundle.bundle_input import BundleInput
from index.bundle.sets_file import parse_sets, restrict_sets, sets_bytes
from index.errors import BundleError, BundleFormatError
from index.example_sets.builder import token_lengths
from index.example_sets.partition import PartitionSpec, SeparateTag, TokenLengths, partition_into_sets
from index.layouts import LAYOUTS
from index.rendering import render_preamble
from index.retrieval.retriever import Retriever, pinned
from index.retrieval.selection import select_without_costs
from index.retrieval.vote import choose_set
from index.types import Bundle, Example, ExampleSet, RetrievalPolicy
from tests.index.commands import open_words, run
from tests.index.words import EXAMPLES, WordEmbedder, bundle_input
from tests.random_examples import examples

FOOD = ExampleSet("food", ("haiku", "boil"), ("boil", "haiku"))
PLACES = ExampleSet("places", ("france",), ("france", "japan"))
POLICY = RetrievalPolicy("set", voters=3, minimum_similarity=-1.0)
TOKENIZER = Path(command.__file__).parent / "embedders" / "minilm_tokenizer" / "tokenizer.json"


def with_sets(sets: Sequence[ExampleSet] = (FOOD, PLACES), policy: RetrievalPolicy = POLICY) -> BundleInput:
    return replace(bundle_input(policy=policy), sets=sets)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    write_bundle(tmp_path / "bundle", with_sets(), WordEmbedder())
    return load_bundle(tmp_path / "bundle", WordEmbedder())


def shown(bundle: Bundle, query: str) -> list[str]:
    retrieved = Retriever(bundle).choose(WordEmbedder().embed([query])[0])
    policy = bundle.manifest.retrieval
    return [example.id for example in select_without_costs(policy, (), retrieved).in_order(policy.order)]


def test_query_is_shown_the_whole_set_of_its_neighbours_in_order(bundle: Bundle) -> None:
    assert bundle.sets == (FOOD, PLACES)
    assert shown(bundle, "How do I boil an egg?") == ["haiku", "boil"]
    assert shown(bundle, "What is the capital of Japan?") == ["france"]


def test_shown_example_has_its_own_similarity_to_the_query(bundle: Bundle) -> None:
    query = WordEmbedder().embed(["Write a haiku about eggs"])[0]
    for hit in Retriever(bundle).choose(query).in_set:
        assert hit.similarity == pytest.approx(float(bundle.vectors[hit.position] @ query), abs=1e-6)
        assert bundle.examples[hit.position] == hit.example


def test_weight_moves_queries_to_its_set(tmp_path: Path) -> None:
    query = "How do I boil an egg in the capital of Japan"
    for weight, expected in ((1.0, ["haiku", "boil"]), (100.0, ["france"])):
        write_bundle(tmp_path / f"{weight}", with_sets((FOOD, replace(PLACES, weight=weight))), WordEmbedder())
        assert shown(load_bundle(tmp_path / f"{weight}", WordEmbedder()), query) == expected


def test_no_neighbour_votes_below_the_minimum_similarity_of_the_policy(tmp_path: Path) -> None:
    strict = replace(POLICY, minimum_similarity=0.999)
    write_bundle(tmp_path / "strict", with_sets(policy=strict), WordEmbedder())
    bundle = load_bundle(tmp_path / "strict", WordEmbedder())
    assert shown(bundle, "something else altogether") == []
    assert shown(bundle, "What is the capital of Japan?") == ["france"]


def test_neighbour_below_the_minimum_of_its_set_does_not_vote(tmp_path: Path) -> None:
    query = "What is the capital of Japan and how do I boil an egg for a haiku?"
    for least, expected in ((0.0, ["france"]), (0.999, ["haiku", "boil"])):
        asking = replace(PLACES, kind="places", weight=100.0, minimum_similarity=least)
        write_bundle(tmp_path / f"{least}", with_sets((FOOD, asking)), WordEmbedder())
        assert shown(load_bundle(tmp_path / f"{least}", WordEmbedder()), query) == expected


def test_votes_for_the_sets_of_a_kind_are_added() -> None:
    hits = list(enumerate((0.5, 0.45, 0.45)))
    one, two, three = (ExampleSet(name, (), (), kind) for name, kind in (("a", "x"), ("b", "y"), ("c", "y")))
    assert choose_set(hits, {0: (0, one), 1: (1, two), 2: (2, three)}) == 1
    assert choose_set(hits, {0: (0, one), 1: (1, replace(two, kind="z")), 2: (2, three)}) == 0
    assert choose_set(hits, {}) is None


def test_all_neighbours_vote_if_all_are_below_the_minimum_of_their_sets() -> None:
    hits = list(enumerate((0.25, 0.2)))
    one, two = (ExampleSet(name, (), (), name, minimum_similarity=0.3) for name in "ab")
    assert choose_set(hits, {0: (0, one), 1: (1, two)}) == 0
    assert choose_set(hits, {0: (0, one), 1: (1, replace(two, minimum_similarity=-1.0))}) == 1


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (b"{}", "must be a list of at least one set"),
        (b"[]", "must be a list of at least one set"),
        (sets_bytes((replace(FOOD, shown=("lock",)),)), "or is pinned"),
        (sets_bytes((replace(FOOD, members=("nobody",)),)), "is no example of the bank"),
        (sets_bytes((replace(FOOD, shown=()),)), "is empty"),
        (sets_bytes((replace(FOOD, members=()),)), "is empty"),
        (sets_bytes((replace(FOOD, shown=("boil", "boil")),)), 'the example "boil" appears twice'),
        (sets_bytes((FOOD, replace(PLACES, members=("boil",)))), 'the voter "boil" appears twice'),
        (sets_bytes((FOOD, replace(PLACES, name="food"))), 'the name "food" appears twice'),
        (sets_bytes((replace(FOOD, name="a b"),)), '"name" must be 1 to 64 letters'),
        (sets_bytes((replace(FOOD, weight=0.0),)), '"weight" must be a number'),
        (sets_bytes((replace(FOOD, kind=" "),)), '"kind" must be a string of one line'),
        (sets_bytes((replace(FOOD, minimum_similarity=1.5),)), '"minimum_similarity" must be a number from -1 to 1'),
    ],
)
def test_invalid_sets_are_refused_with_the_reason(broken: bytes, reason: str) -> None:
    with pytest.raises(BundleFormatError, match=reason):
        parse_sets(broken, EXAMPLES, "sets.json")


def test_input_with_invalid_sets_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(BundleFormatError, match="is no example of the bank"):
        write_bundle(tmp_path / "bundle", with_sets((replace(FOOD, members=("nobody",)),)), WordEmbedder())
    assert not list(tmp_path.iterdir())


def test_changed_sets_file_is_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle", with_sets(), WordEmbedder())
    place = tmp_path / "bundle" / "sets.json"
    place.write_bytes(place.read_bytes().replace(b"haiku", b"japan", 1))
    with pytest.raises(BundleError, match=r"sets\.json"):
        load_bundle(tmp_path / "bundle", WordEmbedder())


def test_sets_lose_removed_and_pinned_examples_and_empty_sets_are_removed() -> None:
    fewer = tuple(example for example in EXAMPLES if example.id not in ("haiku", "france"))
    assert restrict_sets((FOOD, PLACES), fewer) == (ExampleSet("food", ("boil",), ("boil",)),)


# Partition


def bank(count: int, seed: int) -> tuple[tuple[Example, ...], TokenLengths]:
    """Return examples with random lengths. Every third has a tag, and the first is pinned."""
    draw = np.random.default_rng(seed)
    examples = tuple(
        Example(f"e{n}", f"words {n} {n % 7}", "r", pinned=n == 0, tags=("refusal",) if n % 3 == 0 else ())
        for n in range(count)
    )
    return examples, TokenLengths(100, draw.integers(20, 120, count).astype(np.int64))


@examples(10, more=100)
def test_set_ends_just_past_a_block_and_unpinned_examples_vote_once(number: int) -> None:
    @settings(max_examples=number)
    @given(count=st.integers(60, 200), sets=st.integers(3, 20), seed=st.integers(0, 9), apart=st.integers(1, 2))
    def check(count: int, sets: int, seed: int, apart: int) -> None:
        examples, lengths = bank(count, seed)
        vectors = WordEmbedder().embed([example.query for example in examples])
        found = partition_into_sets(
            examples, vectors, lengths, PartitionSpec(sets, 512, {"refusal": SeparateTag(1.5, apart)}, 0.3)
        )
        cost = {one.id: int(length) for one, length in zip(examples, lengths.examples, strict=True)}
        assert all(512 <= lengths.fixed + sum(cost[name] for name in one.shown) <= 512 + 64 for one in found)
        assert sorted(voter for one in found for voter in one.members) == sorted(
            one.id for one in examples if not one.pinned
        )
        assert {(one.kind, one.weight, one.minimum_similarity) for one in found} == {
            ("refusal", 1.5, 0.3),
            ("other", 1.0, -1.0),
        }
        of_kind = [one for one in found if one.kind == "refusal"]
        assert len(of_kind) <= apart
        assert len(found) - len(of_kind) <= sets - apart
        if count >= 100 and sets >= 6:
            assert len(found) > 2
        by_id = {one.id: one for one in examples}
        for one in found:
            assert len({"refusal" in by_id[name].tags for name in (*one.shown, *one.members)}) == 1
        assert parse_sets(sets_bytes(found), examples, "sets.json") == found

    check()


def test_short_answer_is_a_member_but_shown_only_in_a_set_of_a_separate_tag() -> None:
    examples, lengths = bank(150, 0)
    examples = tuple(replace(one, response="r " * (1 + n % 9)) for n, one in enumerate(examples))
    vectors = WordEmbedder().embed([example.query for example in examples])
    found = partition_into_sets(
        examples, vectors, lengths, PartitionSpec(5, 512, {"refusal": SeparateTag()}, min_answer_words=5)
    )
    by_id = {one.id: one for one in examples}
    shortest = {
        kind: min(len(by_id[name].response.split()) for one in found if one.kind == kind for name in one.shown)
        for kind in ("refusal", "other")
    }
    assert shortest["other"] >= 5 > shortest["refusal"]
    assert len([voter for one in found for voter in one.members]) == 149


def test_unsatisfiable_lengths_are_an_error_with_advice() -> None:
    examples, _ = bank(60, 0)
    vectors = WordEmbedder().embed([example.query for example in examples])
    long = TokenLengths(100, np.full(60, 4000))
    with pytest.raises(BundleError, match="Try another number of tokens, or allow shorter answers"):
        partition_into_sets(examples, vectors, long, PartitionSpec(4, 512, {}))


# The command


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(command, "open_embedder", open_words)
    examples = tuple(
        Example(
            f"e{n}",
            f"question {n} about {'law' if n % 2 else 'food'}",
            "word " * (5 + 7 * n % 40),
            tags=("law",) * (n % 2) + ("other", "a tag") * (n == 2),
        )
        for n in range(80)
    )
    write_bundle(tmp_path / "source", bundle_input(examples), WordEmbedder())
    return tmp_path / "source"


def test_sets_command_writes_the_same_bundle_with_sets(source: Path, tmp_path: Path) -> None:
    flags = ["--tokenizer", TOKENIZER, "--count", "6", "--tokens", "256", "--apart", "law=2:2"]
    assert run("sets", source, *flags, "--out", tmp_path / "out") == 0
    before, after = (load_bundle(place, WordEmbedder()) for place in (source, tmp_path / "out"))
    assert (after.prompt, after.examples, after.manifest.layout) == (
        before.prompt,
        before.examples,
        before.manifest.layout,
    )
    policy = after.manifest.retrieval
    assert (policy.policy, policy.voters, policy.similarity_floor) == ("set", 12, None)
    assert policy.neutral_set in [one.name for one in after.sets if one.kind == "other"]
    assert {one.name.partition("-")[0]: one.weight for one in after.sets} == {"law": 2.0, "other": 1.0}
    assert [one.kind for one in after.sets].count("law") == 2
    by_id = {one.id: one for one in after.examples}
    lengths = token_lengths(after, TOKENIZER)
    for one in after.sets:
        texts = [*pinned(after), *(by_id[name] for name in one.shown)]
        whole = replace(after, prompt=render_preamble(LAYOUTS["query-answer"], after.prompt, texts))
        assert 0 <= token_lengths(whole, TOKENIZER).fixed % 128 <= 64 or lengths.fixed > 256


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--tokenizer", "nowhere.json"], "cannot be read as a tokenizer.json"),
        (["--tokenizer", str(TOKENIZER), "--tokens", "8"], "Allow more tokens"),
        (["--tokenizer", str(TOKENIZER), "--count", "0"], "is not a whole number of at least 1"),
        (["--tokenizer", str(TOKENIZER), "--apart", "law=x"], "is not of the form TAG, TAG=WEIGHT or TAG=WEIGHT:SETS"),
        (["--tokenizer", str(TOKENIZER), "--apart", "=2"], "is not of the form TAG"),
        (["--tokenizer", str(TOKENIZER), "--apart", "law=nan"], "is not of the form TAG"),
        (["--tokenizer", str(TOKENIZER), "--apart", "law=1000"], "with a weight from 0.01 to 100"),
        (["--tokenizer", str(TOKENIZER), "--apart", "low"], 'has the tag "low"'),
        (["--tokenizer", str(TOKENIZER), "--apart", "law:3"], 'has the tag "law:3"'),
        (["--tokenizer", str(TOKENIZER), "--apart", "other"], 'the tag "other" cannot name sets'),
        (["--tokenizer", str(TOKENIZER), "--apart", "a tag"], 'the tag "a tag" cannot name sets'),
        (["--tokenizer", str(TOKENIZER), "--apart", "law", "--apart", "law=2"], "a tag is named twice"),
        (["--tokenizer", str(TOKENIZER), "--shortest-answer", "-5"], "is not a whole number of at least 0"),
        (["--tokenizer", str(TOKENIZER), "--apart", "law=1:0"], "is not a whole number of at least 1"),
        (["--tokenizer", str(TOKENIZER), "--apart", "law=1:16"], "sets are for separate tags"),
        (["--tokenizer", str(TOKENIZER), "--count", "4000"], "make fewer sets"),
        (["--tokenizer", str(TOKENIZER), "--shortest-answer", "500"], "has 500 words: allow shorter answers"),
        (["--tokenizer", str(TOKENIZER), "--minimum-similarity", "2"], "is no cosine"),
    ],
)
def test_error_of_the_sets_command_is_one_line(
    source: Path, tmp_path: Path, flags: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("sets", source, *flags, "--out", tmp_path / "out") in (1, 2)
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_sets_file_is_plain_json(bundle: Bundle, tmp_path: Path) -> None:
    names = [one["name"] for one in json.loads((tmp_path / "bundle" / "sets.json").read_bytes())]
    assert names == ["food", "places"]
