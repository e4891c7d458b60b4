"""The bundles being served, and how many tokens each of their parts costs. Knows no request.

What a request needs is pinned in one frozen value at its start: a reload swaps the whole, never a part.
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
from proxy.inference.injection.retrieval_worker import Source


@dataclass(frozen=True, slots=True)
class ServedBundle:
    """A bundle, ready to serve."""

    bundle: Bundle
    layout: TextLayout
    pinned: tuple[Example, ...]
    source: Source = field(repr=False)

    @property
    def id(self) -> str:
        """The bundle's id, as long as people need it."""
        return self.bundle.id[:12]


def load_bundles(
    arguments: Sequence[str],
    allowed: Sequence[str],
    query_embedder: str = OWN,
    serving: Iterable[ServedBundle] = (),
) -> dict[str, ServedBundle]:
    """Bundles by model, from --bundle arguments; `allowed` are the embedders that --allow-embedder named;
    `query_embedder` is the one of --query-embedder.

    serving: bundles that are served already. Their embedder is used again if it is the one that comes with the package:
    it is the same, and a second one would cost its memory twice. Raises StartupError, BundleError, EmbedderError.
    """
    served: dict[str, ServedBundle] = {}
    embedders = _opened_before(serving)
    for argument in arguments:
        model, directory = _parse_argument(argument)
        bundle = _load(directory, embedders, allowed)
        name = model or bundle.manifest.model
        if name in served:
            raise StartupError(
                f"--bundle: two bundles for the model {name}; give one of them another model: MODEL=DIR."
            )
        served[name] = _serve(bundle, _of_queries(query_embedder, bundle, embedders))
    return served


def load_directories(
    directories: Sequence[str], allowed: Sequence[str], query_embedder: str, serving: Iterable[ServedBundle]
) -> dict[str, ServedBundle]:
    """Bundles by directory, for what is not one model's alone. One that is served already is not loaded a second time.

    Raises BundleError, EmbedderError.
    """
    serving = list(serving)
    embedders = _opened_before(serving)
    served: dict[str, ServedBundle] = {}
    for directory in directories:
        bundle = _load(default_bundle_directory() if directory == "default" else Path(directory), embedders, allowed)
        known = (old for old in (*serving, *served.values()) if old.bundle.id == bundle.id)
        served[directory] = next(known, None) or _serve(bundle, _of_queries(query_embedder, bundle, embedders))
    return served


def _opened_before(serving: Iterable[ServedBundle]) -> dict[str, Embedder]:
    """What comes with the package, by name, as far as it is open."""
    used = {old.source.embedder.spec.name: old.source.embedder for old in serving}
    opened = {name: embedder for name, embedder in used.items() if name in (DEFAULT_EMBEDDER, FAST)}
    student = opened.get(FAST)
    return opened | ({DEFAULT_EMBEDDER: student.teacher} if isinstance(student, FastEmbedder) else {})


def _of_queries(name: str, bundle: Bundle, embedders: dict[str, Embedder]) -> Embedder:
    """The bundle's own embedder, or the student that was asked for. StartupError if that is another's student."""
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
    model, equals, place = argument.rpartition("=")
    if equals and not (model and place):
        raise StartupError(f"--bundle {argument}: expected DIR, MODEL=DIR or MODEL=default.")
    directory = default_bundle_directory() if place == "default" else Path(place)
    if not directory.is_dir():
        raise StartupError(f"--bundle {argument}: there is no directory {place}.")
    return model or None, directory


def _load(directory: Path, embedders: dict[str, Embedder], allowed: Sequence[str]) -> Bundle:
    name = read_manifest(directory).embedder.name
    check_embedder_allowed(name, allowed, str(directory))
    if name not in embedders:
        embedders[name] = open_embedder(name)
    return load_bundle(directory, embedders[name])


def _serve(bundle: Bundle, embedder: Embedder) -> ServedBundle:
    source = Source(bundle.id, Retriever(bundle), embedder)
    return ServedBundle(bundle, LAYOUTS[bundle.manifest.layout], pinned(bundle), source)
