"""Loads the bundles that are served, and opens their embedders. It does not depend on requests.

A served bundle is one frozen value, and a request looks it up only once. So no request gets parts of two bundles, even
if a reload replaces the bundle meanwhile.
"""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from index.bundle.bundle import default_bundle_directory, load_bundle, read_manifest
from index.embedders.base import Embedder
from index.embedders.registry import LOCAL_EMBEDDERS, check_embedder_allowed, open_embedder
from index.layouts import LAYOUTS, TextLayout
from index.measures.refusals import refuses
from index.retrieval.retriever import Retriever, pinned
from index.types import Bundle, Example, Manifest
from proxy.core.errors import StartupError
from proxy.core.settings import DEFAULT_BUNDLE
from proxy.core.variant_names import RAW
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
    if manifest.model == model:
        return ""
    return (
        f"The bundle {manifest.name} was written for {manifest.model}: measure with `drpo-proxy fit` whether it helps "
        f"{model}. {model}@{RAW} is served without it."
    )


def load_bundles(
    arguments: Sequence[str],
    allowed: Sequence[str],
    serving: Iterable[ServedBundle] = (),
) -> dict[str, ServedBundle]:
    """Load the bundles of the flag --bundle, and return each by the id of its model.

    Args:
        arguments: The values of --bundle.
        allowed: The values of --allow-embedder.
        serving: Bundles that are served already. The new bundles share the open embedders of these bundles, if the
            embedders come with drpo. A second copy would need the same amount of memory again.

    Raises:
        StartupError: A --bundle argument is malformed or its directory does not exist, or two bundles are for the same
            model.
        BundleError: A bundle cannot be loaded.
        EmbedderError: An embedder cannot be used.
    """
    served: dict[str, ServedBundle] = {}
    embedders = _open_embedders(serving)
    for argument in arguments:
        model, directory = parse_bundle_argument(argument)
        bundle = _load(directory, embedders, allowed)
        name = model or bundle.manifest.model
        _refuse_second(name, served)
        served[name] = serve_bundle(bundle, embedders[bundle.manifest.embedder.name])
    return served


def load_directories(
    directories: Sequence[str], allowed: Sequence[str], serving: Iterable[ServedBundle]
) -> dict[str, ServedBundle]:
    """Load the bundles of the arms of experiments, and return them by directory.

    If a bundle with the same id is served already, the result contains that bundle, and no new retriever is built.

    Args:
        directories: The directories of the bundles; `default` means the bundle that comes with drpo.
        allowed: As for `load_bundles`.
        serving: Bundles that are served already.

    Raises:
        BundleError: A bundle cannot be loaded.
        EmbedderError: An embedder cannot be used.
    """
    serving = list(serving)
    embedders = _open_embedders(serving)
    served: dict[str, ServedBundle] = {}
    for directory in directories:
        bundle = _load(bundle_directory(directory), embedders, allowed)
        same = (old for old in (*serving, *served.values()) if old.bundle.id == bundle.id)
        served[directory] = next(same, None) or serve_bundle(bundle, embedders[bundle.manifest.embedder.name])
    return served


def _open_embedders(serving: Iterable[ServedBundle]) -> dict[str, Embedder]:
    """Return the open embedders of the served bundles by name, but only those whose weights cannot change."""
    used = {old.search.embedder.spec.name: old.search.embedder for old in serving}
    return {name: embedder for name, embedder in used.items() if name in LOCAL_EMBEDDERS}


def check_bundle_arguments(arguments: Sequence[str], allowed: Sequence[str]) -> None:
    """Check the --bundle arguments and the manifests of their bundles, without loading the bundles.

    Args:
        arguments: The values of --bundle.
        allowed: The values of --allow-embedder.

    Raises:
        StartupError: An argument is malformed, its directory does not exist, or two bundles are for the same model.
        BundleError: A manifest cannot be read or is invalid.
        EmbedderError: The embedder of a bundle is not allowed.
    """
    names: set[str] = set()
    for argument in arguments:
        model, directory = parse_bundle_argument(argument)
        manifest = check_directory(directory, allowed)
        name = model or manifest.model
        _refuse_second(name, names)
        names.add(name)


def check_directory(directory: Path, allowed: Sequence[str]) -> Manifest:
    """Return the manifest of a bundle. The errors are those of `check_bundle_arguments`."""
    manifest = read_manifest(directory)
    check_embedder_allowed(manifest.embedder.name, allowed, str(directory))
    return manifest


def _refuse_second(name: str, names: Container[str]) -> None:
    if name in names:
        raise StartupError(f"--bundle: two bundles for the model {name}. Name another model for one: MODEL=DIR.")


def parse_bundle_argument(argument: str) -> tuple[str | None, Path]:
    """Return the model and the directory of a --bundle argument. The model is None if the argument names none.

    Raises:
        StartupError: The argument is malformed, or its directory does not exist.
    """
    model, equals, location = argument.rpartition("=")
    if equals and not (model and location):
        raise StartupError(f"--bundle {argument}: expected DIR, MODEL=DIR or MODEL=default.")
    directory = bundle_directory(location)
    if not directory.is_dir():
        raise StartupError(f"--bundle {argument}: there is no directory {location}.")
    return model or None, directory


def bundle_directory(location: str) -> Path:
    """Return the directory that a flag or an experiment file names: a path, or `default` for the bundle of drpo."""
    return default_bundle_directory() if location == DEFAULT_BUNDLE else Path(location)


def _load(directory: Path, embedders: dict[str, Embedder], allowed: Sequence[str]) -> Bundle:
    name = check_directory(directory, allowed).embedder.name
    if name not in embedders:
        embedders[name] = open_embedder(name)
    return load_bundle(directory, embedders[name])
