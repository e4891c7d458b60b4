"""Loads the bundles that are served, and opens their embedders. It does not depend on requests.

A served bundle is one frozen value, and a request looks it up only once. So no request gets parts of two bundles, even
if a reload replaces the bundle meanwhile.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from index.bundle.bundle import load_bundle
from index.bundle.shipped import find_bundle
from index.embedders.base import Embedder
from index.embedders.registry import LOCAL_EMBEDDERS, open_embedder
from index.layouts import LAYOUTS, TextLayout
from index.measures.refusals import refuses
from index.model_names import is_same_model
from index.retrieval.retriever import Retriever, pinned
from index.types import Bundle, Example
from proxy.core.variant_names import RAW
from proxy.inference.injection.bundle_flags import check_directory
from proxy.inference.injection.retrieval_worker import BundleSearch


@dataclass(frozen=True, slots=True)
class ServedBundle:
    """A bundle, and the objects that render and search it for requests.

    Attributes:
        bundle: The bundle.
        layout: The layout of the bundle. It renders prompt, examples and conversation as one text for a base model.
        pinned: The pinned examples of the bundle.
        refusals: Those pinned examples whose answer is a refusal.
        search: The retriever and the embedder that find the retrieved examples for a query.
    """

    bundle: Bundle
    layout: TextLayout
    pinned: tuple[Example, ...]
    search: BundleSearch = field(repr=False)
    refusals: tuple[Example, ...] = field(init=False)

    def __post_init__(self) -> None:
        refusals = tuple(example for example in self.pinned if refuses(example.response))
        object.__setattr__(self, "refusals", refusals)  # the class is frozen

    @property
    def id(self) -> str:
        """The first 12 characters of the bundle id, which headers and logs show."""
        return self.bundle.id[:12]


def serve_bundle(bundle: Bundle, embedder: Embedder) -> ServedBundle:
    """Return a loaded bundle with the objects that serve it. `embedder` must be the embedder of the bundle."""
    search = BundleSearch(bundle.id, Retriever(bundle), embedder)
    return ServedBundle(bundle, LAYOUTS[bundle.manifest.layout], pinned(bundle), search)


def foreign_bundle_note(model: str, served: ServedBundle) -> str:
    """Return a note for the operator if the bundle of a model was written for another model; empty if it was not."""
    manifest = served.bundle.manifest
    if is_same_model(manifest.model, model):
        return ""
    return (
        f"The bundle {manifest.name} was written for {manifest.model}. Measure with `drpo-proxy fit` and the same "
        f"flags whether it helps {model}. {model}@{RAW} is served without it."
    )


class BundleLoader:
    """Loads bundles, and opens each of their embedders once."""

    def __init__(self, allowed: Sequence[str], serving: Iterable[ServedBundle] = ()) -> None:
        """Create a loader.

        Args:
            allowed: The values of --allow-embedder.
            serving: Bundles that are served already. New bundles share the open embedders of these bundles, if the
                embedders come with drpo: the weights of such embedders cannot change. A second copy would need the same
                memory again.
        """
        self._allowed = allowed
        self._serving = list(serving)
        used = {old.search.embedder.spec.name: old.search.embedder for old in self._serving}
        self._embedders = {name: embedder for name, embedder in used.items() if name in LOCAL_EMBEDDERS}

    def load(self, directory: Path) -> ServedBundle:
        """Load a bundle with the objects that serve it.

        Raises:
            BundleError: The bundle cannot be loaded.
            EmbedderError: Its embedder is not allowed, or cannot be used.
        """
        bundle = self._load(directory)
        return serve_bundle(bundle, self._embedders[bundle.manifest.embedder.name])

    def load_or_reuse(self, directory: Path) -> ServedBundle:
        """Load a bundle. If a bundle with the same id is served already, return that one, without a new retriever.

        Raises the same errors as `load`.
        """
        bundle = self._load(directory)
        same = (old for old in self._serving if old.bundle.id == bundle.id)
        served = next(same, None) or serve_bundle(bundle, self._embedders[bundle.manifest.embedder.name])
        self._serving.append(served)
        return served

    def _load(self, directory: Path) -> Bundle:
        name = check_directory(directory, self._allowed).embedder.name
        if name not in self._embedders:
            self._embedders[name] = open_embedder(name)
        return load_bundle(directory, self._embedders[name])


def load_directories(
    directories: Sequence[str], allowed: Sequence[str], serving: Iterable[ServedBundle]
) -> dict[str, ServedBundle]:
    """Load the bundles of the arms of experiments, and return them by directory.

    Args:
        directories: The directories of the bundles, or names of bundles of drpo.
        allowed: The values of --allow-embedder.
        serving: Bundles that are served already, which are used again.

    Raises:
        BundleError: A bundle cannot be loaded.
        EmbedderError: An embedder cannot be used.
    """
    loader = BundleLoader(allowed, serving)
    return {directory: loader.load_or_reuse(find_bundle(directory)) for directory in directories}
