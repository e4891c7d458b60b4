"""Parses and writes vectors.npy, and the files centroids.npy and offsets.npy of a bank of more than 50,000 examples.

A parsed array is a view of the given bytes and not a copy. All processes that map the same file therefore share its
memory. Vectors are checked in pieces to use little memory. Arrays with pickled objects are refused. This module does
not depend on directories or texts.
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
_ROWS_PER_CHECK: Final = 2**14
_SAMPLED_ROWS: Final = 2**10
_COSINE_TOLERANCE: Final = 1e-4  # the rounding error of float32


def parse_vectors(data: Content, shape: tuple[int, int], path: Path) -> Vectors:
    """Parse a two-dimensional float32 array, and check that each row has norm 1.

    Args:
        data: The content of the file.
        shape: The expected shape: (rows, dimension).
        path: The file's path in messages.

    Raises:
        BundleFormatError: The data is not a .npy file with a float32 array in C order.
        BundleIntegrityError: The shape differs, or a row does not have norm 1.
    """
    vectors = _parse_array(data, np.dtype(np.float32), path)
    if vectors.shape != shape:
        raise BundleIntegrityError(
            f"{path}: has shape {vectors.shape}, but the manifest and the other files require {shape}. {REPAIR}"
        )
    for start in range(0, len(vectors), _ROWS_PER_CHECK):
        _check_rows(vectors[start : start + _ROWS_PER_CHECK], start, path)
    return vectors


def parse_clusters(centroids: Content, offsets: Content, vectors: Vectors, paths: tuple[Path, Path]) -> Clusters:
    """Parse the clusters of `vectors`.

    Every row must belong to exactly one cluster. For a sample of the rows, no other centroid may be nearer to the row
    than the centroid of its cluster.

    Args:
        centroids: The content of centroids.npy.
        offsets: The content of offsets.npy.
        vectors: The vectors of the bank.
        paths: The paths of centroids.npy and of offsets.npy, for messages.

    Raises:
        BundleFormatError: One of the two files is not a .npy file with an array of the right type in C order.
        BundleIntegrityError: The clusters do not fit the vectors.
    """
    bounds = _parse_array(offsets, np.dtype(np.int64), paths[1])
    if bounds.ndim != 1 or len(bounds) < 2:
        raise BundleFormatError(f"{paths[1]}: is not a list of two offsets or more. {REPAIR}")
    if bounds[0] != 0 or bounds[-1] != len(vectors) or (np.diff(bounds) < 0).any():
        raise BundleIntegrityError(
            f"{paths[1]}: the offsets do not ascend from 0 to {len(vectors):,}, the number of vectors. {REPAIR}"
        )
    clusters = Clusters(parse_vectors(centroids, (len(bounds) - 1, vectors.shape[1]), paths[0]), bounds)
    _check_nearness(clusters, vectors, paths[0])
    return clusters


def array_bytes(array: NDArray[Any]) -> bytes:
    """Return the content of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _parse_array(data: Content, dtype: np.dtype[Any], path: Path) -> NDArray[Any]:
    """Return a read-only view of the array in `data`, the content of a .npy file in C order."""
    if data[:2] == b"PK":  # a ZIP archive of several arrays (.npz)
        raise BundleFormatError(f"{path}: is not one array of {dtype}. {REPAIR}")
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
        raise BundleFormatError(f"{path}: is not a NumPy array file. {REPAIR}") from None
    raise BundleFormatError(f"{path}: is not one array of {dtype}. {REPAIR}")


def _check_rows(rows: Vectors, first: int, path: Path) -> None:
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))  # a norm is NaN or infinite if a value of its row is
    if not np.isfinite(norms).all() and not np.isfinite(rows).all():
        raise BundleIntegrityError(f"{path}: holds values that are not finite. {REPAIR}")
    off = np.flatnonzero(~(np.abs(norms - 1.0) <= _NORM_TOLERANCE))
    if off.size:
        row = int(off[0])
        raise BundleIntegrityError(f"{path}: row {first + row + 1} has the norm {norms[row]:.4f}, not 1. {REPAIR}")


def _check_nearness(clusters: Clusters, vectors: Vectors, path: Path) -> None:
    rows = np.unique(np.linspace(0, len(vectors) - 1, _SAMPLED_ROWS).astype(np.int64))
    own = np.searchsorted(clusters.offsets, rows, side="right") - 1
    similarities = vectors[rows] @ clusters.centroids.T
    deficit = similarities.max(axis=1) - similarities[np.arange(len(rows)), own]
    if (wrong := np.flatnonzero(deficit > _COSINE_TOLERANCE)).size:
        raise BundleIntegrityError(
            f"{path}: row {rows[wrong[0]] + 1} of the vectors is nearer to another centroid than to its own. {REPAIR}"
        )
