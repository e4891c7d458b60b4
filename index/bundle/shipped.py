"""Finds the bundles that ship with drpo, by their names, and by the name of the model that is served.

Each bundle is a folder of `index/shipped`. Its name is the name of the folder. One bundle is the general one: it was
written by hand, and serves a model for which none of the others was learned. The word `default` means the bundle that
`choose_shipped` chooses for a model. Functions that look for bundles take the folder of all bundles as an argument.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from index.bundle.files import MANIFEST, read_manifest_bytes, read_small_file
from index.bundle.manifest import parse_manifest
from index.bundle.provenance import PROVENANCE, VALIDATION, Provenance, parse_provenance
from index.errors import BundleError, BundleIntegrityError
from index.measures.confidence import Interval
from index.model_names import is_same_model
from index.types import Manifest

DEFAULT_BUNDLE: Final = "default"
"""The word that means the bundle of drpo that suits the served model."""
GENERAL: Final = "hand-written"
"""The name of the general bundle."""
SHIPPED: Final = Path(__file__).parent.parent / "shipped"
"""The folder that contains one folder for each bundle of drpo."""


@dataclass(frozen=True, slots=True)
class ShippedBundle:
    """A bundle that ships with drpo. Its examples are not loaded yet.

    Attributes:
        name: The name of the bundle.
        directory: The directory of the bundle.
        manifest: The manifest of the bundle.
        provenance: How it was made, and what was measured.
    """

    name: str
    directory: Path
    manifest: Manifest
    provenance: Provenance

    @property
    def lead(self) -> Interval | None:
        """The bundle's composite minus the general bundle's, on validation rows; None if not measured."""
        figures = self.provenance.of(VALIDATION)
        difference = figures.differences.get(GENERAL) if figures else None
        return difference.composite if difference else None

    @property
    def is_better(self) -> bool:
        """Whether the bundle has a higher composite on validation rows than the general bundle."""
        return self.lead is not None and self.lead.estimate > 0


@dataclass(frozen=True, slots=True)
class ShippedChoice:
    """The bundle of drpo that `default` means for a model.

    Attributes:
        bundle: The bundle.
        reason: Why this bundle was chosen, as a part of a sentence that follows "because".
    """

    bundle: ShippedBundle
    reason: str


def shipped_names(root: Path = SHIPPED) -> list[str]:
    """Return the names of the bundles of drpo, the general one first."""
    names = (path.parent.name for path in root.glob(f"*/{MANIFEST}"))
    return sorted(names, key=lambda name: (name != GENERAL, name))


def read_shipped(root: Path = SHIPPED) -> tuple[ShippedBundle, ...]:
    """Read the manifests and the provenance of the bundles of drpo, the general one first.

    Raises:
        BundleError: A file cannot be read or is invalid, or its provenance belongs to another bundle.
    """
    return tuple(_read(root / name) for name in shipped_names(root))


def find_bundle(location: str, root: Path = SHIPPED) -> Path:
    """Return the directory that a user names: the name of a bundle of drpo, or a path.

    The name of a bundle of drpo takes precedence over a directory of the same name. A user can write ./NAME to name the
    directory. For `default`, the result is the general bundle, so call `choose_shipped` first if the model is known.

    Raises:
        BundleError: There is no bundle and no directory of this name. The message lists the names.
    """
    names = shipped_names(root)
    if location == DEFAULT_BUNDLE:
        return root / GENERAL
    if location in names:
        return root / location
    if not Path(location).is_dir():
        known = ", ".join([DEFAULT_BUNDLE, *names])
        raise BundleError(f"there is no directory {location}, and no bundle of drpo has this name ({known})")
    return Path(location)


def choose_shipped(names: Sequence[str], shipped: Sequence[ShippedBundle]) -> ShippedChoice:
    """Choose the bundle of drpo for a model.

    It is the bundle that was learned for this model, if it is better than the general bundle on validation rows. If
    there are several, it is the one with the largest lead. Otherwise, it is the general bundle.

    Args:
        names: The names of the model: the one under which it is served and, if known, the one of its weights.
        shipped: The bundles of drpo, the general one first.
    """
    general, *others = shipped
    matching = [one for one in others if any(is_same_model(one.manifest.model, name) for name in names)]
    better = [one for one in matching if one.is_better]
    if better:
        best = max(better, key=lambda one: one.lead.estimate if one.lead else 0.0)
        return ShippedChoice(best, f"it was learned for {best.manifest.model}, and {_lead(best)}")
    if matching:
        return ShippedChoice(general, f"{matching[0].name}, which was learned for this model, {_no_lead(matching[0])}")
    if any(is_same_model(general.manifest.model, name) for name in names):
        return ShippedChoice(general, f"it was written for {general.manifest.model}")
    return ShippedChoice(general, f"no bundle of drpo was learned for {names[0]}")


def _lead(bundle: ShippedBundle) -> str:
    lead = bundle.lead or Interval(0.0, 0.0, 0.0)
    interval = f"{lead.estimate:+.3f} [{lead.low:+.3f}, {lead.high:+.3f}]"
    return f"its composite on validation rows is higher than that of {GENERAL} ({interval})"


def _no_lead(bundle: ShippedBundle) -> str:
    return "is no better on validation rows" if bundle.lead else "was not compared with it on validation rows"


def _read(directory: Path) -> ShippedBundle:
    data, path = read_manifest_bytes(directory), directory / PROVENANCE
    provenance = parse_provenance(read_small_file(path), str(path))
    if hashlib.sha256(data).hexdigest() != provenance.bundle:
        raise BundleIntegrityError(f"{path}: describes another bundle than the {MANIFEST} beside it. Write it again")
    return ShippedBundle(directory.name, directory, parse_manifest(data, str(directory / MANIFEST)), provenance)
