"""The frozen values that index, proxy and optimizer share. This module does not depend on files or algorithms."""

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
    """One turn of a conversation, as text.

    Attributes:
        role: The sender. A client's role `developer` is represented as `system`.
        text: The text of the turn.
    """

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Example:
    """A query and a model answer to it.

    Attributes:
        id: Identifies the example in its bank: 1 to 64 letters, digits, dots, dashes or underscores (ASCII).
        query: The user's text.
        response: The answer.
        pinned: Whether every request is shown this example.
        tags: Topics, for people and for the partition into example sets.
    """

    id: str
    query: str
    response: str
    pinned: bool = False
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hit:
    """A retrieved example.

    Attributes:
        example: The example.
        similarity: Cosine similarity of its query to the client's query, from -1 to 1.
        position: Position in the bank, from 0, with which the bank's order can be restored.
    """

    example: Example
    similarity: float
    position: int


@dataclass(frozen=True, slots=True)
class RetrievalPolicy:
    """Which examples a request is shown.

    Attributes:
        k: Maximum number of retrieved examples, without the pinned ones. In a bundle with example sets, how many
            nearest examples vote for a set.
        minimum_similarity: Examples with a lower cosine similarity are not shown.
        duplicate_similarity: Of two examples whose similarity to each other is at least this, only the one nearer to
            the query is shown.
        order: `similar_last` puts the most similar example next to the query. `canonical` keeps the order of the bank.
            `set` shows one example set, whole and in its own order.
        max_injected_tokens: Maximum tokens of prompt and examples together. A retrieved example that would exceed the
            maximum is skipped.
    """

    k: int = 3
    minimum_similarity: float = 0.2
    duplicate_similarity: float = 0.95
    order: Order = "similar_last"
    max_injected_tokens: int = 700


@dataclass(frozen=True, slots=True)
class ExampleSet:
    """Examples that are always shown together and in the same order, so that a prefix cache can hold them.

    Attributes:
        name: Identifies the set in its bundle.
        shown: Ids of the examples that a prompt shows, in this order.
        members: Ids of the examples that vote for this set when they are near a query (`voters` in sets.json). Each
            example that is not pinned is a member of at most one set.
        kind: What the set is about, in one word. The votes for all sets of a kind are added before a set is chosen.
        weight: Factor of a member's vote.
        minimum_similarity: Members with a lower cosine similarity to the query vote only if no neighbour reaches the
            minimum of its set.
    """

    name: str
    shown: tuple[str, ...]
    members: tuple[str, ...]
    kind: str = "other"
    weight: float = 1.0
    minimum_similarity: float = -1.0


@dataclass(frozen=True, slots=True)
class EmbedderSpec:
    """The embedder that made a bundle's vectors.

    Attributes:
        name: The name that `open_embedder` takes.
        revision: The revision of its weights.
        dimension: The length of its vectors.
    """

    name: str
    revision: str
    dimension: int


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Hash and size of one file of a bundle.

    Attributes:
        sha256: SHA-256 in hex.
        size: Size in bytes.
    """

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of manifest.json, format 1.

    Attributes:
        format: The version of the bundle format.
        name: What people call the bundle.
        model: The model that the bundle was made for.
        layout: A name in `index.rendering.LAYOUTS`. It is used on base models.
        retrieval: Which examples a request is shown.
        sampling: OpenAI request fields that apply where the client sends none (`max_tokens`, `frequency_penalty`, ...).
        embedder: The embedder that made the vectors.
        files: Hash and size of every other file, by name.
        provenance: How the bundle was made, in free form. People read it; no code interprets it.
        probes: How many clusters a search looks into. None if the bank is not large and so has no clusters.
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
    """The clusters by which the vectors of a large bank are sorted.

    Attributes:
        centroids: (clusters, dimension) float32, rows of norm 1.
        offsets: (clusters + 1,) int64, ascending from 0 to the number of vectors. Cluster n has the rows from
            offsets[n] up to offsets[n + 1], and its centroid is the nearest to each of them.
    """

    centroids: Vectors
    offsets: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A loaded and verified bundle.

    Attributes:
        id: SHA-256 of manifest.json in hex.
        manifest: The content of manifest.json.
        prompt: The system prompt.
        examples: The bank. The examples of a large bank are read from the file when they are needed.
        vectors: (len(examples), dimension) float32, rows of norm 1. Those of a large bank are mapped from the file.
        clusters: The clusters of a large bank, otherwise None.
        sets: The example sets, if the order of the retrieval policy is `set`; otherwise empty.
    """

    id: str
    manifest: Manifest
    prompt: str
    examples: Sequence[Example]
    vectors: Vectors
    clusters: Clusters | None = None
    sets: tuple[ExampleSet, ...] = ()
