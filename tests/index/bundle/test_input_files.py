import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from index.bundle.bundle import load_bundle, write_bundle
from index.errors import BundleError, BundleFormatError, BundleIntegrityError
from index.layouts import LAYOUTS, find_marker
from index.types import Example, ExampleSet, Order, PolicyName, RetrievalPolicy
from tests.index.words import EXAMPLES, WordEmbedder, bundle_input

harmless = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
    lambda text: bool(text.strip()) and find_marker(text) is None
)
lines = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
ids = st.text("abcXYZ019._-", min_size=1, max_size=64)
banks = st.lists(
    st.builds(Example, ids, harmless, harmless, st.booleans(), st.lists(lines, max_size=2).map(tuple)),
    min_size=1,
    max_size=6,
    unique_by=lambda example: example.id,
)
policies = st.builds(
    RetrievalPolicy,
    policy=st.sampled_from(get_args(PolicyName)),
    k=st.integers(0, 1_000),
    voters=st.integers(1, 1_000),
    minimum_similarity=st.floats(-1, 1),
    duplicate_similarity=st.floats(-1, 1),
    order=st.sampled_from(get_args(Order)),
    max_injected_tokens=st.integers(1, 10**9),
    max_nearest_tokens=st.none() | st.integers(1, 10**9),
    similarity_floor=st.none() | st.floats(-1, 1),
    neutral_set=st.just("all"),
)
samplings = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0, 2),
        "max_tokens": st.integers(1, 10**6),
        "top_k": st.integers(-1, 100),
        "stop": st.lists(lines, min_size=1) | lines,
        "frequency_penalty": st.floats(-2, 2),
    },
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | harmless,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(harmless, inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60)
@given(
    banks,
    harmless,
    policies,
    samplings,
    st.sampled_from(list(LAYOUTS)),
    st.dictionaries(harmless, json_values, max_size=3),
)
def test_any_written_bundle_is_loaded_unchanged(
    examples: list[Example],
    prompt: str,
    policy: RetrievalPolicy,
    sampling: dict[str, object],
    layout: str,
    provenance: dict[str, object],
) -> None:
    free = tuple(example.id for example in examples if not example.pinned)
    assume(free or not policy.has_sets)
    sets = (ExampleSet("all", free[:2], free),) if policy.has_sets else ()
    made = replace(bundle_input(examples, prompt, policy, sampling, layout), provenance=provenance, sets=sets)
    with tempfile.TemporaryDirectory() as parent:
        target = Path(parent) / "bundle"
        write_bundle(target, made, WordEmbedder())
        loaded = load_bundle(target, WordEmbedder())
    assert (loaded.examples, loaded.prompt, loaded.sets) == (tuple(examples), prompt, sets)
    assert (loaded.manifest.retrieval, loaded.manifest.layout) == (policy, layout)
    assert (loaded.manifest.sampling, loaded.manifest.provenance) == (sampling, provenance)


class NeverEmbeds(WordEmbedder):
    def embed(self, texts: object) -> Any:
        raise AssertionError("invalid input must be refused before anything is embedded")


@pytest.mark.parametrize(
    ("bad", "kind", "parts"),
    [
        (bundle_input(examples=[]), BundleFormatError, ["examples.jsonl", "no example"]),
        (
            bundle_input(examples=[EXAMPLES[0], EXAMPLES[0]]),
            BundleFormatError,
            ["examples.jsonl, line 2", "is taken by line 1"],
        ),
        (bundle_input(examples=[Example("a", "\ud800", "r")]), BundleFormatError, ["examples.jsonl", "surrogate"]),
        (
            bundle_input(examples=[Example("a", "q", "User: x")]),
            BundleIntegrityError,
            ["examples.jsonl", "role marker"],
        ),
        (bundle_input(prompt="\ud800"), BundleFormatError, ["prompt.txt", "surrogate"]),
        (bundle_input(prompt=""), BundleFormatError, ["prompt.txt", "empty"]),
        (bundle_input(layout="xml"), BundleFormatError, ["manifest.json", '"layout"']),
        (bundle_input(sampling={"temprature": 1}), BundleFormatError, ["manifest.json, sampling", '"temperature"']),
        (bundle_input(sampling={"temperature": float("nan")}), BundleFormatError, ["cannot be written as JSON"]),
        (replace(bundle_input(), provenance={"when": object()}), BundleFormatError, ["cannot be written as JSON"]),
        (replace(bundle_input(), provenance={"who": "\ud800"}), BundleFormatError, ["cannot be written as JSON"]),
        (replace(bundle_input(), name=""), BundleFormatError, ["manifest.json", '"name"']),
    ],
)
def test_invalid_input_is_refused_before_anything_is_embedded(
    tmp_path: Path, bad: Any, kind: type[BundleError], parts: list[str]
) -> None:
    with pytest.raises(kind) as caught:
        write_bundle(tmp_path / "bundle", bad, NeverEmbeds())
    assert all(part in str(caught.value) for part in parts)
    assert list(tmp_path.iterdir()) == []
