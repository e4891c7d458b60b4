"""A candidate: everything in a bundle that changes a model's answers. A run compares candidates.

This module does not depend on scores or models. Requests for a candidate are rendered by the same functions as the
proxy's requests for a bundle, so that a run measures what is served.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import orjson

from index.bundle.sets_file import restrict_sets, set_record
from index.embedders.base import Embedder
from index.types import Bundle, EmbedderSpec, Example, ExampleSet, Manifest, Order, RetrievalPolicy, Vectors

COMPLETION: Final = "completion"
CHAT: Final = "chat"
KINDS: Final = (COMPLETION, CHAT)


@dataclass(frozen=True)
class Bank:
    """A bank of examples.

    Attributes:
        examples: The examples.
        vectors: The vectors of their queries, shape (len(examples), dimension); each row has norm 1.
        embedder: The embedder of the vectors.
        sets: The example sets, if the bank has any.
    """

    examples: tuple[Example, ...]
    vectors: Vectors = field(repr=False)
    embedder: EmbedderSpec
    sets: tuple[ExampleSet, ...] = ()

    @cached_property
    def key(self) -> str:
        """A hash of the examples and sets: equal banks have equal keys."""
        rows = [[one.id, one.query, one.response, one.pinned] for one in self.examples]
        return hashlib.sha256(orjson.dumps([rows, [set_record(one) for one in self.sets]])).hexdigest()[:16]

    def with_examples(self, examples: tuple[Example, ...], vectors: Vectors) -> "Bank":
        """A copy with other examples. Examples that are missing or pinned now are removed from the sets."""
        return Bank(examples, vectors, self.embedder, restrict_sets(self.sets, examples))

    def pinned_as(self, ids: frozenset[str]) -> "Bank":
        """A copy in which exactly the examples with these ids are pinned."""
        examples = tuple(replace(example, pinned=example.id in ids) for example in self.examples)
        return self.with_examples(examples, self.vectors)


def make_bank(examples: tuple[Example, ...], embedder: Embedder) -> Bank:
    """Make a bank and embed the examples' queries. Raises EmbedderError."""
    return Bank(examples, embedder.embed([example.query for example in examples]), embedder.spec)


@dataclass(frozen=True)
class Candidate:
    """A prompt, a bank, and how they are rendered and decoded.

    Attributes:
        prompt: The system prompt.
        bank: The examples.
        layout: The name of the layout.
        retrieval: How examples are chosen and ordered.
        sampling: The default sampling parameters.
    """

    prompt: str
    bank: Bank = field(repr=False)
    layout: str
    retrieval: RetrievalPolicy
    sampling: Mapping[str, Any]

    @cached_property
    def key(self) -> str:
        """A hash of all attributes: candidates with equal keys make the same requests."""
        content = [self.prompt, self.bank.key, self.layout, asdict(self.retrieval), dict(self.sampling)]
        return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]

    def with_bank(self, bank: Bank) -> "Candidate":
        """A copy with another bank. A new bank has no sets: `drpo-index sets` makes them for a finished bundle."""
        has_lost_sets = self.retrieval.order == "set" and not bank.sets
        changed = self.without_sets(RetrievalPolicy().order) if has_lost_sets else self
        return replace(changed, bank=bank)

    def without_sets(self, order: Order) -> "Candidate":
        """A copy that retrieves single examples, as many as by default.

        With sets, `k` is the number of neighbours that vote for a set, which is more than a request should contain.
        """
        return replace(self, retrieval=replace(self.retrieval, order=order, k=RetrievalPolicy().k))

    def with_prompt(self, prompt: str) -> "Candidate":
        """A copy with another prompt."""
        return replace(self, prompt=prompt)


def from_bundle(bundle: Bundle) -> Candidate:
    """The candidate that corresponds to a bundle."""
    manifest = bundle.manifest
    bank = Bank(tuple(bundle.examples), bundle.vectors, manifest.embedder, bundle.sets)
    return Candidate(bundle.prompt, bank, manifest.layout, manifest.retrieval, manifest.sampling)


def as_bundle(candidate: Candidate) -> Bundle:
    """The bundle of a candidate in memory. It is complete enough for retrieval, not for serving."""
    manifest = Manifest(
        format=1,
        name=candidate.key,
        model="",
        layout=candidate.layout,
        retrieval=candidate.retrieval,
        sampling=candidate.sampling,
        embedder=candidate.bank.embedder,
        files={},
        provenance={},
    )
    bank = candidate.bank
    sets = bank.sets if candidate.retrieval.order == "set" else ()
    return Bundle(candidate.key, manifest, candidate.prompt, bank.examples, bank.vectors, sets=sets)
