"""Reads the values of the flag --bundle: which bundle they name, and for which model. It loads no bundle.

DIR              the bundle of a directory, for the model in its manifest
NAME             a bundle of drpo, for the model in its manifest
default          for each model that backends list: the bundle of drpo for this model
MODEL=...        one of these, for the model MODEL
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from index.bundle.bundle import read_manifest
from index.bundle.shipped import DEFAULT_BUNDLE, SHIPPED, find_bundle, read_shipped
from index.embedders.registry import check_embedder_allowed
from index.errors import BundleError
from index.types import Manifest
from proxy.core.errors import StartupError


@dataclass(frozen=True, slots=True)
class BundleFlag:
    """One value of the flag --bundle.

    Attributes:
        text: The value, such as `default` or `MODEL=DIR`.
        model: The model that the value names; None if it names none.
        directory: The directory of the bundle; None if the bundle is chosen by the name of the model (`default`).
    """

    text: str
    model: str | None
    directory: Path | None

    @property
    def is_default(self) -> bool:
        """Whether drpo chooses the bundle."""
        return self.directory is None


def parse_bundle_flag(text: str, root: Path = SHIPPED) -> BundleFlag:
    """Parse one value of the flag --bundle. `root` is the folder with the bundles of drpo.

    Raises:
        StartupError: The value is malformed, or there is no such bundle. The message lists the bundles of drpo.
    """
    model, equals, location = text.rpartition("=")
    if equals and not (model and location):
        raise StartupError(f"--bundle {text}: expected DIR, MODEL=DIR or MODEL=default.")
    try:
        directory = None if location == DEFAULT_BUNDLE else find_bundle(location, root)
    except BundleError as error:
        raise StartupError(f"--bundle {text}: {error}.") from None
    return BundleFlag(text, model or None, directory)


def parse_bundle_flags(texts: Sequence[str], root: Path = SHIPPED) -> tuple[BundleFlag, ...]:
    """Parse all values of the flag --bundle of a server.

    Raises:
        StartupError: A value is malformed, there is no such bundle, or two bundles are for the same model.
        BundleError: A manifest cannot be read or is invalid.
    """
    flags = tuple(parse_bundle_flag(text, root) for text in texts)
    names = [_model_of(flag) for flag in flags]
    for number, name in enumerate(names):
        if name in names[:number]:
            whose = f"for the model {name}" if name else "for all models"
            raise StartupError(f"--bundle: two bundles {whose}. Name another model for one: MODEL=DIR.")
    return flags


def check_bundle_arguments(texts: Sequence[str], allowed: Sequence[str], root: Path = SHIPPED) -> None:
    """Check the values of the flag --bundle and the manifests of their bundles, without loading the bundles.

    Args:
        texts: The values of --bundle.
        allowed: The values of --allow-embedder.
        root: The folder with the bundles of drpo.

    Raises:
        StartupError: As for `parse_bundle_flags`.
        BundleError: A manifest cannot be read or is invalid.
        EmbedderError: The embedder of a bundle is not allowed.
    """
    flags = parse_bundle_flags(texts, root)
    for flag in flags:
        if flag.directory is not None:
            check_directory(flag.directory, allowed)
    if any(flag.is_default for flag in flags):
        read_shipped(root)


def check_directory(directory: Path, allowed: Sequence[str]) -> Manifest:
    """Return the manifest of a bundle, whose embedder must be allowed.

    Raises:
        BundleError: The manifest cannot be read or is invalid.
        EmbedderError: The embedder of the bundle is not allowed.
    """
    manifest = read_manifest(directory)
    check_embedder_allowed(manifest.embedder.name, allowed, str(directory))
    return manifest


def flag_for_listed(texts: Sequence[str], model: str, listed: Sequence[str], root: Path = SHIPPED) -> str:
    """Return the flag --bundle that gives an unlisted model's bundle to a listed model, quoted for a shell.

    Args:
        texts: The values of --bundle.
        model: The model that no backend lists.
        listed: The models that backends list. If there are several, the flag says MODEL in place of their names.
        root: The folder with the bundles of drpo.
    """
    flags = parse_bundle_flags(texts, root)
    location = next((flag.text.rpartition("=")[2] for flag in flags if _model_of(flag) == model), "DIR")
    served = listed[0] if len(listed) == 1 else "MODEL"
    return "--bundle " + shlex.quote(f"{served}={location}")


def _model_of(flag: BundleFlag) -> str:
    """Return the name of the model that a bundle is for; empty for all models."""
    if flag.model or flag.directory is None:
        return flag.model or ""
    return read_manifest(flag.directory).model
