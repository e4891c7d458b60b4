"""Reads a published prompt for `drpo-index import`, and writes the report of the command."""

import argparse
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from index.bundle.bundle_input import BundleInput
from index.cli.import_arguments import DRPO, URIAL
from index.errors import UsageError
from index.published.drpo import EMBEDDER, SHOWN, parse_drpo
from index.published.locate import find_drpo, find_urial
from index.published.published_prompt import PublishedPrompt
from index.published.urial import parse_urial

_AUTHORS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        URIAL: ("URIAL", "https://github.com/Re-Align/URIAL"),
        DRPO: ("DRPO", "https://github.com/Singla17/DRPO"),
    }
)
_SAMPLING: Final[Mapping[str, object]] = MappingProxyType({"temperature": 0})


@dataclass(frozen=True, slots=True)
class Import:
    """A published prompt that was read.

    Attributes:
        source: The input of the bundle.
        published: The prompt that was read, with the parts of it that the bundle does not express.
        files: The files that were read.
    """

    source: BundleInput
    published: PublishedPrompt
    files: tuple[Path, ...]


def read_import(options: argparse.Namespace, sampling: Mapping[str, object], read: Callable[[Path], bytes]) -> Import:
    """Find, read and parse the files that the options of `drpo-index import` name.

    Args:
        options: The options.
        sampling: The sampling parameters that the option --sampling gives.
        read: Returns the content of a file.

    Raises:
        UsageError: A file is missing, the path leads to several prompts, or the options do not fit together.
        BundleError: A file is not what the option --from says, or a bundle cannot contain it.
    """
    if options.origin == URIAL and options.examples is not None:
        raise UsageError("--examples: a text of URIAL has its examples in it. Leave this option out")
    files = _find(options)
    contents = [read(file) for file in files]
    found = _parse(files, contents)
    found = replace(found, lost=(*found.lost, *_lost_embedder(options)))
    name, address = _AUTHORS[options.origin]
    hashes = [
        f"{file.name}, SHA-256 {hashlib.sha256(data).hexdigest()}" for file, data in zip(files, contents, strict=True)
    ]
    source = BundleInput(
        name=options.out.name if options.name is None else options.name,
        model=options.model,
        layout=found.layout,
        prompt=found.prompt,
        examples=found.examples,
        retrieval=found.retrieval,
        sampling={**_SAMPLING, **sampling},
        provenance={
            "origin": f"{name}, published by its authors: {address}",
            "files": hashes,
            "lost": list(found.lost),
        },
        needs_prompt=False,
    )
    return Import(source, found, files)


def report(imported: Import) -> Iterator[str]:
    """Yield the lines of the report: what the bundle has, and what is lost."""
    source, found = imported.source, imported.published
    yield f"read     {', '.join(map(str, imported.files))}"
    pinned = sum(example.pinned for example in source.examples)
    shown = f"examples pinned in their order: {pinned}" if pinned else f"the {SHOWN} nearest of {len(source.examples)}"
    yield f"text     layout {source.layout}, {shown}; {'a' if source.prompt else 'no'} system prompt"
    yield f"sampling {', '.join(f'{key} {value}' for key, value in source.sampling.items())}"
    if found.size is not None:
        yield f"The text is that of the authors' code, byte for byte (compared: {found.size:,} bytes, all examples)."
    if found.lost:
        yield "Lost:"
        yield from (f"- {sentence}" for sentence in found.lost)
    else:
        yield "Nothing is lost."


def _find(options: argparse.Namespace) -> tuple[Path, ...]:
    if options.origin == URIAL:
        return (find_urial(options.path),)
    return find_drpo(options.path, options.model, options.examples)


def _parse(files: tuple[Path, ...], contents: list[bytes]) -> PublishedPrompt:
    if len(files) == 1:
        return parse_urial(contents[0], str(files[0]))
    return parse_drpo(contents[0], str(files[0]), contents[1], str(files[1]))


def _lost_embedder(options: argparse.Namespace) -> tuple[str, ...]:
    """Return what is lost if the nearest examples are found by another embedder than the authors'."""
    if options.origin == URIAL or options.embedder.endswith(EMBEDDER):
        return ()
    sentence = (
        f"The nearest examples are found with the embedder {options.embedder}, and not with {EMBEDDER}: other examples "
        f"may be nearest. `--embedder sentence-transformers:{EMBEDDER}` finds those of the authors."
    )
    return (sentence,)
