"""Decides how the embedded model serves a GGUF file of the operator (--model-file): name, context length and slots."""

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from index.bundle.shipped import DEFAULT_BUNDLE
from proxy.backends.embedded.gguf import GgufHeader, read_header
from proxy.backends.embedded.memory import available_memory
from proxy.core.errors import EmbeddedError
from proxy.core.settings import EMBEDDED, Settings

MODEL_NAME: Final = "google/gemma-3-270m"
"""The id of the embedded model if there is no model file."""
MIN_CONTEXT: Final = 512  # tokens
_USUAL_CONTEXT: Final = 4096  # tokens; the context length of a file that names none
_GOOD_CONTEXT: Final = 8192  # tokens; there are fewer slots before the context gets shorter than this
_SLOTS: Final = (4, 2, 1)  # concurrent requests; each has the full context length
_STEP: Final = 256  # tokens; a chosen context length is a multiple of this number
# Without --context, the cached keys and values take at most this many bytes, and at most this share of the memory that
# the weights leave.
_MAX_CACHE_BYTES: Final = 4 * 2**30
_CACHE_SHARE: Final = 0.5
_BATCH: Final = 512  # tokens that llama.cpp computes at once
_FIXED_BYTES: Final = 300 * 2**20  # memory of the process without weights and caches
_MAX_LAYERS: Final = 10_000  # a larger number in a file counts as this number
_MAX_NAME: Final = 100  # characters of a model id that is taken from the file
_GB: Final = 1e9
# What llama.cpp logs about a file that it cannot load.
_UNKNOWN_PART: Final = re.compile(
    r"unknown (?:model )?(architecture|pre-tokenizer type|tokenizer)[^'\n]{0,20}'([^'\n]{1,60})'"
)
_DAMAGED: Final = re.compile(
    r"not within the file bounds|corrupted or incomplete|missing tensor|wrong shape|invalid ggml type"
    r"|key not found in model|wrong number of tensors|failed to read tensor|invalid tensor"
)
_NO_MEMORY: Final = re.compile(r"(?:failed|unable) to allocate|bad_alloc|out of memory|cannot allocate", re.IGNORECASE)
_UPGRADE: Final = "pip install --upgrade xllamacpp"
_PART: Final = re.compile(r"-(\d{5})-of-(\d{5})(?=\.gguf$)")  # in the name of a file that is one part of a model


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model file, and how it is served.

    Attributes:
        path: The file.
        name: The id of the model.
        context: The context length of each slot, in tokens.
        slots: The number of concurrent requests.
        has_template: Whether the file has a chat template.
    """

    path: Path
    name: str
    context: int
    slots: int
    has_template: bool


def with_embedded_model(settings: Settings) -> Settings:
    """Complete the settings of the embedded model: the name of the model in a file, and the default bundle.

    If the settings name no bundle, the embedded model gets the default bundle, and no other model gets one.

    Raises:
        EmbeddedError: The file cannot be served.
    """
    backends = settings.backends
    if EMBEDDED not in backends.backend:
        return settings
    name = MODEL_NAME
    if backends.model_file:
        name = open_model_file(backends.model_file, backends.model_name, backends.context).name
        settings = replace(settings, backends=replace(backends, model_name=name))
    bundles = settings.injection.bundle or (f"{name}={DEFAULT_BUNDLE}",)
    return replace(settings, injection=replace(settings.injection, bundle=bundles))


def open_model_file(path: str, name: str, context: int, available: int | None = None) -> ModelFile:
    """Read the header of a model file, and decide how it is served.

    Args:
        path: The path of the file.
        name: The id of the model; empty to take the name in the file, or the name of the file.
        context: The context length of each slot, in tokens; 0 to take as much as the file and the memory allow.
        available: The bytes of available memory. None means `available_memory()`.

    Raises:
        EmbeddedError: The file is missing, is no model that generates text, is damaged, or does not fit into memory.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        found = ", ".join(sorted(one.name for one in file.glob("*.gguf"))[:5])
        raise EmbeddedError(f"--model-file {path}: this is a folder. Give a .gguf file{found and f' in it: {found}'}.")
    header = read_header(file)
    _check_content(path, header)
    size = sum(part.stat().st_size for part in _parts(file, header))
    left = available_memory() if available is None else available
    chosen, slots = _fitting(path, header, size, context, left)
    has_template = bool(str(header.values.get("tokenizer.chat_template") or "").strip())
    return ModelFile(file.absolute(), _name(name, header, file), chosen, slots, has_template)


def file_problem(file: ModelFile, log: str, status: int | None) -> str:
    """Return why llama.cpp could not load a model file, for the operator; empty if the reason is not known.

    Args:
        file: The model file.
        log: The end of llama.cpp's log.
        status: The exit status of its process; None if the process still runs.
    """
    beginning = f"--model-file {file.path}: "
    if found := _UNKNOWN_PART.search(log):
        return f"{beginning}this version of llama.cpp does not know the {found[1]} {found[2]!r}. Run: {_UPGRADE}"
    if _DAMAGED.search(log):
        return f"{beginning}the file is damaged or cut short. Download it again."
    if status == -signal.SIGKILL or _NO_MEMORY.search(log):
        return f"{beginning}the model does not fit into memory. Give a smaller --context, or a smaller quantization."
    return ""


def _check_content(path: str, header: GgufHeader) -> None:
    kind = str(header.values.get("general.type") or "model")
    if kind != "model" or header.architecture == "clip":
        raise EmbeddedError(
            f"--model-file {path}: this file contains no language model, only an addition to one "
            f"({kind if kind != 'model' else header.architecture}). Give the file of the model."
        )
    if not header.architecture or not header.counts.get("tokenizer.ggml.tokens"):
        missing = "architecture" if not header.architecture else "vocabulary"
        raise EmbeddedError(f"--model-file {path}: this file has no {missing}, so it contains no language model.")
    if header.own("attention.causal") is False or header.own("pooling_type"):
        raise EmbeddedError(
            f"--model-file {path}: this is an embedding model, which generates no text. Give a language model."
        )


def _parts(file: Path, header: GgufHeader) -> Sequence[Path]:
    """Return all files of a model: several if the model is split, else only `file`."""
    number, count = (header.values.get(f"split.{key}") for key in ("no", "count"))
    if not isinstance(count, int) or count < 2:
        return [file]
    found = _PART.search(file.name)
    names = [_PART.sub(f"-{part:05}-of-{count:05}", file.name) for part in range(1, count + 1)] if found else []
    if number:
        first = f" Give the first file, {names[0]}." if names else ""
        raise EmbeddedError(f"--model-file {file}: this is part {number + 1} of a model in {count} files.{first}")
    missing = [name for name in names if not file.with_name(name).is_file()]
    if missing or not names:
        advice = (
            f"The file {missing[0]} is missing. Download it into the folder of this file."
            if missing
            else f"Put all files into one folder, and name them as in NAME-00001-of-{count:05}.gguf."
        )
        raise EmbeddedError(f"--model-file {file}: the model consists of {count} files. {advice}")
    return [file.with_name(name) for name in names]


def _name(given: str, header: GgufHeader, file: Path) -> str:
    """Return the id of the model: one word, so that it can be used in flags and addresses."""
    if given:
        return given
    named = str(header.values.get("general.name") or "")
    words = (re.sub(r"[^\w.:/+-]+", "-", text).strip("-./:")[:_MAX_NAME] for text in (named, file.stem))
    return next((text for text in words if re.search(r"[^\W_]", text)), "model")


def _fitting(path: str, header: GgufHeader, size: int, asked: int, available: int | None) -> tuple[int, int]:
    """Return a context length in tokens and a number of slots that fit into memory."""
    most = header.number("context_length") or _USUAL_CONTEXT
    if asked and not MIN_CONTEXT <= asked <= most:
        raise EmbeddedError(f"--context {asked}: this model takes {MIN_CONTEXT} to {most} tokens.")
    per_token = _cache_bytes_per_token(header)
    if available is None or not per_token:
        return asked or min(most, _GOOD_CONTEXT), _SLOTS[0]
    room = available - size - _working_bytes(header)
    if room < (asked or MIN_CONTEXT) * per_token:
        raise _does_not_fit(path, asked, available - room + (asked or MIN_CONTEXT) * per_token, available)
    if asked:
        return asked, next(slots for slots in _SLOTS if slots * asked * per_token <= room)
    return _largest(most, int(min(room * _CACHE_SHARE, _MAX_CACHE_BYTES)) // per_token, room // per_token)


def _largest(most: int, cached: int, possible: int) -> tuple[int, int]:
    """Return the context length and the number of slots if the operator gave no context length.

    Args:
        most: The context length of the model.
        cached: The number of tokens that all slots together may cache.
        possible: The number of tokens that fit into memory at all; at least MIN_CONTEXT.
    """
    good = min(most, _GOOD_CONTEXT)
    slots = next((slots for slots in _SLOTS if cached // slots >= good), 1)
    tokens = max(cached // slots, min(possible, MIN_CONTEXT))
    return min(most, max(tokens // _STEP * _STEP, MIN_CONTEXT)), slots


def _does_not_fit(path: str, asked: int, needed: int, available: int) -> EmbeddedError:
    advice = "a smaller --context, or a smaller quantization" if asked else "a smaller model or quantization"
    with_context = f" with --context {asked}" if asked else ""
    return EmbeddedError(
        f"--model-file {path}: the model does not fit into memory. It needs {needed / _GB:.1f} GB{with_context}, "
        f"and {max(0, available) / _GB:.1f} GB are available. Free some memory, or give {advice}."
    )


def _cache_bytes_per_token(header: GgufHeader) -> int:
    """Return how many bytes the keys and values of one token take in all layers, with 16 bits per number."""
    heads, layers = header.own("attention.head_count"), min(header.number("block_count"), _MAX_LAYERS)
    heads_of_layers = _per_layer(header.own("attention.head_count_kv"), layers) or _per_layer(heads, layers)
    width = header.number("embedding_length") // max(1, *(_per_layer(heads, layers) or [1]))
    key = header.number("attention.key_length") or width
    value = header.number("attention.value_length") or width
    return 2 * sum(heads_of_layers) * (key + value)


def _per_layer(value: object, layers: int) -> list[int]:
    """Return one number per layer. `value` is a list of these numbers, or the one number that all layers have."""
    if isinstance(value, list):
        return [one for one in value if isinstance(one, int) and one >= 0]
    return [value] * layers if isinstance(value, int) and value > 0 else []


def _working_bytes(header: GgufHeader) -> int:
    """Return an estimate of the bytes that the process needs besides the weights and the cached keys and values."""
    vocabulary = header.counts.get("tokenizer.ggml.tokens", 0)
    return _FIXED_BYTES + 4 * _BATCH * (vocabulary + 4 * header.number("embedding_length"))
