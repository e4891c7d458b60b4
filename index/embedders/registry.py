"""The kinds of embedders, and how one is opened by its name.

    onnx                          the embedder that comes with the package (index/embedders/minilm.py)
    sentence-transformers:NAME    a model folder or a hub model; needs the extra sentence-transformers
    openai:URL#MODEL              a server with /v1/embeddings; the URL ends in /v1, as OpenAI clients take it
    python:MODULE:CLASS           a class of your own, which takes no arguments (examples/extend)

It does not know bundles or retrieval.
"""

import importlib
from collections.abc import Callable, Collection
from typing import Final

from index.embedders.base import Embedder
from index.embedders.minilm import OnnxEmbedder
from index.embedders.openai_server import OpenAIEmbedder
from index.embedders.sentence_transformers_model import SentenceTransformersEmbedder
from index.errors import EmbedderError

_KINDS = "onnx, sentence-transformers:NAME, openai:URL#MODEL or python:MODULE:CLASS"

DEFAULT_EMBEDDER: Final = "onnx"
"""The embedder that comes with the package."""


def check_embedder_allowed(name: str, allowed: Collection[str], bundle: str) -> None:
    """Raise EmbedderError unless a bundle may name this embedder: the one that comes with the package and sends nothing
    anywhere, or one that a person named. Others run code or load a model of the bundle's choice, or get every text."""
    if name not in {DEFAULT_EMBEDDER, *allowed}:
        raise EmbedderError(
            f"{bundle}: its embedder is {name}, which would run code, load a model, or be sent the key and every query."
            f" If you trust it, add --allow-embedder '{name}'."
        )


def open_embedder(name: str) -> Embedder:
    """Opens an embedder by its name (see the top of this file). EmbedderError says why it cannot be used."""
    kind, _, rest = name.partition(":")
    openers: dict[str, Callable[[str], Embedder]] = {
        "sentence-transformers": SentenceTransformersEmbedder,
        "openai": OpenAIEmbedder,
        "python": _of_ones_own,
    }
    if name == DEFAULT_EMBEDDER:
        return OnnxEmbedder()
    if kind not in openers or not rest:
        raise EmbedderError(f"there is no embedder {name!r}: it is {_KINDS}")
    return openers[kind](rest)


def _of_ones_own(place: str) -> Embedder:
    """The embedder that a class of the user's makes. EmbedderError: it cannot be imported or made."""
    module, _, name = place.partition(":")
    try:
        embedder: Embedder = getattr(importlib.import_module(module), name)()
        made = embedder.spec.name
    except Exception as error:  # noqa: BLE001 - a user's own code may fail in any way
        raise EmbedderError(f"python:{place}: cannot be used: {type(error).__name__}: {error}") from None
    if made != f"python:{place}":
        raise EmbedderError(f"python:{place}: its spec calls it {made!r}: call it by this name, as bundles will")
    return embedder


def texts_at_once(name: str) -> int:
    """How many texts the embedder of that name does well to get in one call, where each text's sender waits for it.

    One where a text costs the same alone (index/embedders/minilm.py says why); some where a batch is faster; many
    where every
    call is a request over the network.
    """
    return {"sentence-transformers": 8, "openai": 32}.get(name.partition(":")[0], 1)
