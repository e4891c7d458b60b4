"""The model that a bundle is written for, under a candidate: its answers, and how likely it finds a given one.

Knows how a request is laid out and what it asks for; the calls are made by calls.py. Two candidates that lay a query
out in the same bytes share the reply.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from index.embedders.base import Embedder
from index.rendering import (
    LAYOUTS,
    TextPrompt,
    leading_gap,
    render_chat,
    render_example,
    render_prompt,
    render_raw,
    text_prompt,
)
from index.retrieval.retriever import Retriever, pinned, retrieval_query
from index.retrieval.selection import select_within_policy
from index.types import Example, Vectors
from optimizer.core.candidate import COMPLETION, Candidate, as_bundle
from optimizer.core.errors import ConfigError, UnparsableReplyError
from optimizer.data.dataset import Row
from optimizer.models.cached_calls import Calls, Json, Request

ROLE = "task"
_RAW_CAP = 1024


@dataclass(frozen=True, slots=True)
class Raw:
    """Nothing injected: the query alone, with this sampling. Empty sampling is the proxy's `raw`, a bundle's is
    `raw-matched`."""

    sampling: Mapping[str, Any]


Variant = Candidate | Raw


@dataclass(frozen=True, slots=True)
class Reply:
    """What the task model answered. finish_reason: as the server gives it; examples: the ids that were shown."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    examples: tuple[str, ...] = ()


class Task:
    """Asks the task model, of `kind` completion or chat."""

    def __init__(self, calls: Calls, kind: str, embedder: Embedder) -> None:
        self._calls = calls
        self._kind = kind
        self._embedder = embedder
        self._retrievers: dict[tuple[str, object], Retriever] = {}
        self._vectors: dict[str, Vectors] = {}
        self._tokens: dict[str, asyncio.Task[int]] = {}

    async def answer(self, variant: Variant, row: Row, replicate: int = 0) -> Reply:
        """The answer to a row's conversation. Raises ModelError, BudgetSpentError, JournalError."""
        if isinstance(variant, Raw):
            return _reply(await self._calls.ask(self._raw(variant, row, replicate), self._reader), ())
        examples = await self.examples(variant, row)
        request = self.request(variant, examples, row, replicate)
        reply = _reply(await self._calls.ask(request, self._reader), tuple(one.id for one in examples))
        if self._kind != COMPLETION:
            return reply
        return replace(reply, text=_text_prompt(variant, examples, row).clean(reply.text))

    async def log_likelihood(self, variant: Variant, row: Row) -> float:
        """Mean log-probability per token of the row's reference answer, as the continuation of what the variant shows.

        On a completion model only, whose server echoes log-probabilities (vLLM does, llama.cpp does not).
        """
        if self._kind != COMPLETION:
            raise ConfigError("the reward likelihood needs a completion model: chat models do not score given answers")
        shown = await self._text(variant, row)
        # A generated answer would begin with the layout's gap.
        gap = leading_gap(LAYOUTS[variant.layout]) if isinstance(variant, Candidate) else ""
        text = f"{shown}{gap}{row.reference or ''}"
        body = {"prompt": text, "max_tokens": 1, "temperature": 0.0, "echo": True, "logprobs": 0}
        kept = await self._calls.ask(Request(ROLE, "completions", body), read_echo)
        return mean_log_probability(kept, len(shown), len(text))

    async def examples(self, candidate: Candidate, row: Row) -> tuple[Example, ...]:
        """What the candidate shows for a row: pinned, then retrieved, as the proxy chooses and arranges them."""
        bundle = as_bundle(candidate)
        always = pinned(bundle)
        hits = self._retriever(candidate).choose(await self._vector(row))
        costs = await self._costs(candidate, [*always, *(hit.example for hit in hits)])
        prompt = await self._count(render_prompt(LAYOUTS[candidate.layout], candidate.prompt))
        selection = select_within_policy(candidate.retrieval, prompt, costs, always, hits)
        return selection.in_order(candidate.retrieval.order)

    def request(self, candidate: Candidate, examples: Sequence[Example], row: Row, replicate: int = 0) -> Request:
        """The request that the proxy would send to the backend."""
        sampling = dict(candidate.sampling)
        if self._kind == COMPLETION:
            prompt = _text_prompt(candidate, examples, row)
            body = {"max_tokens": _RAW_CAP, **sampling, "prompt": prompt.text, "stop": list(prompt.stop)}
            return Request(ROLE, "completions", body, replicate)
        messages = [{"role": message.role, "content": message.text} for message in row.messages]
        body = {**sampling, "messages": render_chat(candidate.prompt, examples, messages)}
        return Request(ROLE, "chat/completions", body, replicate)

    def _raw(self, variant: Raw, row: Row, replicate: int) -> Request:
        if self._kind == COMPLETION:
            body = {"max_tokens": _RAW_CAP, **variant.sampling, "prompt": render_raw(row.messages)}
            return Request(ROLE, "completions", body, replicate)
        messages = [{"role": message.role, "content": message.text} for message in row.messages]
        return Request(ROLE, "chat/completions", {**variant.sampling, "messages": messages}, replicate)

    async def _text(self, variant: Variant, row: Row) -> str:
        if isinstance(variant, Raw):
            return render_raw(row.messages)
        return _text_prompt(variant, await self.examples(variant, row), row).text

    @property
    def _reader(self) -> "Any":
        return read_completion if self._kind == COMPLETION else read_chat

    def _retriever(self, candidate: Candidate) -> Retriever:
        key = (candidate.bank.key, candidate.retrieval)
        if key not in self._retrievers:
            self._retrievers[key] = Retriever(as_bundle(candidate))
        return self._retrievers[key]

    async def _vector(self, row: Row) -> Vectors:
        query = retrieval_query(row.messages)
        if query not in self._vectors:
            found = await asyncio.to_thread(self._embedder.embed, [query])
            self._vectors[query] = np.asarray(found[0])
        return self._vectors[query]

    async def _costs(self, candidate: Candidate, examples: Sequence[Example]) -> dict[str, int]:
        layout = LAYOUTS[candidate.layout]
        counts = await asyncio.gather(*(self._count(render_example(layout, example)) for example in examples))
        return {example.id: count for example, count in zip(examples, counts, strict=True)}

    async def _count(self, text: str) -> int:
        """Tokens of a text for the task model; asked once."""
        if text not in self._tokens:
            self._tokens[text] = asyncio.create_task(self._calls.count_tokens(ROLE, text))
        return await asyncio.shield(self._tokens[text])


def read_completion(reply: Any) -> Json:
    """A text completion's first choice."""
    choice = reply["choices"][0]
    return {"text": str(choice["text"]), "finish_reason": str(choice["finish_reason"]), "tokens": _tokens(reply)}


def read_chat(reply: Any) -> Json:
    """A chat completion's first choice."""
    choice = reply["choices"][0]
    text = str(choice["message"]["content"] or "")
    return {"text": text, "finish_reason": str(choice["finish_reason"]), "tokens": _tokens(reply)}


def read_echo(reply: Any) -> Json:
    """Where each token of an echoed prompt begins, and its log-probability (the first has none)."""
    logprobs = reply["choices"][0]["logprobs"]
    if not logprobs or not logprobs.get("text_offset"):
        raise UnparsableReplyError("the server echoes no log-probabilities: the reward likelihood needs vLLM")
    return {"offsets": logprobs["text_offset"], "logprobs": logprobs["token_logprobs"]}


def mean_log_probability(kept: Json, start: int, end: int) -> float:
    """The mean over the tokens that hold characters `start` to `end` of a text that ends there.

    vLLM counts what it puts before the text (`<bos>`) as characters too: places are reckoned back from the one token
    that was generated, which begins where the text ends. A token that holds the first character may begin before it.
    """
    *offsets, ended = kept["offsets"]
    begins = start + ended - end
    spans = zip(offsets, [*offsets[1:], ended], kept["logprobs"], strict=False)
    values = [value for _, until, value in spans if until > begins and value is not None]
    if not values:
        raise UnparsableReplyError("the echoed prompt has no token of the reference")
    return float(np.mean(values))


def _tokens(reply: Any) -> list[int]:
    """Prompt and completion tokens, 0 where they are not counted."""
    usage = reply.get("usage") or {}
    return [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]


def _reply(kept: Json, examples: tuple[str, ...]) -> Reply:
    prompt, completion = kept["tokens"]
    return Reply(kept["text"], kept["finish_reason"], prompt, completion, examples)


def _text_prompt(candidate: Candidate, examples: Sequence[Example], row: Row) -> TextPrompt:
    return text_prompt(LAYOUTS[candidate.layout], candidate.prompt, examples, row.messages)
