"""Opens an embedder that is a class in the user's own code. This module depends only on the embedder protocol."""

import importlib

from index.embedders.base import Embedder
from index.errors import EmbedderError


def open_python_class(path: str) -> Embedder:
    """Import the class at `path` (MODULE:CLASS), and call it without arguments to create the embedder.

    Raises:
        EmbedderError: The class cannot be imported or called, or `spec.name` of the created embedder differs from
            `python:MODULE:CLASS`.
    """
    module, _, name = path.partition(":")
    try:
        embedder: Embedder = getattr(importlib.import_module(module), name)()
        spec_name = embedder.spec.name
    except Exception as error:  # noqa: BLE001 - a user's own code may fail in any way
        raise EmbedderError(f"python:{path}: cannot be used: {type(error).__name__}: {error}") from None
    if spec_name != f"python:{path}":
        raise EmbedderError(f"python:{path}: its spec calls it {spec_name!r}: call it by this name, as bundles will")
    return embedder
