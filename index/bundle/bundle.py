"""The bundle, a directory: written at once or not at all, and checked to the last byte before it is used.

    manifest.json    format, name, model, layout, policy, sampling, embedder, SHA-256 and size of each file, provenance
    prompt.txt       the system prompt, exactly these bytes
    examples.jsonl   one example per line
    vectors.npy      float32 (examples, dimension), rows of norm 1: the embedded queries, in the order of the lines
    centroids.npy, offsets.npy   of a large bank alone: the clusters in whose order lines and vectors stand
    sets.json        where the policy's order is `set`: the sets, one of which a query is shown

Knows the directory and the files together; how one is read is in files.py, what it may hold in manifest.py, bank.py and
vectors.py. Never a pickle, never an index of FAISS: reading such a file can run code or corrupt memory. Each file is
read once, and what was hashed is what is parsed; those of a large bank are mapped, not read.
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
    map_file,
    publish,
    read_file,
    read_manifest_bytes,
    refuse_place,
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
"""More examples than this are sorted into clusters, and read from the disk when they are needed."""
_PROBE_SIMILARITY = 0.999
_EMBEDDED_AT_ONCE = 64

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class BundleDraft:
    """What a bundle is made from; the rest (vectors, hashes, embedder) follows from it. See Manifest for the fields."""

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
    """The bundle that comes with this package."""
    return Path(__file__).parent.parent / "default"


def read_manifest(directory: Path) -> Manifest:
    """The checked manifest alone, so that a caller knows which embedder to open. BundleError."""
    return parse_manifest(read_manifest_bytes(directory), str(directory / MANIFEST))


def read_bundle(directory: Path) -> Bundle:
    """The bundle after every check that needs no embedder; for looking at it. BundleError."""
    data = read_manifest_bytes(directory)
    manifest = parse_manifest(data, str(directory / MANIFEST))
    take = read_file if manifest.probes is None else map_file
    contents = {name: take(directory / name, record.size) for name, record in manifest.files.items()}
    return _assemble(data, manifest, contents, directory)


def load_bundle(directory: Path, embedder: Embedder) -> Bundle:
    """The bundle after every check, for serving. BundleError; EmbedderError if the embedder does not answer."""
    bundle = read_bundle(directory)
    _check_embedder(bundle, embedder, directory)
    return bundle


def write_bundle(directory: Path, draft: BundleDraft, embedder: Embedder, say: Say = lambda _: None) -> Bundle:
    """Embeds the queries of `draft` and writes a bundle that `load_bundle` accepts, or nothing at all.

    The examples of a large bank are written in the order of their clusters. `say` is told of the steps that take long.
    BundleError: `directory` exists, or its parent does not, or the draft is not fit, or the disk is full.
    """
    refuse_place(directory)
    contents = {PROMPT: _encode_prompt(draft.prompt), EXAMPLES: examples_bytes(draft.examples), VECTORS: b""}
    if draft.retrieval.order == "set":
        contents[SETS] = sets_bytes(draft.sets)
    _check_before_embedding(draft, embedder.spec, contents, directory)
    vectors = _embed(embedder, [example.query for example in draft.examples])
    order, probes, arrays = _arrange(vectors, say)
    contents |= arrays
    if order is not None:
        contents[EXAMPLES] = examples_bytes([draft.examples[row] for row in order])
    say("writing and checking the bundle")
    manifest = _describe(draft, embedder.spec, contents, probes)
    data = manifest_bytes(manifest)
    bundle = _assemble(data, parse_manifest(data, str(directory / MANIFEST)), contents, directory)
    _check_embedder(bundle, embedder, directory)
    publish(directory, {**contents, MANIFEST: data})
    return bundle


# Reading


def _assemble(manifest_data: bytes, manifest: Manifest, contents: Mapping[str, Content], directory: Path) -> Bundle:
    """The checked bundle from the contents of its files; `directory` is only named in messages."""
    check_hashes(contents, manifest.files, directory)
    is_large, place = manifest.probes is not None, str(directory / EXAMPLES)
    examples = StoredExamples(contents[EXAMPLES], place) if is_large else parse_examples(contents[EXAMPLES][:], place)
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
    places = (directory / CENTROIDS, directory / OFFSETS)
    return parse_clusters(contents[CENTROIDS], contents[OFFSETS], vectors, places)


def _check_embedder(bundle: Bundle, embedder: Embedder, directory: Path) -> None:
    """Embeds the first, middle and last query again, one by one as requests come, and compares."""
    made, at_hand = bundle.manifest.embedder, embedder.spec
    if at_hand.dimension != made.dimension:
        raise _wrong_embedder(directory, made, at_hand, f"gives {at_hand.dimension} dimensions, not {made.dimension}")
    count = len(bundle.examples)
    for position in sorted({0, count // 2, count - 1}):
        vector = embedder.embed([bundle.examples[position].query])[0]
        similarity = float(np.dot(vector, bundle.vectors[position]) / np.linalg.norm(vector))
        if not similarity >= _PROBE_SIMILARITY:
            name = bundle.examples[position].id
            raise _wrong_embedder(directory, made, at_hand, f"gives another vector for {name}, cosine {similarity:.3f}")


def _wrong_embedder(directory: Path, made: EmbedderSpec, at_hand: EmbedderSpec, why: str) -> EmbedderMismatchError:
    return EmbedderMismatchError(
        f"{directory / VECTORS}: was made by the embedder {made.name} (revision {made.revision}); {at_hand.name} "
        f"(revision {at_hand.revision}) {why}: open the bundle's embedder, or build the bundle again with this one"
    )


# Writing


def _encode_prompt(prompt: str) -> bytes:
    try:
        return prompt.encode()
    except UnicodeEncodeError:
        raise BundleFormatError(
            f"{PROMPT}: the prompt holds half of a surrogate pair: write the whole character"
        ) from None


def _check_before_embedding(
    draft: BundleDraft, spec: EmbedderSpec, contents: Mapping[str, bytes], directory: Path
) -> None:
    """Embedding may take minutes or cost money: whatever can be refused is refused before."""
    parse_prompt(contents[PROMPT], str(directory / PROMPT))
    parse_examples(contents[EXAMPLES], str(directory / EXAMPLES))
    if SETS in contents:
        parse_sets(contents[SETS], draft.examples, str(directory / SETS))
    parse_manifest(manifest_bytes(_describe(draft, spec, contents)), str(directory / MANIFEST))


def _embed(embedder: Embedder, queries: Sequence[str]) -> Vectors:
    starts = range(0, len(queries), _EMBEDDED_AT_ONCE)
    vectors = np.concatenate([embedder.embed(queries[start : start + _EMBEDDED_AT_ONCE]) for start in starts])
    return np.ascontiguousarray(vectors, dtype=np.float32)


def _arrange(vectors: Vectors, say: Say) -> tuple[NDArray[np.intp] | None, int | None, dict[str, bytes]]:
    """The order in which a large bank is written, how many clusters are searched, and the arrays' contents."""
    if len(vectors) <= LARGE_BANK:
        return None, None, {VECTORS: array_bytes(vectors)}
    # Here and not above: FAISS takes longer to load than most commands take to run.
    from index.bundle.clusters import choose_probes, sort_into_clusters

    say("sorting the vectors into clusters")
    order, clusters = sort_into_clusters(vectors)
    ordered = np.ascontiguousarray(vectors[order])
    say("choosing how many clusters to search")
    probes = choose_probes(ordered, clusters)
    arrays: dict[str, NDArray[Any]] = {VECTORS: ordered, CENTROIDS: clusters.centroids, OFFSETS: clusters.offsets}
    return order, probes, {name: array_bytes(array) for name, array in arrays.items()}


def _describe(
    draft: BundleDraft, spec: EmbedderSpec, contents: Mapping[str, bytes], probes: int | None = None
) -> Manifest:
    return Manifest(
        format=FORMAT,
        name=draft.name,
        model=draft.model,
        layout=draft.layout,
        retrieval=draft.retrieval,
        sampling=dict(draft.sampling),
        embedder=spec,
        files={name: FileRecord(hashlib.sha256(data).hexdigest(), len(data)) for name, data in contents.items()},
        provenance=dict(draft.provenance),
        probes=probes,
    )
