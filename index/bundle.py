"""The bundle, a directory: written at once or not at all, and checked to the last byte before it is used.

    manifest.json    format, name, model, layout, policy, sampling, embedder, SHA-256 and size of each file, provenance
    prompt.txt       the system prompt, exactly these bytes
    examples.jsonl   one example per line
    vectors.npy      float32 (examples, dimension), rows of norm 1: the embedded queries, in the order of the lines

Knows the directory and the three files together; what a file may hold is in manifest.py and bank.py. Never a pickle,
never an index of FAISS: reading such a file can run code or corrupt memory. Each file is read once, and what was
hashed is what is parsed.
"""

import hashlib
import io
import os
import secrets
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError

import numpy as np

from index.bank import examples_bytes, parse_examples, parse_prompt
from index.embed import Embedder
from index.errors import BundleError, BundleFormatError, BundleIntegrityError, EmbedderMismatchError
from index.manifest import EXAMPLES, FILES, FORMAT, PROMPT, VECTORS, manifest_bytes, parse_manifest
from index.types import Bundle, EmbedderSpec, Example, FileRecord, Manifest, RetrievalPolicy, Vectors

MANIFEST = "manifest.json"
_MANIFEST_LIMIT = 2**20
_NORM_TOLERANCE = 1e-3
_PROBE_SIMILARITY = 0.999
_EMBEDDED_AT_ONCE = 64
_REPAIR = "restore the file, or build the bundle again"


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


def default_bundle_directory() -> Path:
    """The bundle that comes with this package."""
    return Path(__file__).parent / "default"


def read_manifest(directory: Path) -> Manifest:
    """The checked manifest alone, so that a caller knows which embedder to open. BundleError."""
    return parse_manifest(_read_manifest_bytes(directory), str(directory / MANIFEST))


def read_bundle(directory: Path) -> Bundle:
    """The bundle after every check that needs no embedder; for looking at it. BundleError."""
    data = _read_manifest_bytes(directory)
    manifest = parse_manifest(data, str(directory / MANIFEST))
    return _assemble(data, {name: _read_file(directory / name, manifest.files[name].size) for name in FILES}, directory)


def load_bundle(directory: Path, embedder: Embedder) -> Bundle:
    """The bundle after every check, for serving. BundleError; EmbedderError if the embedder does not answer."""
    bundle = read_bundle(directory)
    _check_embedder(bundle, embedder, directory)
    return bundle


def write_bundle(directory: Path, draft: BundleDraft, embedder: Embedder) -> Bundle:
    """Embeds the queries of `draft` and writes a bundle that `load_bundle` accepts, or nothing at all.

    BundleError: `directory` exists, or its parent does not, or the draft is not fit, or the disk is full.
    """
    _refuse_place(directory)
    contents = {PROMPT: _encode_prompt(draft.prompt), EXAMPLES: examples_bytes(draft.examples), VECTORS: b""}
    _check_before_embedding(draft, embedder.spec, contents, directory)
    contents[VECTORS] = _vectors_bytes(_embed(embedder, [example.query for example in draft.examples]))
    data = manifest_bytes(_describe(draft, embedder.spec, contents))
    bundle = _assemble(data, contents, directory)
    _check_embedder(bundle, embedder, directory)
    _publish(directory, {**contents, MANIFEST: data})
    return bundle


# Reading


def _assemble(manifest_data: bytes, contents: Mapping[str, bytes], directory: Path) -> Bundle:
    """The checked bundle from the bytes of its files; `directory` is only named in messages."""
    manifest = parse_manifest(manifest_data, str(directory / MANIFEST))
    for name, record in manifest.files.items():
        _check_hash(contents[name], record, directory / name)
    examples = parse_examples(contents[EXAMPLES], str(directory / EXAMPLES))
    return Bundle(
        id=hashlib.sha256(manifest_data).hexdigest(),
        manifest=manifest,
        prompt=parse_prompt(contents[PROMPT], str(directory / PROMPT)),
        examples=examples,
        vectors=_parse_vectors(contents[VECTORS], (len(examples), manifest.embedder.dimension), directory / VECTORS),
    )


def _check_hash(data: bytes, record: FileRecord, path: Path) -> None:
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise BundleIntegrityError(f"{path}: its SHA-256 is not the one in {MANIFEST}: {_REPAIR}")


def _parse_vectors(data: bytes, shape: tuple[int, int], path: Path) -> Vectors:
    try:
        vectors = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, SyntaxError, TokenError, EOFError, OSError, MemoryError):  # all that a bad header can raise
        raise BundleFormatError(f"{path}: is not a NumPy array file: {_REPAIR}") from None
    if not isinstance(vectors, np.ndarray) or vectors.dtype != np.float32:
        raise BundleFormatError(f"{path}: is not one array of float32: {_REPAIR}")
    if vectors.shape != shape:
        raise BundleIntegrityError(
            f"{path}: has shape {vectors.shape}, but {EXAMPLES} and {MANIFEST} call for {shape}: {_REPAIR}"
        )
    _check_rows(vectors, path)
    vectors.flags.writeable = False
    return vectors


def _check_rows(vectors: Vectors, path: Path) -> None:
    if not np.isfinite(vectors).all():
        raise BundleIntegrityError(f"{path}: holds values that are not finite: {_REPAIR}")
    norms = np.linalg.norm(vectors, axis=1)
    off = np.flatnonzero(np.abs(norms - 1.0) > _NORM_TOLERANCE)
    if off.size:
        raise BundleIntegrityError(f"{path}: row {off[0] + 1} has norm {norms[off[0]]:.4f} and not 1: {_REPAIR}")


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


def _read_manifest_bytes(directory: Path) -> bytes:
    if not _is_directory(directory):
        raise BundleError(f"{directory}: there is no such directory: give the directory that holds {MANIFEST}")
    return _read_file(directory / MANIFEST, None)


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from None


def _open_plainly(path: str, flags: int) -> int:
    # A symbolic link is refused, and a named pipe must not be waited for.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _read_file(path: Path, size: int | None) -> bytes:
    """The bytes of a regular file, which must be `size` long; None: anything up to the limit of a manifest."""
    try:
        with open(path, "rb", opener=_open_plainly) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BundleIntegrityError(f"{path}: is not a regular file: {_REPAIR}")
            if size is None and status.st_size > _MANIFEST_LIMIT:
                raise BundleFormatError(f"{path}: is larger than {_MANIFEST_LIMIT:,} bytes: it cannot be a manifest")
            if size is not None and status.st_size != size:
                raise _wrong_size(path, status.st_size, size)
            return file.read(status.st_size)
    except FileNotFoundError:
        raise BundleIntegrityError(f"{path}: the file is missing: {_REPAIR}") from None
    except OSError as error:
        reason = "is a symbolic link, which a bundle may not hold" if path.is_symlink() else f"{error.strerror}"
        raise BundleIntegrityError(f"{path}: cannot be read: {reason}: {_REPAIR}") from None


def _wrong_size(path: Path, found: int, expected: int) -> BundleIntegrityError:
    return BundleIntegrityError(f"{path}: has {found:,} bytes, {MANIFEST} says {expected:,}: {_REPAIR}")


# Writing


def _refuse_place(directory: Path) -> None:
    if directory.exists() or directory.is_symlink():
        raise BundleError(f"{directory}: exists already: remove it, or give another directory")
    if not _is_directory(directory.parent):
        raise BundleError(f"{directory.parent}: there is no such directory: create it first")


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
    parse_manifest(manifest_bytes(_describe(draft, spec, contents)), str(directory / MANIFEST))


def _embed(embedder: Embedder, queries: Sequence[str]) -> Vectors:
    starts = range(0, len(queries), _EMBEDDED_AT_ONCE)
    vectors = np.concatenate([embedder.embed(queries[start : start + _EMBEDDED_AT_ONCE]) for start in starts])
    return np.ascontiguousarray(vectors, dtype=np.float32)


def _vectors_bytes(vectors: Vectors) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, vectors, allow_pickle=False)
    return buffer.getvalue()


def _describe(draft: BundleDraft, spec: EmbedderSpec, contents: Mapping[str, bytes]) -> Manifest:
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
    )


def _publish(directory: Path, contents: Mapping[str, bytes]) -> None:
    """All files or none: they are complete on the disk, under another name, before the directory gets its own."""
    temporary = directory.parent / f".{directory.name}.{secrets.token_hex(8)}.tmp"
    try:
        temporary.mkdir()
        for name, data in contents.items():
            _write_file(temporary / name, data)
        _sync_directory(temporary)
        _refuse_place(directory)
        temporary.rename(directory)
        _sync_directory(directory.parent)
    except OSError as error:
        raise BundleError(f"{directory}: cannot be written: {error.strerror}: make room, or write elsewhere") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_file(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
