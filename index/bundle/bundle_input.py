"""The input from which a bundle is written: all parts of a bundle that are not computed from the vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from index.types import Bundle, Example, ExampleSet, RetrievalPolicy


@dataclass(frozen=True, slots=True)
class BundleInput:
    """The input of `write_bundle` in bundle.py. The classes `Manifest` and `Bundle` explain the other attributes.

    Attributes:
        needs_prompt: Whether an empty prompt is an error. Few bundles lack a prompt on purpose.
        needs_examples: Whether an empty bank is an error. Few bundles lack examples on purpose.
    """

    name: str
    model: str
    layout: str
    prompt: str
    examples: Sequence[Example]
    retrieval: RetrievalPolicy
    sampling: Mapping[str, object]
    provenance: Mapping[str, object]
    sets: Sequence[ExampleSet] = ()
    needs_prompt: bool = True
    needs_examples: bool = True


def as_input(bundle: Bundle) -> BundleInput:
    """Return the input from which `write_bundle` would write this bundle again."""
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
        needs_prompt=bool(bundle.prompt),
        needs_examples=len(bundle.examples) > 0,
    )
