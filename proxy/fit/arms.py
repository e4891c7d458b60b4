"""Decides which arms `drpo-proxy fit` compares, on which model: raw, raw-matched, and one arm for each bundle."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from index.bundle.shipped import SHIPPED, choose_shipped, read_shipped
from index.model_names import is_same_model
from proxy.backends.discovery import Model
from proxy.core.errors import StartupError
from proxy.core.settings import InjectionSettings
from proxy.core.variant_names import ALIGNED, RAW, RAW_MATCHED
from proxy.inference.injection.bundle_flags import BundleFlag, check_directory
from proxy.inference.injection.model_bundles import names_of
from proxy.inference.injection.served_bundles import BundleLoader, ServedBundle

BASELINE_NAMES: Final = (RAW, RAW_MATCHED)
_SET_BY_FIT: Final = ("max_tokens", "temperature")  # every request of `fit` sets them, so a bundle's values are unused


@dataclass(frozen=True, slots=True)
class BundleArgument:
    """One bundle that the user named.

    Attributes:
        served: The bundle.
        reason: Why `default` means this bundle; empty if the user named it.
    """

    served: ServedBundle
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to serve the questions.

    Attributes:
        name: The name in tables. It is unique.
        variant: The variant that each request asks for.
        served: The bundle that the proxy serves for these requests; None for `raw`.
        reason: Why `default` means this bundle; empty if the user named it, or for `raw` and `raw-matched`.
    """

    name: str
    variant: str
    served: ServedBundle | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Arms:
    """All arms of a run.

    Attributes:
        all: The arms, `raw` first.
        baseline: The arm that each candidate is compared with.
        candidates: The arms of the bundles to measure, without the baseline.
    """

    all: tuple[Arm, ...]
    baseline: Arm
    candidates: tuple[Arm, ...]

    @property
    def baseline_is_bundle(self) -> bool:
        """Whether the baseline is a bundle, and not `raw` or `raw-matched`."""
        return self.baseline.variant == ALIGNED


def models_of(flags: Sequence[BundleFlag], settings: InjectionSettings, root: Path = SHIPPED) -> tuple[str, ...]:
    """Return the models that the bundles were made for, as their manifests say. No bundle is loaded.

    Args:
        flags: The bundles that the user named.
        settings: The settings of bundles, with the allowed embedders.
        root: The folder with the bundles of drpo. If the user named `default`, the result contains the models of all
            these bundles.

    Raises:
        BundleError: A manifest cannot be read or is invalid.
        EmbedderError: The embedder of a bundle is not allowed.
    """
    manifests = [check_directory(flag.directory, settings.allow_embedder) for flag in flags if flag.directory]
    if any(flag.is_default for flag in flags):
        manifests += [one.manifest for one in read_shipped(root)]
    return tuple(manifest.model for manifest in manifests)


def choose_model(flags: Sequence[BundleFlag], made_for: Sequence[str], models: Collection[str]) -> str:
    """Return the model to measure.

    It is the model that the flags name (MODEL=DIR). If they name none, it is the model that the bundles were made for.
    If no backend lists this model, it is the listed model whose name means the same model (`is_same_model`), or else
    the only listed model.

    Args:
        flags: The bundles that the user named.
        made_for: The models in the manifests of the bundles.
        models: The models that backends list.

    Raises:
        StartupError: The flags name several models or a model that no backend lists, or the choice is not clear.
    """
    listed = ", ".join(sorted(models)) or "none"
    named = {flag.model for flag in flags if flag.model is not None}
    if len(named) > 1:
        raise StartupError(f"--bundle: fit measures one model at a time, not several: {', '.join(sorted(named))}.")
    if named - set(models):
        raise StartupError(f"No backend lists the model {min(named)}. Listed: {listed}.")
    same = {model for model in models if any(is_same_model(model, other) for other in made_for)}
    for choice in (named, set(made_for) & set(models), same, set(models)):
        if len(choice) == 1:
            return choice.pop()
    raise StartupError(f"Which model? Name it with --bundle MODEL=DIR (or MODEL=default). Listed: {listed}.")


def load_for_model(
    flags: Sequence[BundleFlag], model: Model, settings: InjectionSettings, root: Path = SHIPPED
) -> tuple[BundleArgument, ...]:
    """Load the bundles that the user named. `default` means the bundle of drpo for the model.

    Unlike the server, `fit` takes several bundles for the same model. `root` is the folder with the bundles of drpo.

    Raises:
        BundleError: A bundle cannot be loaded.
        EmbedderError: An embedder cannot be used.
    """
    loader, loaded = BundleLoader(settings.allow_embedder), []
    for flag in flags:
        directory, reason = flag.directory, ""
        if directory is None:
            choice = choose_shipped(names_of(model), read_shipped(root))
            directory, reason = choice.bundle.directory, choice.reason
        loaded.append(BundleArgument(loader.load_or_reuse(directory), reason))
    return tuple(loaded)


def make_arms(bundles: Sequence[BundleArgument], baseline: str, baseline_bundle: BundleArgument | None) -> Arms:
    """Make the arms of a run.

    Args:
        bundles: The bundles to measure.
        baseline: `raw`, `raw-matched`, or the argument of the baseline bundle.
        baseline_bundle: The baseline bundle; None if the baseline is `raw` or `raw-matched`.
    """
    extra = () if baseline_bundle is None else (baseline_bundle,)
    names = _unique_names([*extra, *bundles])
    aligned = tuple(
        Arm(name, ALIGNED, one.served, one.reason) for name, one in zip(names, (*extra, *bundles), strict=True)
    )
    raw, matched = Arm(RAW, RAW), _matched_arms(aligned)
    plain: Mapping[str, Arm] = {RAW: raw, RAW_MATCHED: matched[0] if matched else raw}
    chosen = plain[baseline] if baseline_bundle is None else aligned[0]
    return Arms((raw, *matched, *aligned), chosen, aligned[len(extra) :])


def _unique_names(bundles: Sequence[BundleArgument]) -> list[str]:
    """Return a name for each bundle: the name in its manifest.

    If two names are equal, the id of its bundle is added to every name. Names that are still equal get a number, too.
    """
    names = [bundle.served.bundle.manifest.name for bundle in bundles]
    if len(set(names)) < len(names):
        names = [f"{name} {bundle.served.id}" for name, bundle in zip(names, bundles, strict=True)]
    return [
        f"{name} #{names[: position + 1].count(name)}" if names.count(name) > 1 else name
        for position, name in enumerate(names)
    ]


def _matched_arms(aligned: Sequence[Arm]) -> tuple[Arm, ...]:
    """Return one arm `raw-matched` for each different sampling of the bundles.

    Every request of `fit` sets the parameters of _SET_BY_FIT. A bundle that sets no other sampling parameter needs no
    arm `raw-matched`, because this arm would equal `raw`.
    """
    by_sampling: dict[bytes, Arm] = {}
    for arm in aligned:
        if arm.served is not None and (sampling := _own_sampling(arm.served)):
            by_sampling.setdefault(orjson.dumps(sampling, option=orjson.OPT_SORT_KEYS), arm)
    arms = [Arm(f"{RAW_MATCHED}: {arm.name}", RAW_MATCHED, arm.served) for arm in by_sampling.values()]
    return (Arm(RAW_MATCHED, RAW_MATCHED, arms[0].served),) if len(arms) == 1 else tuple(arms)


def _own_sampling(served: ServedBundle) -> Mapping[str, object]:
    return {name: value for name, value in served.bundle.manifest.sampling.items() if name not in _SET_BY_FIT}
