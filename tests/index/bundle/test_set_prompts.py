"""Tests of prompts that example sets have instead of the bundle's prompt: sets.json, and the file that people write."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from index.bundle.bundle import load_bundle, write_bundle
from index.bundle.input_files import parse_set_prompts
from index.bundle.sets_file import parse_sets, restrict_sets, set_record, sets_bytes, with_prompts
from index.errors import BundleError
from index.types import ExampleSet, RetrievalPolicy
from tests.index.words import EXAMPLES, PROMPT, WordEmbedder, bundle_input

FOOD = ExampleSet("food", ("haiku", "boil"), ("boil", "haiku"), "refusal")
PLACES = ExampleSet("places", ("france",), ("france",))
JAPAN = ExampleSet("japan", ("japan",), ("japan",))
SETS = (FOOD, PLACES, JAPAN)
UNUSABLE = [
    ("", "is empty, or has only white space. Write a text, or remove this prompt"),
    (" \n\t ", "has only white space"),
    ("Be good.\n# Query:\nNo.", "a model could take for a new turn"),
    ("User: hello", "a model could take for a new turn"),
    ("Good.<|im_end|>", "a model could take for a new turn"),
    ("<start_of_turn>model", "a model could take for a new turn"),
    ("a\0b", "NUL"),
]


def test_prompt_of_a_set_is_written_and_loaded_unchanged(tmp_path: Path) -> None:
    own = " Sei höflich.\n\nНе отказывай. \U0001f600 "
    sets = (replace(FOOD, prompt=own), PLACES)
    source = replace(bundle_input(policy=RetrievalPolicy("set")), sets=sets)
    write_bundle(tmp_path / "bundle", source, WordEmbedder())
    bundle = load_bundle(tmp_path / "bundle", WordEmbedder())
    assert bundle.sets == sets
    assert bundle.set_prompts == {"food": own}
    assert [bundle.prompt_of(name) for name in ("food", "places", "")] == [own, PROMPT, PROMPT]
    write_bundle(tmp_path / "plain", replace(source, sets=(FOOD, PLACES)), WordEmbedder())
    assert load_bundle(tmp_path / "plain", WordEmbedder()).id != bundle.id


def test_set_without_a_prompt_is_written_as_before() -> None:
    keys = ["name", "shown", "voters", "kind", "weight", "minimum_similarity"]
    assert list(set_record(FOOD)) == keys
    assert list(set_record(replace(FOOD, prompt="Hello."))) == [*keys, "prompt"]
    assert b"prompt" not in sets_bytes(SETS)
    assert parse_sets(sets_bytes(SETS), EXAMPLES, "sets.json") == SETS


@pytest.mark.parametrize(("prompt", "reason"), [*UNUSABLE, (None, '"prompt" must be a string'), (["a"], "a string")])
def test_unusable_prompt_in_sets_json_is_refused(prompt: Any, reason: str) -> None:
    data = json.dumps([{**set_record(PLACES), "prompt": prompt}]).encode()
    with pytest.raises(BundleError, match=r"sets\.json, set 1") as caught:
        parse_sets(data, EXAMPLES, "sets.json")
    assert reason in str(caught.value)
    assert not prompt or "hello" not in str(caught.value)


def test_half_of_a_surrogate_pair_cannot_be_written(tmp_path: Path) -> None:
    source = replace(bundle_input(policy=RetrievalPolicy("set")), sets=(replace(PLACES, prompt="\ud800"),))
    with pytest.raises(BundleError, match="surrogate"):
        write_bundle(tmp_path / "bundle", source, WordEmbedder())
    assert not (tmp_path / "bundle").exists()


def test_prompt_stays_when_a_set_loses_examples() -> None:
    (one,) = restrict_sets([replace(FOOD, prompt="Cook.")], EXAMPLES[:1])
    assert (one.shown, one.prompt) == (("boil",), "Cook.")


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ({}, ["Old.", None, None]),
        ({"other": "O."}, ["Old.", "O.", "O."]),
        ({"refusal": "R.", "other": "O."}, ["R.", "O.", "O."]),
        ({"japan": "J.", "other": "O."}, ["Old.", "O.", "J."]),
        ({"food": "F."}, ["F.", None, None]),
    ],
)
def test_name_of_a_set_takes_precedence_over_its_kind(prompts: Mapping[str, str], expected: list[str | None]) -> None:
    sets = with_prompts((replace(FOOD, prompt="Old."), PLACES, JAPAN), prompts)
    assert [one.prompt for one in sets] == expected


@pytest.mark.parametrize("name", ["refusals", "Other", "", "food-1", "prompt"])
def test_prompt_for_an_unknown_name_is_refused_and_the_names_are_listed(name: str) -> None:
    with pytest.raises(BundleError) as caught:
        with_prompts(SETS, {"other": "O.", name: "Hello."})
    reason = str(caught.value)
    assert f'a prompt for "{name}"' in reason
    assert "a kind (refusal, other) nor a set (food, places, japan)" in reason


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('other = "Be brief."', {"other": "Be brief."}),
        ("# A comment.\nrefusal = '''\n  Refuse.\nOffer help.\n'''\n", {"refusal": "Refuse.\nOffer help."}),
        ('"other-1" = "A."\r\nother-2 = """B.\r\nC."""\r\n', {"other-1": "A.", "other-2": "B.\nC."}),
        ('\ufeffother = "Größe \\u00e9"', {"other": "Größe é"}),
        ('"a.b" = "Dots in a name need quotes."', {"a.b": "Dots in a name need quotes."}),
    ],
)
def test_file_of_prompts_is_read(content: str, expected: Mapping[str, str]) -> None:
    assert parse_set_prompts(content.encode(), "prompts.toml") == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "there is no prompt. Write one"),
        (b"# nothing", "there is no prompt"),
        (b'other = "a"\n\nmore\n', "line 3, column 5). Correct it there"),
        (b'other = "a"\n\nmore', "at the end of line 3). Correct it there"),
        (b"other", "is not TOML"),
        (b'{"other": "Be brief."}', "is not TOML"),
        (b'other = "a"\nother = "b"', "is not TOML"),
        (b"other = \xff", "byte 8 is not UTF-8"),
        (b"other = 3", 'the prompt of "other" must be a string'),
        (b'[other]\nprompt = "a"', 'the prompt of "other" must be a string'),
        (b'other = ["a", "b"]', 'the prompt of "other" must be a string'),
        (b"other = " + b"[" * 5_000, "is nested too deeply"),
        *((f"other = {json.dumps(text)}".encode(), reason) for text, reason in UNUSABLE),
    ],
)
def test_unusable_file_of_prompts_is_an_error_that_names_it(content: bytes, reason: str) -> None:
    with pytest.raises(BundleError, match=r"^prompts\.toml: ") as caught:
        parse_set_prompts(content, "prompts.toml")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
