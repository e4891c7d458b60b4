"""From a bundle to the draft of the same bundle in sets (index/example_sets/partition.py makes them). Knows the
tokenizer.json beside a
model's weights, and no server."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from index.bundle.bundle import BundleDraft
from index.errors import BundleError
from index.example_sets.partition import Lengths, Wish, part_into_sets
from index.rendering import LAYOUTS, render_example, render_preamble
from index.retrieval.retriever import pinned
from index.types import Bundle


def in_sets(bundle: Bundle, wish: Wish, voters: int, tokenizer: Path) -> BundleDraft:
    """`voters`: how many nearest examples decide which set a query is shown. BundleError: nothing can be parted so."""
    manifest = bundle.manifest
    if bundle.clusters is not None:
        raise BundleError(f"{manifest.name}: a bank of {len(bundle.examples):,} examples cannot be parted into sets")
    lengths = token_lengths(bundle, tokenizer)
    sets = part_into_sets(bundle.examples, bundle.vectors, lengths, wish)
    by_id = {one.id: int(length) for one, length in zip(bundle.examples, lengths.examples, strict=True)}
    longest = lengths.fixed + max(sum(by_id[name] for name in one.shown) for one in sets)
    limit = max(manifest.retrieval.max_injected_tokens, longest)
    return BundleDraft(
        name=manifest.name,
        model=manifest.model,
        layout=manifest.layout,
        prompt=bundle.prompt,
        examples=bundle.examples,
        retrieval=replace(manifest.retrieval, order="set", k=voters, max_injected_tokens=limit),
        sampling=manifest.sampling,
        provenance={**manifest.provenance, "sets": asdict(wish)},
        sets=sets,
    )


def token_lengths(bundle: Bundle, tokenizer: Path) -> Lengths:
    """The lengths of a bundle's texts in its layout; the token that begins every text is counted with the prompt.

    BundleError: the file is no tokenizer.
    """
    from tokenizers import Tokenizer  # here and not above: few commands count, and it takes long to import

    try:
        encode = Tokenizer.from_str(tokenizer.read_text(encoding="utf-8")).encode
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception for what it cannot read
        raise BundleError(f"{tokenizer}: cannot be read as a tokenizer.json: {error}") from None
    layout = LAYOUTS[bundle.manifest.layout]
    fixed = len(encode(render_preamble(layout, bundle.prompt, pinned(bundle))).ids)
    texts = [render_example(layout, example) for example in bundle.examples]
    return Lengths(fixed, np.array([len(encode(text, add_special_tokens=False).ids) for text in texts], np.int64))
