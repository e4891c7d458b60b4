"""Loads and writes bundles. A bundle is a directory, which is written whole or not at all and verified on every load.

    manifest.json    format, name, model, layout, policy, sampling, embedder, SHA-256 and size of each file, provenance
    prompt.txt       the system prompt, exactly these bytes
    examples.jsonl   one example per line
    vectors.npy      float32 (examples, dimension), rows of norm 1: the embedded queries, in the order of the lines
    centroids.npy, offsets.npy   only with a large bank: the clusters, by which lines and vectors are sorted
    sets.json        only if the order of the policy is `set`: the example sets, one of which a query is shown

This module combines the files of a directory. files.py reads one file; manifest.py, example_bank.py, sets_file.py
and vectors.py parse the contents. A bundle never contains a pickle or a FAISS index, because reading such a file can
run code or corrupt memory. Each file is read once, so that the bytes that are parsed are the bytes that were hashed.
The files of a large bank are mapped into memory.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from index.bundle.example_bank import StoredExamples, examples_bytes, parse_examples, parse_prompt
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
from index.bundle.vectors import array_bytes, parse_clusters, parse_vectors
from index.embedders.base import Embedder
from index.errors import BundleFormatError, EmbedderMismatchError
from index.types import (
    Bundle,
    Clusters,
    EmbedderSpec,
    Example,
    ExampleSet,
    FileRecord,
    Manifest,
    RetrievalPolicy,
    Vectors,
)

LARGE_BANK: Final = 50_000
"""A bank with more examples is sorted into clusters, and its examples are read from the disk when they are needed."""
_MIN_PROBE_SIMILARITY = 0.999
_TEXTS_PER_CALL = 64

ReportStep = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class BundleInput:
    """The input of `write_bundle`, which computes the vectors and hashes. See `Manifest` for the attributes."""

    name: str
    model: str
    layout: str
    prompt: str
    examples: Sequence[Example]
    retrieval: RetrievalPolicy
    sampling: Mapping[str, object]
    provenance: Mapping[str, object]
    sets: Sequence[ExampleSet] = ()


def default_bundle_directory() -> Path:
    """Return the directory of the bundle that comes with this package."""
    return Path(__file__).parent.parent / "default"


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest alone, so that a caller knows which embedder to open.

    Raises:
        BundleError: The manifest cannot be read or is invalid.
    """
    return parse_manifest(read_manifest_bytes(directory), str(directory / MANIFEST))


def read_bundle(directory: Path) -> Bundle:
    """Read a bundle to look at it, with every check that does not need an embedder.

    Raises:
        BundleError: The bundle is invalid.
    """
    data = read_manifest_bytes(directory)
    manifest = parse_manifest(data, str(directory / MANIFEST))
    read = read_file if manifest.probes is None else map_file
    contents = {name: read(directory / name, record.size) for name, record in manifest.files.items()}
    return _assemble(data, manifest, contents, directory)


def load_bundle(directory: Path, embedder: Embedder) -> Bundle:
    """Load a bundle to serve it, with every check.

    Raises:
        BundleError: The bundle is invalid, or `embedder` did not make its vectors.
        EmbedderError: The embedder did not answer.
    """
    bundle = read_bundle(directory)
    _check_embedder(bundle, embedder, directory)
    return bundle


def write_bundle(
    directory: Path, source: BundleInput, embedder: Embedder, report_step: ReportStep = lambda _: None
) -> Bundle:
    """Embed the queries of `source` and write a bundle that `load_bundle` accepts, or nothing.

    Args:
        directory: The new directory. The examples of a large bank are written in the order of their clusters.
        source: The content of the bundle.
        embedder: Embeds the queries.
        report_step: Called with the name of each step that takes long.

    Raises:
        BundleError: The directory exists, its parent does not, the input is invalid, or the disk is full.
        EmbedderError: The embedder did not answer.
    """
    check_output_directory(directory)
    contents = {PROMPT: _encode_prompt(source.prompt), EXAMPLES: examples_bytes(source.examples), VECTORS: b""}
    if source.retrieval.order == "set":
        contents[SETS] = sets_bytes(source.sets)
    _check_before_embedding(source, embedder.spec, contents, directory)
    vectors = _embed(embedder, [example.query for example in source.examples])
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


def _assemble(manifest_data: bytes, manifest: Manifest, contents: Mapping[str, Content], directory: Path) -> Bundle:
    """Verify the contents of the files and return the bundle. `directory` is only used in messages."""
    check_hashes(contents, manifest.files, directory)
    is_large, location, lines = manifest.probes is not None, str(directory / EXAMPLES), contents[EXAMPLES]
    examples = StoredExamples(lines, location) if is_large else parse_examples(lines[:], location)
    shape = (len(examples), manifest.embedder.dimension)
    vectors = parse_vectors(contents[VECTORS], shape, directory / VECTORS)
    return Bundle(
        id=hashlib.sha256(manifest_data).hexdigest(),
        manifest=manifest,
        prompt=parse_prompt(contents[PROMPT][:], str(directory / PROMPT)),
        examples=examples,
        vectors=vectors,
        clusters=_parse_clusters(contents, vectors, directory) if is_large else None,
        sets=parse_sets(contents[SETS][:], examples, str(directory / SETS)) if SETS in contents else (),
    )


def _parse_clusters(contents: Mapping[str, Content], vectors: Vectors, directory: Path) -> Clusters:
    paths = (directory / CENTROIDS, directory / OFFSETS)
    return parse_clusters(contents[CENTROIDS], contents[OFFSETS], vectors, paths)


def _check_embedder(bundle: Bundle, embedder: Embedder, directory: Path) -> None:
    """Embed the first, middle and last query again, one by one as in requests, and compare the vectors."""
    made, at_hand = bundle.manifest.embedder, embedder.spec
    if at_hand.dimension != made.dimension:
        raise _wrong_embedder(directory, made, at_hand, f"gives {at_hand.dimension} dimensions, not {made.dimension}")
    count = len(bundle.examples)
    for position in sorted({0, count // 2, count - 1}):
        vector = embedder.embed([bundle.examples[position].query])[0]
        similarity = float(np.dot(vector, bundle.vectors[position]) / np.linalg.norm(vector))
        if not similarity >= _MIN_PROBE_SIMILARITY:
            name = bundle.examples[position].id
            raise _wrong_embedder(directory, made, at_hand, f"gives another vector for {name}, cosine {similarity:.3f}")


def _wrong_embedder(directory: Path, made: EmbedderSpec, at_hand: EmbedderSpec, why: str) -> EmbedderMismatchError:
    return EmbedderMismatchError(
        f"{directory / VECTORS}: was made by the embedder {made.name} (revision {made.revision}); {at_hand.name} "
        f"(revision {at_hand.revision}) {why}: open the bundle's embedder, or build the bundle again with this one"
    )


def _encode_prompt(prompt: str) -> bytes:
    try:
        return prompt.encode()
    except UnicodeEncodeError:
        raise BundleFormatError(
            f"{PROMPT}: the prompt holds half of a surrogate pair: write the whole character"
        ) from None


def _check_before_embedding(
    source: BundleInput, spec: EmbedderSpec, contents: Mapping[str, bytes], directory: Path
) -> None:
    """Check all that can be checked before embedding, which may take minutes or cost money."""
    parse_prompt(contents[PROMPT], str(directory / PROMPT))
    parse_examples(contents[EXAMPLES], str(directory / EXAMPLES))
    if SETS in contents:
        parse_sets(contents[SETS], source.examples, str(directory / SETS))
    parse_manifest(manifest_bytes(_describe(source, spec, contents)), str(directory / MANIFEST))


def _embed(embedder: Embedder, queries: Sequence[str]) -> Vectors:
    starts = range(0, len(queries), _TEXTS_PER_CALL)
    vectors = np.concatenate([embedder.embed(queries[start : start + _TEXTS_PER_CALL]) for start in starts])
    return np.ascontiguousarray(vectors, dtype=np.float32)


def _vector_files(
    vectors: Vectors, report_step: ReportStep
) -> tuple[NDArray[np.intp] | None, int | None, dict[str, bytes]]:
    """Return the order and the probes of a large bank (None for another), and the contents of the array files."""
    if len(vectors) <= LARGE_BANK:
        return None, None, {VECTORS: array_bytes(vectors)}
    # Imported here because FAISS takes longer to load than most commands take to run.
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
