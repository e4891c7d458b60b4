"""Opens an embedder that a class of the user implements. It depends on the embedder protocol alone."""

import importlib

from index.embedders.base import Embedder
from index.errors import EmbedderError


def open_python_class(path: str) -> Embedder:
    """Create the embedder of the class at `path` (MODULE:CLASS), which is called without arguments.

    Raises:
        EmbedderError: The class cannot be imported or called, or its spec has another name than python:MODULE:CLASS.
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
