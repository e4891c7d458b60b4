"""vectors.npy, and a large bank's centroids.npy and offsets.npy: from bytes to checked arrays and back.

Knows no directory and no text. An array stands on the bytes it is given and copies none, so that of a mapped file one
copy serves all processes; it is checked in pieces, so that checking takes no memory either. Never a pickle.
"""

import io
from pathlib import Path
from tokenize import TokenError
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from index.bundle.files import REPAIR, Content
from index.errors import BundleFormatError, BundleIntegrityError
from index.types import Clusters, Vectors

_NORM_TOLERANCE: Final = 1e-3
_ROWS_AT_ONCE: Final = 2**14
_SAMPLED_ROWS: Final = 2**10
_NEARNESS_TOLERANCE: Final = 1e-4  # of a cosine: what float32 leaves open


def parse_vectors(data: Content, shape: tuple[int, int], path: Path) -> Vectors:
    """Rows of norm 1 in float32. BundleFormatError, BundleIntegrityError."""
    vectors = _parse_array(data, np.dtype(np.float32), path)
    if vectors.shape != shape:
        raise BundleIntegrityError(
            f"{path}: has shape {vectors.shape}, but the manifest and the other files call for {shape}: {REPAIR}"
        )
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        _check_rows(vectors[start : start + _ROWS_AT_ONCE], start, path)
    return vectors


def parse_clusters(centroids: Content, offsets: Content, vectors: Vectors, places: tuple[Path, Path]) -> Clusters:
    """The clusters of `vectors`: they cover every row once, and of a sample each row's own centroid is the nearest.

    places: of centroids and offsets. BundleFormatError, BundleIntegrityError.
    """
    bounds = _parse_array(offsets, np.dtype(np.int64), places[1])
    if bounds.ndim != 1 or len(bounds) < 2:
        raise BundleFormatError(f"{places[1]}: is not a list of two offsets or more: {REPAIR}")
    if bounds[0] != 0 or bounds[-1] != len(vectors) or (np.diff(bounds) < 0).any():
        raise BundleIntegrityError(
            f"{places[1]}: the offsets do not ascend from 0 to {len(vectors):,}, the number of vectors: {REPAIR}"
        )
    clusters = Clusters(parse_vectors(centroids, (len(bounds) - 1, vectors.shape[1]), places[0]), bounds)
    _check_nearness(clusters, vectors, places[0])
    return clusters


def array_bytes(array: NDArray[Any]) -> bytes:
    """The content of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _parse_array(data: Content, dtype: np.dtype[Any], path: Path) -> NDArray[Any]:
    """The one array in `data`, in C order. It can't be written to."""
    if data[:2] == b"PK":
        raise BundleFormatError(f"{path}: is not one array of {dtype}: {REPAIR}")
    head = io.BytesIO(data[: 2**16])
    try:
        version = np.lib.format.read_magic(head)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, column_order, found = read_header[version](head)
        if found == dtype and not column_order:
            array = np.frombuffer(data, dtype, int(np.prod(shape)), head.tell()).reshape(shape)
            array.flags.writeable = False
            return array
    except (ValueError, SyntaxError, TokenError, EOFError, OSError, MemoryError, KeyError, OverflowError, TypeError):
        raise BundleFormatError(f"{path}: is not a NumPy array file: {REPAIR}") from None
    raise BundleFormatError(f"{path}: is not one array of {dtype}: {REPAIR}")


def _check_rows(rows: Vectors, first: int, path: Path) -> None:
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))  # not finite if a value is not
    if not np.isfinite(norms).all() and not np.isfinite(rows).all():
        raise BundleIntegrityError(f"{path}: holds values that are not finite: {REPAIR}")
    off = np.flatnonzero(~(np.abs(norms - 1.0) <= _NORM_TOLERANCE))
    if off.size:
        row = int(off[0])
        raise BundleIntegrityError(f"{path}: row {first + row + 1} has norm {norms[row]:.4f} and not 1: {REPAIR}")


def _check_nearness(clusters: Clusters, vectors: Vectors, path: Path) -> None:
    rows = np.unique(np.linspace(0, len(vectors) - 1, _SAMPLED_ROWS).astype(np.int64))
    own = np.searchsorted(clusters.offsets, rows, side="right") - 1
    likeness = vectors[rows] @ clusters.centroids.T
    lacking = likeness.max(axis=1) - likeness[np.arange(len(rows)), own]
    if (wrong := np.flatnonzero(lacking > _NEARNESS_TOLERANCE)).size:
        raise BundleIntegrityError(
            f"{path}: row {rows[wrong[0]] + 1} of the vectors is nearer to another centroid than to its own: {REPAIR}"
        )
