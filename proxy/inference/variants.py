"""Decides which model and which variant serve a request. All functions are pure.

A client names a variant in the header x-drpo-variant, or as a suffix of the model: MODEL@VARIANT. If the client names
no variant, the default is `aligned` for a model with a bundle, and `raw` for any other model. Text completions are an
exception: for them, the planner replaces the default `aligned` by `raw`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from index.model_names import split_model_name
from proxy.core.errors import BadRequestError, UnknownModelError
from proxy.core.variant_names import ALIGNED, RAW, VARIANTS

_MAX_LISTED_MODELS: Final = 20


@dataclass(frozen=True, slots=True)
class Choice:
    """The model and the variant that serve a request.

    Attributes:
        model: The id of the model, without a variant suffix.
        variant: `aligned`, `raw` or `raw-matched`.
        explicit: Whether the client named the variant, by header or by suffix.
    """

    model: str
    variant: str
    explicit: bool


def choose(model_field: object, header: str | None, models: Collection[str], bundled: Collection[str]) -> Choice:
    """Choose the model and the variant of a request.

    Args:
        model_field: The field `model` of the body.
        header: The value of the header x-drpo-variant; None if the request has no such header.
        models: The ids of the models that backends list.
        bundled: The ids of the models that have a bundle.

    Raises:
        BadRequestError: The field `model` is missing or not a text. Or the variant is unknown, the header and the
            suffix give different variants, or the variant needs a bundle and the model has none.
        UnknownModelError: No backend lists the model.
    """
    if not isinstance(model_field, str) or not model_field:
        raise BadRequestError("`model` is missing. " + _listing(models), param="model")
    model, suffix = split_model_name(model_field, models)
    if model not in models:
        raise UnknownModelError(f"The model {_quoted(model)} does not exist. {_listing(models)}", param="model")
    if header is not None and suffix is not None and header != suffix:
        raise BadRequestError(
            f"The header x-drpo-variant says {_quoted(header)}, but the model's suffix says {_quoted(suffix)}. "
            "Send only one.",
            param="model",
        )
    named = header if header is not None else suffix
    if named is None:
        return Choice(model, ALIGNED if model in bundled else RAW, explicit=False)
    return Choice(model, _check(named, model, bundled), explicit=True)


def available(model: str, bundled: Collection[str]) -> tuple[str, ...]:
    """Return the variants of a model: all three if the model has a bundle, else only `raw`."""
    return VARIANTS if model in bundled else (RAW,)


def _check(variant: str, model: str, bundled: Collection[str]) -> str:
    if variant not in VARIANTS:
        raise BadRequestError(
            f"Unknown variant {_quoted(variant)}. This model has: {', '.join(available(model, bundled))}.",
            param="model",
        )
    if variant not in available(model, bundled):
        raise BadRequestError(
            f"The variant {variant} needs a bundle, and {_quoted(model)} has none. "
            f"This model has: {', '.join(available(model, bundled))}.",
            param="model",
        )
    return variant


def _listing(models: Collection[str]) -> str:
    names = sorted(models)
    more = f" and {len(names) - _MAX_LISTED_MODELS} more" if len(names) > _MAX_LISTED_MODELS else ""
    return f"Available: {', '.join(names[:_MAX_LISTED_MODELS])}{more}." if names else "No backend lists a model yet."


def _quoted(text: str) -> str:
    """Return a client's value for an error message: in quotation marks, on one line, cut after 100 characters."""
    return repr(text if len(text) <= 100 else text[:100] + "...")
