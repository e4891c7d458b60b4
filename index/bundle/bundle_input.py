"""The input from which a bundle is written: everything in a bundle except the vectors and what follows from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from index.types import Bundle, Example, ExampleSet, RetrievalPolicy


@dataclass(frozen=True, slots=True)
class BundleInput:
    """The input of `write_bundle` in bundle.py. The classes `Manifest` and `Bundle` explain the attributes."""

    name: str
    model: str
    layout: str
    prompt: str
    examples: Sequence[Example]
    retrieval: RetrievalPolicy
    sampling: Mapping[str, object]
    provenance: Mapping[str, object]
    sets: Sequence[ExampleSet] = ()


def as_input(bundle: Bundle) -> BundleInput:
    """Return the input that gives this bundle."""
    manifest = bundle.manifest
    return BundleInput(
        name=manifest.name,
        model=manifest.model,
        layout=manifest.layout,
        prompt=bundle.prompt,
        examples=tuple(bundle.examples),
        retrieval=manifest.retrieval,
        sampling=manifest.sampling,
        provenance=manifest.provenance,
        sets=bundle.sets,
    )
