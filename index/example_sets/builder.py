"""Turns a bundle into the input for a new bundle, whose bank is partitioned into example sets.

index/example_sets/partition.py makes the partition. This module counts the tokens of the bundle's texts with the
tokenizer.json of a model, calls partition.py, and returns a `BundleInput` that contains the bundle's texts and the new
sets. `write_bundle` can write this input as a new bundle. This module does not depend on servers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from index.bundle.bundle import LARGE_BANK
from index.bundle.bundle_input import BundleInput, as_input
from index.bundle.sets_file import OTHER, with_prompts
from index.errors import BundleError
from index.example_sets.partition import PartitionSpec, TokenLengths, partition_into_sets
from index.layouts import LAYOUTS
from index.rendering import render_example, render_preamble
from index.retrieval.retriever import pinned
from index.retrieval.selection import max_nearest_tokens
from index.types import Bundle, Example, ExampleSet, RetrievalPolicy, Vectors


def partition_bundle(
    bundle: Bundle,
    spec: PartitionSpec,
    policy: RetrievalPolicy,
    tokenizer: Path,
    prompts: Mapping[str, str] = MappingProxyType({}),
) -> BundleInput:
    """Return the input for a new bundle: the texts of the given bundle, and its bank partitioned into example sets.

    The new bundle has the given policy, with two changes. `max_injected_tokens` is raised if the prompt, all pinned
    examples, the longest set and the nearest examples together have more tokens. The neutral set is the one that
    `choose_neutral` returns. If it returns None, the new bundle has no similarity floor.

    Args:
        bundle: The bundle. Its bank must have at most 50,000 examples.
        spec: The number and the size of the sets.
        policy: The retrieval policy of the new bundle: `set` or `set_and_nearest`.
        tokenizer: The tokenizer.json of the model that will be served.
        prompts: Prompts of the new sets, by the name of a set or of a kind. The room for the examples of a set depends
            on the length of its prompt.

    Raises:
        BundleError: The bank has more than 50,000 examples, no partition satisfies the spec, the tokenizer cannot be
            read, or a prompt is for a set or a kind that does not exist.
    """
    if bundle.clusters is not None:
        raise BundleError(
            f"{bundle.manifest.name}: its bank has {len(bundle.examples):,} examples. Only a bank of at most "
            f"{LARGE_BANK:,} examples can be partitioned into sets. Build the bundle again with fewer examples"
        )
    lengths = token_lengths(bundle, tokenizer, prompts)
    sets = with_prompts(partition_into_sets(bundle.examples, bundle.vectors, lengths, spec), prompts)
    neutral = choose_neutral(sets, bundle.examples, bundle.vectors)
    retrieval = replace(
        policy,
        max_injected_tokens=max(policy.max_injected_tokens, _most_tokens(bundle.examples, sets, lengths, policy)),
        neutral_set=neutral,
        similarity_floor=policy.similarity_floor if neutral is not None else None,
    )
    provenance = {**bundle.manifest.provenance, "sets": _spec_record(spec)}
    return replace(as_input(bundle), retrieval=retrieval, provenance=provenance, sets=sets)


def choose_neutral(sets: Sequence[ExampleSet], examples: Sequence[Example], vectors: Vectors) -> str | None:
    """Return the name of the neutral set: the set for queries that are unlike every example.

    It is the set of the kind `other` whose shown examples cover the queries of the whole bank best. The coverage of a
    query is its similarity to the nearest shown example. If no set has the kind `other`, the result is None.

    Args:
        sets: The example sets.
        examples: The bank.
        vectors: The vectors of the examples' queries: (examples, dimension), rows of norm 1.
    """
    positions = {example.id: n for n, example in enumerate(examples)}
    coverage = {
        one.name: float((vectors @ vectors[[positions[name] for name in one.shown]].T).max(axis=1).sum())
        for one in sets
        if one.kind == OTHER
    }
    return max(coverage, key=lambda name: coverage[name], default=None)


def _most_tokens(
    examples: Sequence[Example], sets: Sequence[ExampleSet], lengths: TokenLengths, policy: RetrievalPolicy
) -> int:
    """Return the number of tokens of the prompt, all pinned examples, the longest set and the nearest examples."""
    by_id = {one.id: int(length) for one, length in zip(examples, lengths.examples, strict=True)}
    longest = max(lengths.before(one.name, one.kind) + sum(by_id[name] for name in one.shown) for one in sets)
    return longest + max_nearest_tokens(policy, [by_id[one.id] for one in examples if not one.pinned])


def token_lengths(bundle: Bundle, tokenizer: Path, prompts: Mapping[str, str] = MappingProxyType({})) -> TokenLengths:
    """Count the tokens of a bundle's prompt and examples, rendered in the bundle's layout.

    If the tokenizer puts a special token before each text, this token is counted only for the prompt.

    Args:
        bundle: The bundle.
        tokenizer: The tokenizer.json of a model.
        prompts: Prompts of sets, by the name of a set or of a kind.

    Raises:
        BundleError: The file cannot be read as a tokenizer.json.
    """
    from tokenizers import Tokenizer  # imported here, because the import is slow and few commands need it

    try:
        counter = Tokenizer.from_str(tokenizer.read_text(encoding="utf-8"))
    except Exception as error:  # noqa: BLE001 - tokenizers raises a bare Exception for a file that it cannot read
        raise BundleError(f"{tokenizer}: cannot be read as a tokenizer.json: {error}") from None
    # A tokenizer.json can configure truncation and padding, which would change the counts.
    counter.no_truncation()
    counter.no_padding()
    encode = counter.encode
    layout, always = LAYOUTS[bundle.manifest.layout], pinned(bundle)
    fixed, *own = [
        len(encode(render_preamble(layout, prompt, always)).ids) for prompt in (bundle.prompt, *prompts.values())
    ]
    texts = [render_example(layout, example) for example in bundle.examples]
    lengths = np.array([len(encode(text, add_special_tokens=False).ids) for text in texts], np.int64)
    return TokenLengths(fixed, lengths, dict(zip(prompts, own, strict=True)))


def _spec_record(spec: PartitionSpec) -> dict[str, object]:
    """Return the JSON object that describes a partition spec in the provenance of a bundle."""
    return {
        "count": spec.count,
        "tokens": spec.tokens,
        "apart": {tag: {"weight": one.weight, "count": one.count} for tag, one in spec.separate_tags.items()},
        "minimum_similarity": spec.minimum_similarity,
        "shortest_answer": spec.min_answer_words,
    }
