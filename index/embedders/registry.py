"""The registry of embedder kinds. A new kind needs its own module and one entry in `EMBEDDER_KINDS`.

An embedder's name is the name of its kind, followed by a colon and an argument if the kind takes one:

    multilingual                  the embedder that comes with the package (index/embedders/multilingual.py)
    minilm                        an English model; needs the extra minilm (index/embedders/minilm.py)
    sentence-transformers:NAME    a folder with a model, or a model of the hub; needs the extra sentence-transformers
    openai:URL#MODEL              a server with /v1/embeddings; the URL ends in /v1, as in OpenAI clients
    python:MODULE:CLASS           a class in the user's own code, called without arguments (examples/extend)

This module does not depend on bundles or retrieval.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from index.embedders.base import Embedder
from index.embedders.minilm import NAME as MINILM
from index.embedders.minilm import MiniLMEmbedder
from index.embedders.multilingual import NAME as MULTILINGUAL
from index.embedders.multilingual import MultilingualEmbedder
from index.embedders.openai_server import OpenAIEmbedder
from index.embedders.python_class import open_python_class
from index.embedders.sentence_transformers_model import SentenceTransformersEmbedder
from index.errors import EmbedderError

DEFAULT_EMBEDDER: Final = MULTILINGUAL
"""The embedder that comes with the package."""

DEFAULT_REWARD_EMBEDDER: Final = MINILM
"""The embedder that measures rewards.

It differs from the default embedder, because the embedder that chose the examples must not also score the answers.
"""

LOCAL_EMBEDDERS: Final = frozenset({MULTILINGUAL, MINILM})
"""The embedders whose code and weights drpo pins, and which send no data to a server."""


@dataclass(frozen=True, slots=True)
class EmbedderKind:
    """How embedders of one kind are opened and called.

    Attributes:
        argument: The form of the argument in an embedder's name, such as `MODULE:CLASS`. Help texts contain it. It is
            empty if the kind takes no argument.
        open: A function that takes the argument from an embedder's name, and opens the embedder. Raises EmbedderError.
        texts_per_call: The maximum number of clients' queries that the proxy embeds in one call. No vector of a
            call arrives before the whole call ends. A large number is therefore useful only if a call with many texts
            takes less time per text.
    """

    argument: str
    open: Callable[[str], Embedder]
    texts_per_call: int = 1


EMBEDDER_KINDS: Final[Mapping[str, EmbedderKind]] = MappingProxyType(
    {
        # multilingual and minilm embed the texts of a call one by one, so more texts per call save no time.
        # sentence-transformers runs the model on all texts of a call together, which is faster. openai needs one
        # network request for up to 128 texts, so more texts per call save the most time.
        MULTILINGUAL: EmbedderKind("", lambda _: MultilingualEmbedder()),
        MINILM: EmbedderKind("", lambda _: MiniLMEmbedder()),
        "sentence-transformers": EmbedderKind("NAME", SentenceTransformersEmbedder, texts_per_call=8),
        "openai": EmbedderKind("URL#MODEL", OpenAIEmbedder, texts_per_call=32),
        "python": EmbedderKind("MODULE:CLASS", open_python_class),
    }
)


def embedder_forms() -> str:
    """Return the forms of all embedder names, for help texts and error messages."""
    *first, last = (f"{name}:{kind.argument}" if kind.argument else name for name, kind in EMBEDDER_KINDS.items())
    return f"{', '.join(first)} or {last}"


def check_embedder_allowed(name: str, allowed: Collection[str], bundle: str) -> None:
    """Check that a bundle may use the embedder that its manifest names.

    The embedders of `LOCAL_EMBEDDERS` are always allowed, because they send no data to a server. With any other
    embedder, the bundle decides which code runs, which model is loaded, or which server receives every query. The user
    must therefore allow any other embedder by name.

    Args:
        name: The name of the embedder in the bundle's manifest.
        allowed: The names of the embedders that the user allows.
        bundle: The directory of the bundle, for the error message.

    Raises:
        EmbedderError: The embedder is not allowed.
    """
    if name not in {*LOCAL_EMBEDDERS, *allowed}:
        raise EmbedderError(
            f"{bundle}: its embedder is {name}, which would run code, load a model, or be sent the key and every query."
            f" If you trust it, add --allow-embedder '{name}'."
        )


def open_embedder(name: str) -> Embedder:
    """Open the embedder of this name.

    Raises:
        EmbedderError: The name does not have the form of any kind, or the embedder cannot be opened.
    """
    kind_name, colon, argument = name.partition(":")
    kind = EMBEDDER_KINDS.get(kind_name)
    if kind is None or bool(colon) != bool(kind.argument) or bool(argument) != bool(kind.argument):
        raise EmbedderError(f"there is no embedder {name!r}: it is {embedder_forms()}")
    return kind.open(argument)


def texts_per_call(name: str) -> int:
    """Return `texts_per_call` of the kind of the embedder `name`, or 1 if the registry has no such kind."""
    kind = EMBEDDER_KINDS.get(name.partition(":")[0])
    return 1 if kind is None else kind.texts_per_call
