"""Defines candidates. A candidate is the part of a bundle that changes a model's answers. A run compares candidates.

This module does not depend on scores or models. The functions of index render both the requests for a candidate and the
proxy's requests for a bundle, so that a run measures the same requests that the proxy will send.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import orjson

from index.bundle.sets_file import restrict_sets, set_record
from index.embedders.base import Embedder
from index.types import Bundle, EmbedderSpec, Example, ExampleSet, Manifest, RetrievalPolicy, Vectors

COMPLETION: Final = "completion"
CHAT: Final = "chat"
KINDS: Final = (COMPLETION, CHAT)


@dataclass(frozen=True)
class Bank:
    """A bank of examples.

    Attributes:
        examples: The examples.
        vectors: The vectors of the examples' queries: (len(examples), dimension), rows of norm 1.
        embedder: The embedder that made the vectors.
        sets: The example sets, if the bank has any.
    """

    examples: tuple[Example, ...]
    vectors: Vectors = field(repr=False)
    embedder: EmbedderSpec
    sets: tuple[ExampleSet, ...] = ()

    @cached_property
    def key(self) -> str:
        """A hash of the bank. Banks that differ only in the tags of their examples have the same key."""
        rows = [[one.id, one.query, one.response, one.pinned] for one in self.examples]
        return hashlib.sha256(orjson.dumps([rows, [set_record(one) for one in self.sets]])).hexdigest()[:16]

    def with_examples(self, examples: tuple[Example, ...], vectors: Vectors) -> "Bank":
        """Return a bank with these examples, their vectors, and the example sets of this bank.

        Examples that are pinned, or that `examples` does not contain, are removed from the sets. A set is dropped if it
        has no example to show, or no member left.
        """
        return Bank(examples, vectors, self.embedder, restrict_sets(self.sets, examples))

    def without_set_prompts(self) -> "Bank":
        """Return a bank whose example sets have no prompts of their own."""
        if all(one.prompt is None for one in self.sets):
            return self
        return replace(self, sets=tuple(replace(one, prompt=None) for one in self.sets))


def make_bank(examples: tuple[Example, ...], embedder: Embedder) -> Bank:
    """Embed the examples' queries, and return a bank without example sets.

    Raises:
        EmbedderError: The embedder did not answer.
    """
    return Bank(examples, embedder.embed([example.query for example in examples]), embedder.spec)


@dataclass(frozen=True)
class Candidate:
    """A prompt and a bank, with the settings for rendering, retrieval and decoding.

    Attributes:
        prompt: The system prompt of requests whose example set has no prompt of its own.
        bank: The examples, and the example sets.
        layout: The name of the layout in which prompts for base models are written.
        retrieval: The settings that decide which examples a prompt contains, and in which order.
        sampling: The sampling parameters of each request.
    """

    prompt: str
    bank: Bank = field(repr=False)
    layout: str
    retrieval: RetrievalPolicy
    sampling: Mapping[str, Any]

    @cached_property
    def key(self) -> str:
        """A hash of all attributes. Candidates with equal keys send the same requests to the task model."""
        content = [self.prompt, self.bank.key, self.layout, asdict(self.retrieval), dict(self.sampling)]
        return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]

    def with_bank(self, bank: Bank) -> "Candidate":
        """Return a copy of the candidate with another bank.

        If the other bank has no sets, the copy retrieves only the nearest examples. The user can make new sets for the
        finished bundle with `drpo-index sets`. If the other bank lacks the neutral set, the copy has no similarity
        floor, because queries below the floor would get no set.
        """
        retrieval = self.retrieval
        if retrieval.neutral_set is not None and retrieval.neutral_set not in [one.name for one in bank.sets]:
            retrieval = replace(retrieval, neutral_set=None, similarity_floor=None)
        if not bank.sets and retrieval.policy != "nearest":
            retrieval = replace(retrieval, policy="nearest")
        return replace(self, bank=bank, retrieval=retrieval)

    def with_nearest(self, count: int) -> "Candidate":
        """Return a copy of the candidate with at most this number of nearest examples in each prompt."""
        return replace(self, retrieval=replace(self.retrieval, k=count))

    def with_prompt(self, prompt: str) -> "Candidate":
        """Return a copy of the candidate with another system prompt for all requests.

        The example sets of the copy have no prompts of their own, because these would hide the new prompt.
        """
        return replace(self, prompt=prompt, bank=self.bank.without_set_prompts())


def from_bundle(bundle: Bundle) -> Candidate:
    """Return the candidate that has the prompt, the bank and the settings of a bundle."""
    manifest = bundle.manifest
    bank = Bank(tuple(bundle.examples), bundle.vectors, manifest.embedder, bundle.sets)
    return Candidate(bundle.prompt, bank, manifest.layout, manifest.retrieval, manifest.sampling)


def as_bundle(candidate: Candidate) -> Bundle:
    """Return a bundle in memory, from which the candidate's examples can be retrieved.

    The bundle cannot be served or written, because its manifest contains no model name, no file records and no
    provenance.
    """
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
    sets = bank.sets if candidate.retrieval.has_sets else ()
    return Bundle(candidate.key, manifest, candidate.prompt, bank.examples, bank.vectors, sets=sets)
