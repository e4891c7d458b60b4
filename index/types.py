"""The frozen values that index, proxy and optimizer hand each other. Knows no file and no algorithm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Role = Literal["system", "user", "assistant"]
Order = Literal["similar_last", "canonical", "set"]
Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, as text. A client's `developer` role arrives here as `system`."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Example:
    """A query and the answer it should get. `pinned`: shown to every request, whatever is asked."""

    id: str
    query: str
    response: str
    pinned: bool = False
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hit:
    """A retrieved example, the cosine similarity (-1 to 1) of its query to the client's, and its place in the bank.

    position: 0-based, so that the bank's own order can be restored.
    """

    example: Example
    similarity: float
    position: int


@dataclass(frozen=True, slots=True)
class RetrievalPolicy:
    """Which examples a request is shown.

    k: retrieved examples at most, pinned ones not counted. Of a bundle with sets: how many nearest examples vote.
    minimum_similarity: a less similar example is not shown (cosine).
    duplicate_similarity: of two examples at least this similar to each other, the one nearer to the query is shown.
    order: `similar_last` puts the most similar next to the query; `canonical` keeps the bank's own order; `set` is for
        a bundle with sets: a query is shown one of them, whole and in its own order.
    max_injected_tokens: prompt and examples together; a retrieved example that would exceed it is passed over.
    """

    k: int = 3
    minimum_similarity: float = 0.2
    duplicate_similarity: float = 0.95
    order: Order = "similar_last"
    max_injected_tokens: int = 700


@dataclass(frozen=True, slots=True)
class ExampleSet:
    """Examples that are shown together, always in this order, so that a model server's prefix cache keeps them.

    shown: ids, in the order in which a prompt shows them. voters: ids of those whose nearness to a query speaks for
    showing it this set; each example that is not pinned votes for one set at most. kind: of what, in a word; sets of a
    kind stand together against other kinds. weight: what a vote counts, if the voter is at least as similar to the
    query as `minimum_similarity` (a cosine); less similar ones count only where no other voter does.
    """

    name: str
    shown: tuple[str, ...]
    voters: tuple[str, ...]
    kind: str = "other"
    weight: float = 1.0
    minimum_similarity: float = -1.0


@dataclass(frozen=True, slots=True)
class EmbedderSpec:
    """Which embedder made the vectors: `name` as open_embedder takes it, `revision` of its weights, `dimension`."""

    name: str
    revision: str
    dimension: int


@dataclass(frozen=True, slots=True)
class FileRecord:
    """The bytes that the manifest vouches for: SHA-256 in hex, size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle says of itself (manifest.json, format 1).

    model: the model it was written for. layout: a name in index.rendering.LAYOUTS, used on base models.
    probes: of a large bank, whose vectors are sorted by cluster: how many clusters are searched; None of another.
    sampling: OpenAI request fields that apply where the client is silent (`max_tokens`, `frequency_penalty`, ...).
    provenance: how it came to be, free form, shown to people and never interpreted.
    """

    format: int
    name: str
    model: str
    layout: str
    retrieval: RetrievalPolicy
    sampling: Mapping[str, object]
    embedder: EmbedderSpec
    files: Mapping[str, FileRecord]
    provenance: Mapping[str, object]
    probes: int | None = None


@dataclass(frozen=True, slots=True)
class Clusters:
    """How the vectors of a large bank are sorted.

    centroids: (clusters, dimension), rows of norm 1; offsets: (clusters + 1,) int64, ascending from 0 to the number of
    vectors: cluster n has the rows from offsets[n] up to offsets[n + 1], to all of which its centroid is the nearest.
    """

    centroids: Vectors
    offsets: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A loaded and verified bundle. `id`: SHA-256 (hex) of manifest.json; `vectors`: (len(examples), dimension).

    clusters: of a large bank, else None. Its examples are read, and its vectors mapped, from the file when needed.
    sets: of a bundle whose policy's order is `set`; else empty.
    """

    id: str
    manifest: Manifest
    prompt: str
    examples: Sequence[Example]
    vectors: Vectors
    clusters: Clusters | None = None
    sets: tuple[ExampleSet, ...] = ()
