"""Loads the bundles that are served. It does not depend on requests.

A served bundle is one frozen value. A request takes it once, so a reload cannot mix two bundles in one request.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from index.bundle.bundle import default_bundle_directory, load_bundle, read_manifest
from index.embedders.base import Embedder
from index.embedders.minilm import OnnxEmbedder
from index.embedders.registry import DEFAULT_EMBEDDER, check_embedder_allowed, open_embedder
from index.embedders.student import NAME as FAST
from index.embedders.student import FastEmbedder
from index.rendering import LAYOUTS, TextLayout
from index.retrieval.retriever import Retriever, pinned
from index.types import Bundle, Example
from proxy.core.errors import StartupError
from proxy.core.settings import OWN
from proxy.inference.injection.retrieval_worker import BundleSearch


@dataclass(frozen=True, slots=True)
class ServedBundle:
    """A bundle with what is needed to serve it.

    Attributes:
        bundle: The bundle.
        layout: The layout of text for base models.
        pinned: The examples that every request gets.
        search: Finds examples for a query.
    """

    bundle: Bundle
    layout: TextLayout
    pinned: tuple[Example, ...]
    search: BundleSearch = field(repr=False)

    @property
    def id(self) -> str:
        """The bundle's short id."""
        return self.bundle.id[:12]


def load_bundles(
    arguments: Sequence[str],
    allowed: Sequence[str],
    query_embedder: str = OWN,
    serving: Iterable[ServedBundle] = (),
) -> dict[str, ServedBundle]:
    """Load bundles by model.

    Args:
        arguments: The values of --bundle.
        allowed: The values of --allow-embedder.
        query_embedder: The value of --query-embedder.
        serving: Bundles that are served already. Their embedder is used again if it is part of this package, because a
            second one would take its memory twice.

    Raises:
        StartupError: A flag is wrong.
        BundleError: A bundle cannot be loaded.
        EmbedderError: An embedder cannot be used.
    """
    served: dict[str, ServedBundle] = {}
    embedders = _open_embedders(serving)
    for argument in arguments:
        model, directory = _parse_argument(argument)
        bundle = _load(directory, embedders, allowed)
        name = model or bundle.manifest.model
        if name in served:
            raise StartupError(
                f"--bundle: two bundles for the model {name}; give one of them another model: MODEL=DIR."
            )
        served[name] = _serve(bundle, _query_embedder(query_embedder, bundle, embedders))
    return served


def load_directories(
    directories: Sequence[str], allowed: Sequence[str], query_embedder: str, serving: Iterable[ServedBundle]
) -> dict[str, ServedBundle]:
    """Load bundles by directory. A bundle that is served already is used again.

    The arguments and errors are those of `load_bundles`.
    """
    serving = list(serving)
    embedders = _open_embedders(serving)
    served: dict[str, ServedBundle] = {}
    for directory in directories:
        bundle = _load(default_bundle_directory() if directory == "default" else Path(directory), embedders, allowed)
        same = (old for old in (*serving, *served.values()) if old.bundle.id == bundle.id)
        served[directory] = next(same, None) or _serve(bundle, _query_embedder(query_embedder, bundle, embedders))
    return served


def _open_embedders(serving: Iterable[ServedBundle]) -> dict[str, Embedder]:
    """The embedders of this package that are open already, by name."""
    used = {old.search.embedder.spec.name: old.search.embedder for old in serving}
    opened = {name: embedder for name, embedder in used.items() if name in (DEFAULT_EMBEDDER, FAST)}
    student = opened.get(FAST)
    return opened | ({DEFAULT_EMBEDDER: student.teacher} if isinstance(student, FastEmbedder) else {})


def _query_embedder(name: str, bundle: Bundle, embedders: dict[str, Embedder]) -> Embedder:
    """The bundle's own embedder, or its student. Raises StartupError if the student follows another embedder."""
    own = embedders[bundle.manifest.embedder.name]
    if name != FAST:
        return own
    if not isinstance(own, OnnxEmbedder):
        raise StartupError(
            f"--query-embedder {FAST}: it follows {DEFAULT_EMBEDDER}, and the vectors of the bundle "
            f"{bundle.manifest.name} are from {own.spec.name}; leave the flag out, or build the bundle with "
            f"{DEFAULT_EMBEDDER}."
        )
    if FAST not in embedders:
        embedders[FAST] = FastEmbedder(own)
    return embedders[FAST]


def check_bundle_arguments(arguments: Sequence[str]) -> None:
    """Raise StartupError for a --bundle argument that names no directory."""
    for argument in arguments:
        _parse_argument(argument)


def _parse_argument(argument: str) -> tuple[str | None, Path]:
    model, equals, location = argument.rpartition("=")
    if equals and not (model and location):
        raise StartupError(f"--bundle {argument}: expected DIR, MODEL=DIR or MODEL=default.")
    directory = default_bundle_directory() if location == "default" else Path(location)
    if not directory.is_dir():
        raise StartupError(f"--bundle {argument}: there is no directory {location}.")
    return model or None, directory


def _load(directory: Path, embedders: dict[str, Embedder], allowed: Sequence[str]) -> Bundle:
    name = read_manifest(directory).embedder.name
    check_embedder_allowed(name, allowed, str(directory))
    if name not in embedders:
        embedders[name] = open_embedder(name)
    return load_bundle(directory, embedders[name])


def _serve(bundle: Bundle, embedder: Embedder) -> ServedBundle:
    search = BundleSearch(bundle.id, Retriever(bundle), embedder)
    return ServedBundle(bundle, LAYOUTS[bundle.manifest.layout], pinned(bundle), search)
