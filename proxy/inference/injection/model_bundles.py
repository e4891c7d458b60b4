"""Decides which bundle each model gets: by the flag --bundle, and by the names of the models that backends list.

A backend may list its models only after the start of the proxy, and other models later. So the bundles are loaded at
the start, and the choice is made when a model is listed. The choice depends only on the names of the model.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from index.bundle.shipped import GENERAL, SHIPPED, ShippedBundle, choose_shipped, read_shipped
from index.model_names import is_same_model
from proxy.backends.discovery import Model
from proxy.inference.injection.bundle_flags import parse_bundle_flags
from proxy.inference.injection.served_bundles import BundleLoader, ServedBundle

_NAMED: Final = "--bundle names it for this model"


@dataclass(frozen=True, slots=True)
class ChosenBundles:
    """The bundles of the listed models, and of further models that flags name.

    Attributes:
        bundles: The bundle of each model, by the id of the model.
        reasons: Why the model has this bundle, as a part of a sentence that follows "because".
    """

    bundles: Mapping[str, ServedBundle]
    reasons: Mapping[str, str]

    def describe(self, model: str) -> str:
        """Return a text that names the bundle of a model, and says why the model has this bundle."""
        return f"{self.bundles[model].bundle.manifest.name}, because {self.reasons[model]}"


@dataclass(slots=True)
class ModelBundles:
    """The loaded bundles of a server.

    Attributes:
        named: The bundles that flags name for a model, by the id of the model.
        unnamed: The bundles that flags name without a model. Each is for the model in its manifest.
        default_models: The models for which drpo chooses the bundle.
        has_default: Whether drpo chooses the bundle of each listed model that no other flag is for.
        library: All bundles of drpo, the general one first. Empty if drpo has nothing to choose.
        shipped: The loaded bundles of `library` that drpo may choose, by name: the general bundle, and the bundles that
            are better than it.
    """

    named: Mapping[str, ServedBundle] = field(default_factory=lambda: MappingProxyType({}))
    unnamed: tuple[ServedBundle, ...] = ()
    default_models: tuple[str, ...] = ()
    has_default: bool = False
    library: tuple[ShippedBundle, ...] = ()
    shipped: Mapping[str, ServedBundle] = field(default_factory=lambda: MappingProxyType({}))
    _models: tuple[Model, ...] | None = field(default=None, repr=False, compare=False)
    _chosen: ChosenBundles = field(default=ChosenBundles({}, {}), repr=False, compare=False)

    @property
    def loaded(self) -> list[ServedBundle]:
        """All loaded bundles, whether a model has them or not."""
        return [*self.named.values(), *self.unnamed, *self.shipped.values()]

    def of(self, models: Mapping[str, Model]) -> ChosenBundles:
        """Return the bundles of models. A second call for the same models returns the same value.

        Args:
            models: The models that backends list, by id.
        """
        listed = tuple(models.values())
        if listed != self._models:  # every request calls this method, so the choice is kept until the list changes
            self._chosen, self._models = self._choose(models), listed
        return self._chosen

    def _choose(self, models: Mapping[str, Model]) -> ChosenBundles:
        found = {name: (served, _NAMED) for name, served in self.named.items()}
        for served in self.unnamed:
            found |= {name: choice for name, choice in self._for_manifest(served, models) if name not in found}
        found |= {name: self._default([name]) for name in self.default_models if name not in models}
        for name, model in models.items():
            if name not in found and (self.has_default or name in self.default_models):
                found[name] = self._default(names_of(model))
        return ChosenBundles(
            {name: served for name, (served, _) in found.items()}, {name: why for name, (_, why) in found.items()}
        )

    def _for_manifest(
        self, served: ServedBundle, models: Mapping[str, Model]
    ) -> Iterable[tuple[str, tuple[ServedBundle, str]]]:
        """Yield the listed models that the bundle was made for, each with the bundle and the reason.

        If there are none, yield the name in the manifest instead.
        """
        made_for = served.bundle.manifest.model
        exact = {other.bundle.manifest.model for other in self.unnamed}
        names = [name for name in models if name == made_for or (name not in exact and is_same_model(name, made_for))]
        for name in names or [made_for]:
            yield name, (served, f"it was made for {made_for}")

    def _default(self, names: Sequence[str]) -> tuple[ServedBundle, str]:
        choice = choose_shipped(names, self.library)
        return self.shipped[choice.bundle.name], choice.reason


def names_of(model: Model) -> list[str]:
    """Return the names of a model: its id, and the name of its weights if the server reports it.

    vLLM reports it as `root`. An adapter has a `parent`, and its `root` is the folder of the adapter.
    """
    root = model.card.get("root")
    if isinstance(root, str) and root not in ("", model.id) and not model.card.get("parent"):
        return [model.id, root]
    return [model.id]


def named_bundles(bundles: Mapping[str, ServedBundle]) -> ModelBundles:
    """Return the bundles of named models, by the ids of the models."""
    return ModelBundles(named=dict(bundles))


def load_bundles(
    arguments: Sequence[str],
    allowed: Sequence[str],
    serving: Iterable[ServedBundle] = (),
    root: Path = SHIPPED,
) -> ModelBundles:
    """Load the bundles of the flag --bundle.

    Args:
        arguments: The values of --bundle.
        allowed: The values of --allow-embedder.
        serving: Bundles that are served already. The new bundles share the open embedders of these bundles, if the
            embedders come with drpo. A second copy would need the same amount of memory again.
        root: The folder with the bundles of drpo.

    Raises:
        StartupError: A --bundle argument is malformed or names no bundle, or two bundles are for the same model.
        BundleError: A bundle cannot be loaded.
        EmbedderError: An embedder cannot be used.
    """
    flags, loader = parse_bundle_flags(arguments, root), BundleLoader(allowed, serving)
    loaded = [(flag, loader.load(flag.directory)) for flag in flags if flag.directory is not None]
    defaults = [flag.model for flag in flags if flag.is_default]
    library = read_shipped(root) if defaults else ()
    eligible = (one for one in library if one.name == GENERAL or one.is_better)
    return ModelBundles(
        named={flag.model: served for flag, served in loaded if flag.model},
        unnamed=tuple(served for flag, served in loaded if not flag.model),
        default_models=tuple(model for model in defaults if model),
        has_default=None in defaults,
        library=library,
        shipped={one.name: loader.load(one.directory) for one in eligible},
    )
