"""Loads and writes bundles. Every load verifies the bundle, and a failed write leaves no files.

A bundle is a directory with these files:

    manifest.json    format, name, model, layout, retrieval policy, sampling, embedder, provenance; and SHA-256 and
                     size of each other file
    prompt.txt       the system prompt, byte for byte
    examples.jsonl   one example per line
    vectors.npy      float32 (examples, dimension): row n (norm 1) is the vector of the query in line n
    centroids.npy    only if the bank is large (more than 50,000 examples): the centroid of each cluster; the lines of
                     examples.jsonl and the rows of vectors.npy are then sorted by cluster
    offsets.npy      only if the bank is large: the row of vectors.npy at which each cluster begins
    sets.json        only if the retrieval policy uses sets: the example sets

This module combines the files of a bundle. bundle_input.py defines the input of a new bundle. files.py reads and writes
single files. manifest.py, example_bank.py, sets_file.py and vectors.py parse the contents. A bundle never contains a
pickle or a FAISS index, because reading such a file can run code or corrupt memory. A load reads each file only once,
so that exactly the bytes whose hash was checked are parsed. If the bank is large, all files except the manifest are
mapped into memory.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from index.bundle.bundle_input import BundleInput
from index.bundle.example_bank import StoredExamples, examples_bytes, parse_examples, parse_prompt, refuse_unreadable
from index.bundle.files import (
    MANIFEST,
    Content,
    check_hashes,
    check_output_directory,
    map_file,
    publish,
    read_file,
    read_manifest_bytes,
)
from index.bundle.manifest import (
    CENTROIDS,
    EXAMPLES,
    FORMAT,
    OFFSETS,
    PROMPT,
    SETS,
    VECTORS,
    manifest_bytes,
    parse_manifest,
)
from index.bundle.sets_file import parse_sets, sets_bytes
from index.bundle.shipped import GENERAL, SHIPPED
from index.bundle.vectors import array_bytes, parse_clusters, parse_vectors
from index.embedders.base import Embedder
from index.errors import BundleFormatError, EmbedderMismatchError
from index.types import (
    Bundle,
    Clusters,
    EmbedderSpec,
    Example,
    FileRecord,
    Manifest,
    Vectors,
)

LARGE_BANK: Final = 50_000
"""A bank is large if it has more than this number of examples.

A large bank is sorted into clusters, and each of its examples is read from the mapped file when it is needed.
"""
_MIN_PROBE_SIMILARITY = 0.999  # the lowest cosine of a bundle's vector and the new vector of the same query
_TEXTS_PER_CALL = 64  # the maximum number of queries that are embedded in one call

ReportStep = Callable[[str], object]


def default_bundle_directory() -> Path:
    """Return the directory of the general bundle of drpo, which was written by hand (see shipped.py)."""
    return SHIPPED / GENERAL


def read_manifest(directory: Path) -> Manifest:
    """Read only the manifest of a bundle. The manifest names the embedder that `load_bundle` needs.

    Raises:
        BundleError: The manifest cannot be read or is invalid.
    """
    return parse_manifest(read_manifest_bytes(directory), str(directory / MANIFEST))


def read_bundle(directory: Path) -> Bundle:
    """Read and check a bundle without an embedder. Only `load_bundle` also checks which embedder made the vectors.

    Raises:
        BundleError: The bundle is invalid.
    """
    data = read_manifest_bytes(directory)
    manifest = parse_manifest(data, str(directory / MANIFEST))
    read = read_file if manifest.probes is None else map_file
    contents = {name: read(directory / name, record.size) for name, record in manifest.files.items()}
    return _assemble(data, manifest, contents, directory)


def load_bundle(directory: Path, embedder: Embedder) -> Bundle:
    """Read a bundle, and also check that `embedder` made its vectors.

    Raises:
        BundleError: The bundle is invalid, or another embedder made its vectors.
        EmbedderError: The embedder did not answer.
    """
    bundle = read_bundle(directory)
    _check_embedder(bundle, embedder, directory)
    return bundle


def write_bundle(
    directory: Path, source: BundleInput, embedder: Embedder, report_step: ReportStep = lambda _: None
) -> Bundle:
    """Embed the queries of `source`, and write a bundle that `load_bundle` accepts. An error leaves no files behind.

    If `source` has more than `LARGE_BANK` examples, they are written in the order of their clusters.

    Args:
        directory: The directory of the new bundle.
        source: The content of the bundle.
        embedder: Embeds the queries.
        report_step: Called before each step that can take long, with the name of the step.

    Returns:
        The bundle as it was written.

    Raises:
        BundleError: The directory exists already, its parent does not exist, the input is invalid, the embedder gives
            different vectors when it embeds the same query twice, or a file cannot be written.
        EmbedderError: The embedder did not answer.
    """
    check_output_directory(directory)
    contents = check_bundle_input(source, embedder.spec, directory)
    vectors = _embed(embedder, [example.query for example in source.examples])
    _refuse_unread(vectors, source.examples, embedder.spec)
    order, probes, arrays = _vector_files(vectors, report_step)
    contents |= arrays
    if order is not None:
        contents[EXAMPLES] = examples_bytes([source.examples[row] for row in order])
    report_step("writing and checking the bundle")
    manifest = _describe(source, embedder.spec, contents, probes)
    data = manifest_bytes(manifest)
    bundle = _assemble(data, parse_manifest(data, str(directory / MANIFEST)), contents, directory)
    _check_embedder(bundle, embedder, directory)
    publish(directory, {**contents, MANIFEST: data})
    return bundle


def check_bundle_input(source: BundleInput, spec: EmbedderSpec, directory: Path = Path()) -> dict[str, bytes]:
    """Check all of a bundle's input that does not depend on vectors. `write_bundle` makes the same check.

    Callers check an input as early as they can, because embedding can take minutes or cost money, and so can the work
    before it.

    Args:
        source: The content of the bundle.
        spec: The embedder that will embed the queries.
        directory: The directory of the bundle, which is used only in messages.

    Returns:
        The contents of the files, by file name. The content of vectors.npy is empty.

    Raises:
        BundleError: The input is invalid.
    """
    contents = {PROMPT: _encode_prompt(source.prompt), EXAMPLES: examples_bytes(source.examples), VECTORS: b""}
    if source.retrieval.has_sets:
        contents[SETS] = sets_bytes(source.sets)
    prompt = parse_prompt(contents[PROMPT], str(directory / PROMPT))
    if source.needs_prompt:
        refuse_unreadable(prompt, f"{directory / PROMPT}: the prompt")
    examples = parse_examples(contents[EXAMPLES], str(directory / EXAMPLES))
    if source.needs_examples and not examples:
        raise BundleFormatError(f"{directory / EXAMPLES}: there is no example. Add at least one")
    if SETS in contents:
        parse_sets(contents[SETS], source.examples, str(directory / SETS), source.retrieval.neutral_set)
    parse_manifest(manifest_bytes(_describe(source, spec, contents)), str(directory / MANIFEST))
    return contents


def _assemble(manifest_data: bytes, manifest: Manifest, contents: Mapping[str, Content], directory: Path) -> Bundle:
    """Verify and parse the contents of the files, and return the bundle. `directory` is used only in messages."""
    check_hashes(contents, manifest.files, directory)
    is_large, location, lines = manifest.probes is not None, str(directory / EXAMPLES), contents[EXAMPLES]
    examples = StoredExamples(lines, location) if is_large else parse_examples(lines[:], location)
    shape = (len(examples), manifest.embedder.dimension)
    vectors = parse_vectors(contents[VECTORS], shape, directory / VECTORS)
    neutral = manifest.retrieval.neutral_set
    return Bundle(
        id=hashlib.sha256(manifest_data).hexdigest(),
        manifest=manifest,
        prompt=parse_prompt(contents[PROMPT][:], str(directory / PROMPT)),
        examples=examples,
        vectors=vectors,
        clusters=_parse_clusters(contents, vectors, directory) if is_large else None,
        sets=parse_sets(contents[SETS][:], examples, str(directory / SETS), neutral) if SETS in contents else (),
    )


def _parse_clusters(contents: Mapping[str, Content], vectors: Vectors, directory: Path) -> Clusters:
    paths = (directory / CENTROIDS, directory / OFFSETS)
    return parse_clusters(contents[CENTROIDS], contents[OFFSETS], vectors, paths)


def _check_embedder(bundle: Bundle, embedder: Embedder, directory: Path) -> None:
    """Check that `embedder` made the vectors of the bundle. Raises EmbedderMismatchError.

    The first, the middle and the last query of the bank are embedded again and compared with the bundle's vectors. Each
    of the three is embedded in a separate call, because the proxy also embeds one query per call. A bundle without
    examples has no vectors to compare.
    """
    made, at_hand = bundle.manifest.embedder, embedder.spec
    if at_hand.dimension != made.dimension:
        raise _wrong_embedder(directory, made, at_hand, f"gives {at_hand.dimension} dimensions, not {made.dimension}")
    count = len(bundle.examples)
    for position in sorted({0, count // 2, count - 1} if count else ()):
        vector = embedder.embed([bundle.examples[position].query])[0]
        similarity = float(np.dot(vector, bundle.vectors[position]) / np.linalg.norm(vector))
        if not similarity >= _MIN_PROBE_SIMILARITY:
            name = bundle.examples[position].id
            raise _wrong_embedder(directory, made, at_hand, f"gives another vector for {name}, cosine {similarity:.3f}")


def _wrong_embedder(directory: Path, made: EmbedderSpec, at_hand: EmbedderSpec, why: str) -> EmbedderMismatchError:
    return EmbedderMismatchError(
        f"{directory / VECTORS}: was made by the embedder {made.name} (revision {made.revision}). The opened embedder "
        f"{at_hand.name} (revision {at_hand.revision}) {why}. Open the bundle's embedder, or build the bundle again "
        "with the opened one"
    )


def _encode_prompt(prompt: str) -> bytes:
    try:
        return prompt.encode()
    except UnicodeEncodeError:
        raise BundleFormatError(
            f"{PROMPT}: the prompt holds half of a surrogate pair. Write the whole character"
        ) from None


def _embed(embedder: Embedder, queries: Sequence[str]) -> Vectors:
    starts = range(0, len(queries), _TEXTS_PER_CALL)
    parts = [embedder.embed(queries[start : start + _TEXTS_PER_CALL]) for start in starts]
    none = np.zeros((0, embedder.spec.dimension), np.float32)
    return np.ascontiguousarray(np.concatenate([none, *parts]), dtype=np.float32)


def _refuse_unread(vectors: Vectors, examples: Sequence[Example], spec: EmbedderSpec) -> None:
    """Raise BundleFormatError if a vector is zero: the embedder could not read the query."""
    unread = np.flatnonzero(~vectors.any(axis=1))
    if unread.size:
        raise BundleFormatError(
            f"the embedder {spec.name} cannot read the query of the example {examples[int(unread[0])].id} "
            f"({unread.size:,} of {len(examples):,}). Leave the example out, or choose another embedder"
        )


def _vector_files(
    vectors: Vectors, report_step: ReportStep
) -> tuple[NDArray[np.intp] | None, int | None, dict[str, bytes]]:
    """Return the order of the rows, the number of clusters to search, and the contents of the array files.

    The order and the number are None if there are at most `LARGE_BANK` vectors.
    """
    if len(vectors) <= LARGE_BANK:
        return None, None, {VECTORS: array_bytes(vectors)}
    # Imported here, because this import loads FAISS, which takes longer than most commands take to run.
    from index.bundle.clusters import choose_probes, sort_into_clusters

    report_step("sorting the vectors into clusters")
    order, clusters = sort_into_clusters(vectors)
    ordered = np.ascontiguousarray(vectors[order])
    report_step("choosing how many clusters to search")
    probes = choose_probes(ordered, clusters)
    arrays: dict[str, NDArray[Any]] = {VECTORS: ordered, CENTROIDS: clusters.centroids, OFFSETS: clusters.offsets}
    return order, probes, {name: array_bytes(array) for name, array in arrays.items()}


def _describe(
    source: BundleInput, spec: EmbedderSpec, contents: Mapping[str, bytes], probes: int | None = None
) -> Manifest:
    return Manifest(
        format=FORMAT,
        name=source.name,
        model=source.model,
        layout=source.layout,
        retrieval=source.retrieval,
        sampling=dict(source.sampling),
        embedder=spec,
        files={name: FileRecord(hashlib.sha256(data).hexdigest(), len(data)) for name, data in contents.items()},
        provenance=dict(source.provenance),
        probes=probes,
    )
