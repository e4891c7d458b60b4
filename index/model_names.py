"""The names of models and variants in requests: MODEL, or MODEL@VARIANT for a variant that the proxy serves.

The name of a model may itself contain an @. A name therefore means the model that is listed under this whole name, if
there is one.
"""

import re
from collections.abc import Collection, Sequence
from typing import Final

ALIGNED: Final = "aligned"
RAW: Final = "raw"
RAW_MATCHED: Final = "raw-matched"
VARIANTS: Final = (ALIGNED, RAW, RAW_MATCHED)
_SUFFIX: Final = re.compile(r"[a-z0-9-]+")


def split_model_name(name: str, listed: Collection[str]) -> tuple[str, str | None]:
    """Split a name into a model and a variant.

    Args:
        name: The name.
        listed: The names of the models that exist.

    Returns:
        The name itself and None if it is listed, or if it does not end with @ and a word. Otherwise the part before the
        last @, and the word after it, which may not be a variant.
    """
    model, at, suffix = name.rpartition("@")
    if name in listed or not at or not _SUFFIX.fullmatch(suffix):
        return name, None
    return model, suffix


def plain_names(listed: Sequence[str]) -> list[str]:
    """Return those names of a list of models that do not stand for a variant of another model of the list.

    The proxy lists each model under its own name, and as MODEL@VARIANT for each variant.
    """
    names = set(listed)
    return [name for name in listed if not _names_a_variant(name, names)]


def plain_name(name: str, listed: Sequence[str]) -> str:
    """Return the name of the model that a name stands for, without the variant.

    If neither the name nor its part before the last @ is listed, the name is returned as it is.
    """
    models = plain_names(listed)
    model, _ = split_model_name(name, models)
    return model if model in models else name


def is_served(name: str, listed: Collection[str]) -> bool:
    """Return whether a server serves a model under a name.

    Args:
        name: The name.
        listed: All names that the server lists. If it is a drpo-proxy, it lists MODEL@raw for each model, and serves
            MODEL@VARIANT for each variant.
    """
    model, variant = split_model_name(name, listed)
    return name in listed or (variant in VARIANTS and model in listed and f"{model}@{RAW}" in listed)


def _names_a_variant(name: str, listed: Collection[str]) -> bool:
    model, variant = split_model_name(name, ())
    return variant in VARIANTS and model in listed
