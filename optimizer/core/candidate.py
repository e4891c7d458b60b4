"""What a run chooses between: all that a bundle says to a model. Knows no score and no model.

A candidate is laid out by the functions by which the proxy lays out a bundle: what is measured is what is served.
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
    """Examples, the vectors of their queries, (len(examples), dimension), rows of norm 1, and the sets, if any."""

    examples: tuple[Example, ...]
    vectors: Vectors = field(repr=False)
    embedder: EmbedderSpec
    sets: tuple[ExampleSet, ...] = ()

    @cached_property
    def key(self) -> str:
        """Tells two banks apart."""
        rows = [[one.id, one.query, one.response, one.pinned] for one in self.examples]
        return hashlib.sha256(orjson.dumps([rows, [set_record(one) for one in self.sets]])).hexdigest()[:16]

    def with_examples(self, examples: tuple[Example, ...], vectors: Vectors) -> "Bank":
        """The same with fewer or other examples, and the sets without those that are gone or pinned now."""
        return Bank(examples, vectors, self.embedder, restrict_sets(self.sets, examples))

    def pinned_as(self, ids: frozenset[str]) -> "Bank":
        """The same bank with exactly these examples pinned."""
        examples = tuple(replace(example, pinned=example.id in ids) for example in self.examples)
        return self.with_examples(examples, self.vectors)


def make_bank(examples: tuple[Example, ...], embedder: Embedder) -> Bank:
    """Embed the examples' queries. Raises EmbedderError."""
    return Bank(examples, embedder.embed([example.query for example in examples]), embedder.spec)


@dataclass(frozen=True)
class Candidate:
    """A prompt, a bank, and how they are shown: see Manifest for the fields."""

    prompt: str
    bank: Bank = field(repr=False)
    layout: str
    retrieval: RetrievalPolicy
    sampling: Mapping[str, Any]

    @cached_property
    def key(self) -> str:
        """Tells two candidates apart: equal ones say the same to a model, in the same way."""
        told = [self.prompt, self.bank.key, self.layout, asdict(self.retrieval), dict(self.sampling)]
        return hashlib.sha256(orjson.dumps(told, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]

    def with_bank(self, bank: Bank) -> "Candidate":
        """The same with another bank. A new bank has no sets yet: `drpo-index sets` parts a finished bundle."""
        has_lost_sets = self.retrieval.order == "set" and not bank.sets
        changed = self.out_of_sets(RetrievalPolicy().order) if has_lost_sets else self
        return replace(changed, bank=bank)

    def out_of_sets(self, order: Order) -> "Candidate":
        """The same, showing as many nearest examples as is usual: the dozen that voted for a set would be many."""
        return replace(self, retrieval=replace(self.retrieval, order=order, k=RetrievalPolicy().k))

    def with_prompt(self, prompt: str) -> "Candidate":
        """The same with another prompt."""
        return replace(self, prompt=prompt)


def from_bundle(bundle: Bundle) -> Candidate:
    """A bundle as a candidate."""
    manifest = bundle.manifest
    bank = Bank(tuple(bundle.examples), bundle.vectors, manifest.embedder, bundle.sets)
    return Candidate(bundle.prompt, bank, manifest.layout, manifest.retrieval, manifest.sampling)


def as_bundle(candidate: Candidate) -> Bundle:
    """A candidate as the bundle that it would be, in memory: for retrieval, not for serving."""
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
