"""Decides which arms `drpo-proxy fit` compares, on which model: raw, raw-matched, and one arm for each bundle."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from proxy.core.errors import StartupError
from proxy.core.settings import InjectionSettings
from proxy.core.variant_names import ALIGNED, RAW, RAW_MATCHED
from proxy.inference.injection.served_bundles import ServedBundle, load_directories, parse_bundle_argument

BASELINE_NAMES: Final = (RAW, RAW_MATCHED)
_SET_BY_FIT: Final = ("max_tokens", "temperature")  # every request of `fit` sets them, so a bundle's values are unused


@dataclass(frozen=True, slots=True)
class BundleArgument:
    """One bundle that the user named.

    Attributes:
        argument: The argument, such as `default` or `MODEL=DIR`.
        model: The model of the argument; None if the argument names no model.
        served: The bundle.
    """

    argument: str
    model: str | None
    served: ServedBundle


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to serve the questions.

    Attributes:
        name: The name in tables. It is unique.
        variant: The variant that each request asks for.
        served: The bundle that the proxy serves for these requests; None for `raw`.
    """

    name: str
    variant: str
    served: ServedBundle | None = None


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
        """Whether the baseline is another bundle."""
        return self.baseline.variant == ALIGNED


def load_bundle_arguments(arguments: Sequence[str], settings: InjectionSettings) -> tuple[BundleArgument, ...]:
    """Load the bundles. Unlike the server, `fit` takes several bundles for the same model.

    Raises:
        StartupError: An argument is malformed, or its directory does not exist.
        BundleError: A bundle cannot be loaded.
        EmbedderError: An embedder cannot be used.
    """
    parsed: list[tuple[str, str | None, Path]] = [(one, *parse_bundle_argument(one)) for one in arguments]
    directories = [str(directory) for _, _, directory in parsed]
    served = load_directories(directories, settings.allow_embedder, ())
    return tuple(BundleArgument(argument, model, served[str(path)]) for argument, model, path in parsed)


def choose_model(bundles: Sequence[BundleArgument], models: Collection[str]) -> str:
    """Return the model to measure.

    It is the model that the arguments name (MODEL=DIR). If they name none, it is the model that the bundles were made
    for. If no backend lists that model, and the backends list exactly one model, return this one.

    Raises:
        StartupError: The arguments name several models or a model that no backend lists, or the choice is not clear.
    """
    listed = ", ".join(sorted(models)) or "none"
    named = {bundle.model for bundle in bundles if bundle.model is not None}
    if len(named) > 1:
        raise StartupError(f"--bundle: fit measures one model at a time, not several: {', '.join(sorted(named))}.")
    if named - set(models):
        raise StartupError(f"No backend lists the model {min(named)}. Listed: {listed}.")
    made_for = {bundle.served.bundle.manifest.model for bundle in bundles} & set(models)
    for choice in (named, made_for, set(models)):
        if len(choice) == 1:
            return choice.pop()
    raise StartupError(f"Which model? Name it with --bundle MODEL=DIR (or MODEL=default). Listed: {listed}.")


def make_arms(bundles: Sequence[BundleArgument], baseline: str, baseline_bundle: BundleArgument | None) -> Arms:
    """Make the arms of a run.

    Args:
        bundles: The bundles that the run is about.
        baseline: `raw`, `raw-matched`, or the argument of the baseline bundle.
        baseline_bundle: The baseline bundle; None if the baseline is `raw` or `raw-matched`.
    """
    extra = () if baseline_bundle is None else (baseline_bundle,)
    names = _unique_names([*extra, *bundles])
    aligned = tuple(Arm(name, ALIGNED, one.served) for name, one in zip(names, (*extra, *bundles), strict=True))
    raw, matched = Arm(RAW, RAW), _matched_arms(aligned)
    plain: Mapping[str, Arm] = {RAW: raw, RAW_MATCHED: matched[0] if matched else raw}
    chosen = plain[baseline] if baseline_bundle is None else aligned[0]
    return Arms((raw, *matched, *aligned), chosen, aligned[len(extra) :])


def _unique_names(bundles: Sequence[BundleArgument]) -> list[str]:
    """Return a name for each bundle: the name in its manifest. Names that would be equal get the id of their bundle,
    and a number if they are still equal."""
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
