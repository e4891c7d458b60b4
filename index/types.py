"""The immutable dataclasses that index, proxy and optimizer share. This module depends on no files or algorithms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Role = Literal["system", "user", "assistant"]
PolicyName = Literal["nearest", "set", "set_and_nearest"]
Order = Literal["similar_last", "similar_first", "canonical"]
Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, as text.

    Attributes:
        role: The sender of the turn. A client's message with the role `developer` becomes a Message with the role
            `system`.
        text: The text of the turn.
    """

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Example:
    """A query and an exemplary answer to it.

    Attributes:
        id: The name of the example, unique in its bank: 1 to 64 ASCII letters, digits, dots, dashes or underscores.
        query: The text of a user.
        response: The exemplary answer.
        pinned: Whether every prompt contains this example.
        tags: Topics of the example. People read them, and the partition into example sets uses them.
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
        similarity: Cosine similarity of the example's query to the client's query, from -1 to 1.
        position: Position of the example in the bank, counted from 0. Hits sorted by position are in the bank's order.
    """

    example: Example
    similarity: float
    position: int


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The examples that a bundle retrieves for a query, before any token limit.

    Attributes:
        in_set: The examples that the example set shows, in the order of the set. Empty if no set is shown.
        nearest: The candidates for the nearest examples of the prompt, the most similar first. If the policy limits the
            tokens of the nearest examples, there are more candidates than the prompt will contain.
        covered: The positions, in the bank, of the candidates in `nearest` that the set already shows. A candidate also
            counts as shown if it is a near-duplicate of an example that the set shows. A covered candidate counts as
            one of the `k` nearest examples, but the prompt does not contain it a second time.
        set_name: The name of the example set; empty if no set is shown.
        similarity: The similarity of the most similar example of the bank; None if it is unknown, because there is no
            such example, or because the query has no usable vector.
        is_below_floor: Whether the query is unlike every example (`RetrievalPolicy.similarity_floor`).
        separate_tag: The separate tag of the set, such as `refusal`, if it has one and the vote was clear. Otherwise
            empty. A vote is not clear if all voting neighbours are below the minimum similarity of their sets.
    """

    in_set: tuple[Hit, ...] = ()
    nearest: tuple[Hit, ...] = ()
    covered: frozenset[int] = frozenset()
    set_name: str = ""
    similarity: float | None = None
    is_below_floor: bool = False
    separate_tag: str = ""

    @property
    def hits(self) -> tuple[Hit, ...]:
        """All hits. If there is too little room for all hits, the last hits are left out first."""
        return (*self.in_set, *self.nearest)

    @property
    def key(self) -> tuple[str, bool, tuple[int, ...]]:
        """A key for caches. Two results of a bundle that have the same key have the same examples."""
        return (self.set_name, self.is_below_floor, tuple([hit.position for hit in self.nearest]))


NOTHING_RETRIEVED: Final = Retrieved()
"""What a request gets if retrieval failed or was not tried."""


@dataclass(frozen=True, slots=True)
class RetrievalPolicy:
    """The settings that decide which examples a prompt contains.

    A prompt contains the pinned examples, then the examples of one example set, then the nearest examples of the query.
    The policy decides which of the last two parts it contains.

    Attributes:
        policy: `nearest` has only the nearest examples. `set` has only one example set, so that the prefix cache of a
            model server holds everything before the client's messages. `set_and_nearest` has both.
        k: Maximum number of nearest examples in a prompt. The policy `set` does not use it.
        voters: Maximum number of neighbours of the query that vote for an example set. The policy `nearest` does not
            use it.
        minimum_similarity: The lowest cosine similarity to the query with which an example is one of the nearest, or
            votes for a set.
        duplicate_similarity: Two examples are near-duplicates if their similarity to each other is at least this
            value. If near-duplicates are near the query, only the nearest of them is retrieved. An example that is a
            near-duplicate of a pinned example is never retrieved.
        order: The order of the nearest examples. `similar_last` puts the most similar example last, directly before the
            client's messages. `similar_first` puts it first. `canonical` keeps the order of the bank. The examples of a
            set have the order of the set.
        max_injected_tokens: Maximum number of tokens of the system prompt and all examples together. A retrieved
            example that would exceed this maximum is skipped.
        max_nearest_tokens: Maximum number of tokens of the nearest examples together. An example that would exceed it
            is skipped, and the next nearest example takes its place. None means that there is no such limit.
        similarity_floor: A query is unlike every example if its most similar example is less similar than this value.
            Such a query gets the neutral set and no nearest examples. None means that there is no floor.
        neutral_set: The name of the example set for queries that are unlike every example. None means that they get
            only the pinned examples.
    """

    policy: PolicyName = "nearest"
    k: int = 3
    voters: int = 12
    minimum_similarity: float = 0.2
    duplicate_similarity: float = 0.95
    order: Order = "similar_last"
    max_injected_tokens: int = 700
    max_nearest_tokens: int | None = None
    similarity_floor: float | None = None
    neutral_set: str | None = None

    @property
    def has_sets(self) -> bool:
        """Whether a bundle with this policy has example sets, and so the file sets.json."""
        return self.policy != "nearest" or self.neutral_set is not None

    @property
    def shows_nearest(self) -> bool:
        """Whether a prompt can contain nearest examples."""
        return self.policy != "set" and self.k > 0


@dataclass(frozen=True, slots=True)
class ExampleSet:
    """A group of examples that prompts always contain together and in the same order.

    The prefix cache of a model server can therefore hold the text of these examples.

    Attributes:
        name: The name of the set, unique in its bundle.
        shown: Ids of the examples that a prompt contains if this set is chosen, in the order of the prompt.
        members: Ids of the examples that vote for this set when they are neighbours of a query. The file sets.json
            calls them `voters`. An example is a member of at most one set, and a pinned example of none. A set that is
            only the neutral set has no members.
        kind: The name of the group of sets to which this set belongs, such as `refusal`. The vote first chooses the
            kind whose sets have the largest sum of votes, and then a set of this kind.
        weight: Factor by which each member's vote for this set is multiplied.
        minimum_similarity: The lowest cosine similarity to the query with which a member votes for this set. There is
            one exception: if every neighbour of a query is below the minimum of its set, all neighbours vote.
        prompt: The system prompt of requests for which this set is chosen. None means the prompt of the bundle.
    """

    name: str
    shown: tuple[str, ...]
    members: tuple[str, ...]
    kind: str = "other"
    weight: float = 1.0
    minimum_similarity: float = -1.0
    prompt: str | None = None


@dataclass(frozen=True, slots=True)
class EmbedderSpec:
    """The embedder that made a bundle's vectors.

    Attributes:
        name: The name by which `open_embedder` opens the embedder.
        revision: A hash or version name of the embedder's weights; `unknown` if the embedder reports no version.
        dimension: The number of components of each vector.
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
        format: The version of the bundle format, 1.
        name: The name of the bundle. It is shown to people and need not be unique.
        model: The name of the model that the bundle was made for.
        layout: The name of a layout in `index.layouts.LAYOUTS`. Prompts for base models are written in this layout.
        retrieval: The settings that decide which examples a prompt contains.
        sampling: Default values of OpenAI request fields, such as `max_tokens`. A default applies if the client's
            request does not contain the field.
        embedder: The embedder that made the vectors.
        files: Hash and size of every other file of the bundle, by file name.
        provenance: How the bundle was made. People read these entries; no code interprets them.
        probes: The number of clusters in which a search looks for examples. None if the bank has no clusters. Only a
            bank of more than 50,000 examples has clusters.
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
    """The clusters of a large bank, which has more than 50,000 examples. The vectors are sorted by cluster.

    Attributes:
        centroids: The centre of each cluster: (clusters, dimension) float32, rows of norm 1.
        offsets: The rows at which the clusters begin: (clusters + 1,) int64, ascending from 0 to the number of vectors.
            Cluster n consists of the vectors from row offsets[n] up to, but not including, row offsets[n + 1]. For
            each of these vectors, the nearest centroid is centroids[n].
    """

    centroids: Vectors
    offsets: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A loaded and verified bundle.

    Attributes:
        id: SHA-256 of manifest.json in hex.
        manifest: The content of manifest.json.
        prompt: The system prompt of requests whose example set has no prompt of its own.
        examples: The bank. If it is large (more than 50,000 examples), an example is read from the bank's file each
            time it is accessed.
        vectors: The vectors of the examples' queries: (len(examples), dimension) float32, rows of norm 1. The vectors
            of a large bank are memory-mapped from their file.
        clusters: The clusters of a large bank; None for a smaller bank.
        sets: The example sets, if the retrieval policy uses sets (`RetrievalPolicy.has_sets`); otherwise empty.
    """

    id: str
    manifest: Manifest
    prompt: str
    examples: Sequence[Example]
    vectors: Vectors
    clusters: Clusters | None = None
    sets: tuple[ExampleSet, ...] = ()

    @property
    def set_prompts(self) -> Mapping[str, str]:
        """The prompts of those example sets that have a prompt of their own, by the name of the set."""
        return {one.name: one.prompt for one in self.sets if one.prompt is not None}

    def prompt_of(self, set_name: str) -> str:
        """Return the system prompt of a request with this example set. `set_name` is empty if no set was chosen."""
        return self.set_prompts.get(set_name, self.prompt)
