"""The names of models and variants in requests: MODEL, or MODEL@VARIANT for a variant that the proxy serves.

The name of a model may itself contain an @. If a model is listed under the whole name, the name therefore means this
model.

Servers list one model under many names: with the organisation before it, as a path, or with the quantization after it.
`is_same_model` compares such names.
"""

import re
from collections.abc import Collection, Sequence
from typing import Final

ALIGNED: Final = "aligned"
RAW: Final = "raw"
RAW_MATCHED: Final = "raw-matched"
VARIANTS: Final = (ALIGNED, RAW, RAW_MATCHED)
VARIANT_HEADER: Final = "x-drpo-variant"
"""The header of requests and replies that names the variant."""
_SUFFIX: Final = re.compile(r"[a-z0-9-]+")
_PART: Final = re.compile(r"-\d{5}-of-\d{5}$")
# Ends of names that describe a file and not the model. Sizes, and words such as `instruct` and `it`, are not in this
# list, because they tell models apart.
_FORM: Final = re.compile(
    r"[-.](?:gguf|mlx|onnx|safetensors|latest|awq|gptq|bnb|quantized|hf"  # formats and methods
    r"|(?:ud-)?i?q[1-8](?:-[01](?:-\d)*|-k(?:-(?:xs|s|m|l|xl))?|-(?:xxs|xs|s|m|nl))?|mxfp[48]|nvfp4"  # llama.cpp
    r"|(?:bf|fp|f)(?:8|16|32)(?:-(?:dynamic|block))?|u?int[48]|[48]-?bit|w\d{1,2}a\d{1,2})$"
)
_BETWEEN_LETTER_AND_DIGIT: Final = re.compile(r"(?<=[a-z])-(?=\d)")


def split_model_name(name: str, listed: Collection[str]) -> tuple[str, str | None]:
    """Split a name into a model and a variant.

    Args:
        name: The name.
        listed: The names of the models that exist.

    Returns:
        The name itself and None if it is listed, or if it does not end with @ and a word. Otherwise the part before the
        last @, and the word after it, even if this word is not the name of a variant.
    """
    model, at, suffix = name.rpartition("@")
    if name in listed or not at or not _SUFFIX.fullmatch(suffix):
        return name, None
    return model, suffix


def plain_names(listed: Sequence[str]) -> list[str]:
    """Return a list of names of models without the names that mean a variant of another model in the list.

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
        listed: All names that the server lists. A server that is a drpo-proxy lists MODEL@raw for each model, and
            serves MODEL@VARIANT for each variant.
    """
    model, variant = split_model_name(name, listed)
    return name in listed or (variant in VARIANTS and model in listed and f"{model}@{RAW}" in listed)


def is_same_model(one: str, other: str) -> bool:
    """Return whether two names mean the same model, as far as names can tell.

    These parts of a name do not count: the organisation or the folder before it, upper and lower case, whether words
    are joined by `-`, `_`, `:`, `@` or a blank, the end of a file name, and the quantization. All other parts count. So
    google/gemma-3-270m and gemma-3-270m-Q4_K_M.gguf are the same model, and gemma-3-270m-it is another one.
    """
    key = _model_key(one)
    return bool(key) and key == _model_key(other)


def _model_key(name: str) -> str:
    """Return the part of a name that tells models apart, in one spelling."""
    last = name.rstrip("/").rpartition("/")[2]
    key = re.sub(r"[-_:@\s]+", "-", last.lower()).strip("-")
    while (shorter := _PART.sub("", _FORM.sub("", key))) != key:
        key = shorter
    return _BETWEEN_LETTER_AND_DIGIT.sub("", key)


def _names_a_variant(name: str, listed: Collection[str]) -> bool:
    model, variant = split_model_name(name, ())
    return variant in VARIANTS and model in listed
