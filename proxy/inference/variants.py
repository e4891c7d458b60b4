"""Which model and which variant a request asks for (DESIGN: header, then suffix, then the default). Pure."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from proxy.core.errors import BadRequestError, UnknownModelError
from proxy.core.variant_names import ALIGNED, RAW, VARIANTS

_SUFFIX: Final = re.compile(r"[a-z0-9-]+")
_SHOWN_MODELS: Final = 20


@dataclass(frozen=True, slots=True)
class Choice:
    """What is served. `explicit`: the client named the variant, by header or by suffix."""

    model: str
    variant: str
    explicit: bool


def choose(model_field: object, header: str | None, models: Collection[str], bundled: Collection[str]) -> Choice:
    """The model and variant of a request.

    model_field: the body's `model`; header: x-drpo-variant; models: ids that backends list; bundled: ids with a bundle.
    Raises BadRequestError for a variant that is unknown, contradictory or has no bundle, UnknownModelError for a model.
    """
    if not isinstance(model_field, str) or not model_field:
        raise BadRequestError("`model` is missing. " + _listing(models), param="model")
    model, suffix = _split(model_field, models)
    if model not in models:
        raise UnknownModelError(f"The model {_shown(model)} does not exist. {_listing(models)}", param="model")
    if header is not None and suffix is not None and header != suffix:
        raise BadRequestError(
            f"The header x-drpo-variant says {_shown(header)}, the model's suffix {_shown(suffix)}: give only one.",
            param="model",
        )
    named = header if header is not None else suffix
    if named is None:
        return Choice(model, ALIGNED if model in bundled else RAW, explicit=False)
    return Choice(model, _check(named, model, bundled), explicit=True)


def available(model: str, bundled: Collection[str]) -> tuple[str, ...]:
    """The variants that a model can be asked for."""
    return VARIANTS if model in bundled else (RAW,)


def _split(model: str, models: Collection[str]) -> tuple[str, str | None]:
    name, at, suffix = model.rpartition("@")
    if model in models or not at or not _SUFFIX.fullmatch(suffix):
        return model, None
    return name, suffix


def _check(variant: str, model: str, bundled: Collection[str]) -> str:
    if variant not in VARIANTS:
        raise BadRequestError(
            f"Unknown variant {_shown(variant)}. This model has: {', '.join(available(model, bundled))}.", param="model"
        )
    if variant not in available(model, bundled):
        raise BadRequestError(
            f"The variant {variant} needs a bundle, and {_shown(model)} has none. "
            f"This model has: {', '.join(available(model, bundled))}.",
            param="model",
        )
    return variant


def _listing(models: Collection[str]) -> str:
    names = sorted(models)
    more = f" and {len(names) - _SHOWN_MODELS} more" if len(names) > _SHOWN_MODELS else ""
    return f"Available: {', '.join(names[:_SHOWN_MODELS])}{more}." if names else "No backend lists a model yet."


def _shown(text: str) -> str:
    """A client's word, short and on one line, for an error message."""
    return repr(text if len(text) <= 100 else text[:100] + "...")
