"""Calls the task model, which is the model for which a bundle is made.

The task model answers a query with the prompt and examples of a candidate, or computes the log-likelihood of a given
answer. This module is responsible for the content of requests and replies; cached_calls.py sends the requests. If two
candidates lead to exactly the same request for a query, the request is sent once, and both candidates get its reply.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from index.embedders.base import Embedder
from index.layouts import LAYOUTS, layout_stop
from index.rendering import TextPrompt, leading_gap, render_chat, render_example, render_prompt, render_raw, text_prompt
from index.retrieval.passages import embed_query
from index.retrieval.retriever import Retriever, pinned
from index.retrieval.selection import select_within_policy
from index.retrieval.turns import choose_by_turns, turns_to_read, user_turns
from index.types import Example, Retrieved, Vectors
from optimizer.core.candidate import COMPLETION, Candidate, as_bundle
from optimizer.core.concurrency import gather_or_cancel, start_shared
from optimizer.core.errors import ConfigError, UnparsableReplyError
from optimizer.data.dataset import Row
from optimizer.models.cached_calls import CachedCalls
from optimizer.models.reply_text import message_text, text_field
from optimizer.models.request import Json, ReplyReader, Request, reply_reader
from optimizer.models.token_count import token_usage

ROLE = "task"
CONTENT_FILTER = "content_filter"
REFUSED = "refused"
"""The finish reason where there is no answer, because the server refused the request only because of the candidate's
texts."""
_DEFAULT_MAX_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Raw:
    """A variant that sends only the conversation, without prompt and examples.

    Attributes:
        sampling: The sampling parameters of the request.
    """

    sampling: Mapping[str, Any]


Variant = Candidate | Raw


@dataclass(frozen=True, slots=True)
class Injected:
    """What precedes the conversation of a row in a request.

    Attributes:
        prompt: The system prompt.
        examples: The examples, pinned examples first.
    """

    prompt: str
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the task model.

    Attributes:
        text: The answer.
        finish_reason: The field `finish_reason` of the server's reply, such as `stop` or `length`.
        prompt_tokens: The number of tokens of the prompt; 0 if the server does not report the number.
        completion_tokens: The number of tokens of the answer; 0 if the server does not report the number.
        examples: The ids of the examples in the request.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    examples: tuple[str, ...] = ()


class TaskModel:
    """Gets answers and log-probabilities from the task model.

    Most methods take a row and a variant. If the variant is a candidate, its prompt and examples precede the row's
    conversation in the request. If the variant is a `Raw`, the request contains only the conversation.
    """

    def __init__(self, calls: CachedCalls, kind: str, embedder: Embedder) -> None:
        """Use the model that run.toml defines in the table [models.task].

        Args:
            calls: The object that sends the requests.
            kind: `completion` for a base model, `chat` for a chat model.
            embedder: The embedder of the queries, with which examples are retrieved.
        """
        self._calls = calls
        self._kind = kind
        self._embedder = embedder
        self._retrievers: dict[tuple[str, object], Retriever] = {}
        self._vectors: dict[str, Vectors] = {}
        self._tokens: dict[str, asyncio.Task[int]] = {}

    async def answer(self, variant: Variant, row: Row, replicate: int = 0) -> Reply:
        """Return an answer to the row's conversation.

        Calls with the same variant, row and replicate number return the same answer. Another replicate number gives
        another, independent answer.

        Raises:
            ModelError: The endpoint gave no usable reply.
            BudgetSpentError: The budget does not allow the call.
            JournalError: The journal cannot be written.
        """
        if isinstance(variant, Raw):
            return _reply(await self._calls.ask(self._raw_request(variant, row, replicate), self._reader), ())
        injected = await self.injected(variant, row)
        kept = await self._calls.ask(self.request(variant, injected, row, replicate), self._reader)
        reply = _reply(kept, tuple(example.id for example in injected.examples))
        if self._kind != COMPLETION:
            return reply
        prompt = _text_prompt(variant, injected, row)
        # A server may ignore stop strings, or accept only a few. The answer is then cut here, as the proxy would do.
        is_stopped = layout_stop(reply.text, prompt.stop) is not None
        finish_reason = "stop" if is_stopped else reply.finish_reason
        return replace(reply, text=prompt.clean(reply.text), finish_reason=finish_reason)

    async def log_likelihood(self, variant: Variant, row: Row) -> float:
        """Return the mean log-probability of the tokens of the row's reference answer, given the rendered prompt.

        Prompt and reference answer are sent as one prompt. The server must return the log-probability of each token of
        this prompt: vLLM does so, llama.cpp does not.

        Raises:
            ConfigError: The model is a chat model.
            UnparsableReplyError: The server returns no log-probabilities of the prompt's tokens.
        """
        if self._kind != COMPLETION:
            raise ConfigError(
                "the reward likelihood needs a completion model, because chat models do not score given answers"
            )
        prompt = await self._prompt(variant, row)
        # The gap of the layout precedes the reference answer, because a model also writes the gap before its answer.
        gap = leading_gap(LAYOUTS[variant.layout]) if isinstance(variant, Candidate) else ""
        text = f"{prompt}{gap}{row.reference or ''}"
        body = {"prompt": text, "max_tokens": 1, "temperature": 0.0, "echo": True, "logprobs": 0}
        kept = await self._calls.ask(Request(ROLE, "completions", body), read_echo)
        return mean_log_probability(kept, len(prompt), len(text))

    async def prompt_tokens(self, candidate: Candidate) -> int:
        """Return the number of tokens of a candidate's system prompt. Raises ModelError."""
        return await self._count_prompt(candidate, candidate.prompt)

    async def injected(self, candidate: Candidate, row: Row) -> Injected:
        """Return the prompt and the examples that the proxy would inject for a row."""
        bundle = as_bundle(candidate)
        always = pinned(bundle)
        retrieved = await self._retrieved(candidate, row)
        costs = await self._costs(candidate, [*always, *(hit.example for hit in retrieved.hits)])
        prompt = bundle.prompt_of(retrieved.set_name)
        tokens = await self._count_prompt(candidate, prompt)
        selection = select_within_policy(candidate.retrieval, tokens, costs, always, retrieved)
        return Injected(prompt, selection.in_order(candidate.retrieval.order))

    def request(self, candidate: Candidate, injected: Injected, row: Row, replicate: int = 0) -> Request:
        """Return the request that the proxy would send to the backend for a row with this injection."""
        sampling = dict(candidate.sampling)
        if self._kind == COMPLETION:
            prompt = _text_prompt(candidate, injected, row)
            body = {"max_tokens": _DEFAULT_MAX_TOKENS, **sampling, "prompt": prompt.text, "stop": list(prompt.stop)}
            return Request(ROLE, "completions", body, replicate)
        messages = [{"role": message.role, "content": message.text} for message in row.messages]
        body = {**sampling, "messages": render_chat(injected.prompt, injected.examples, messages)}
        return Request(ROLE, "chat/completions", body, replicate)

    def _raw_request(self, variant: Raw, row: Row, replicate: int) -> Request:
        if self._kind == COMPLETION:
            body = {"max_tokens": _DEFAULT_MAX_TOKENS, **variant.sampling, "prompt": render_raw(row.messages)}
            return Request(ROLE, "completions", body, replicate)
        messages = [{"role": message.role, "content": message.text} for message in row.messages]
        return Request(ROLE, "chat/completions", {**variant.sampling, "messages": messages}, replicate)

    async def _prompt(self, variant: Variant, row: Row) -> str:
        if isinstance(variant, Raw):
            return render_raw(row.messages)
        return _text_prompt(variant, await self.injected(variant, row), row).text

    @property
    def _reader(self) -> ReplyReader:
        return read_completion if self._kind == COMPLETION else read_chat

    def _retriever(self, candidate: Candidate) -> Retriever:
        key = (candidate.bank.key, candidate.retrieval)
        if key not in self._retrievers:
            self._retrievers[key] = Retriever(as_bundle(candidate))
        return self._retrievers[key]

    async def _retrieved(self, candidate: Candidate, row: Row) -> Retrieved:
        retriever = self._retriever(candidate)
        turns = turns_to_read(retriever, user_turns(row.messages))
        return choose_by_turns(retriever, [await self._query_vectors(turn) for turn in turns])[1]

    async def _query_vectors(self, query: str) -> Vectors:
        if query not in self._vectors:
            self._vectors[query] = await asyncio.to_thread(embed_query, self._embedder, query)
        return self._vectors[query]

    async def _costs(self, candidate: Candidate, examples: Sequence[Example]) -> dict[str, int]:
        layout = LAYOUTS[candidate.layout]
        counts = await gather_or_cancel(self._count(render_example(layout, example)) for example in examples)
        return {example.id: count for example, count in zip(examples, counts, strict=True)}

    async def _count_prompt(self, candidate: Candidate, prompt: str) -> int:
        return await self._count(render_prompt(LAYOUTS[candidate.layout], prompt))

    async def _count(self, text: str) -> int:
        """Return the number of tokens of a text. The server counts each text only once."""
        if text not in self._tokens:
            self._tokens[text] = start_shared(self._calls.count_tokens(ROLE, text))
        return await asyncio.shield(self._tokens[text])


@reply_reader("optimizer.task.read_completion")
def read_completion(reply: Any) -> Json:
    """Extract the text, the finish reason and the token counts of a text completion's first choice."""
    choice = reply["choices"][0]
    return _answer(text_field(choice, "text"), choice, reply)


@reply_reader("optimizer.task.read_chat")
def read_chat(reply: Any) -> Json:
    """Extract the text, the finish reason and the token counts of a chat completion's first choice."""
    choice = reply["choices"][0]
    message = choice["message"]
    return _answer(message_text(message), choice, reply)


@reply_reader("optimizer.task.read_echo")
def read_echo(reply: Any) -> Json:
    """Extract the offset and the log-probability of each token of a prompt and of the one token that was generated.

    The log-probability of the first token is None, because no token precedes it.
    """
    logprobs = reply["choices"][0]["logprobs"]
    if not logprobs or not logprobs.get("text_offset"):
        raise UnparsableReplyError("the server echoes no log-probabilities. The reward likelihood needs vLLM")
    offsets, values = logprobs["text_offset"], logprobs["token_logprobs"]
    if not all(isinstance(offset, int) for offset in offsets):
        raise UnparsableReplyError("an offset of the echoed prompt is not a whole number")
    # A log-probability is at most 0. A larger one is a rounding error, or not from a model.
    return {"offsets": list(offsets), "logprobs": [None if one is None else min(float(one), 0.0) for one in values]}


def mean_log_probability(kept: Json, start: int, end: int) -> float:
    """Return the mean log-probability of the tokens of a text, from the character at position `start` to the end.

    vLLM puts the token `<bos>` before the text, and the characters of `<bos>` count in the offsets of all tokens. An
    offset is therefore not a position in the text. The last offset belongs to the generated token, which follows the
    text. It thus marks the end of the text. The offset of the character at `start` is the last offset minus the number
    of characters from `start` to the end. If a token begins before this character and contains it, the token counts.

    Args:
        kept: The result of `read_echo`.
        start: The position in the text of the first character to count.
        end: The number of characters of the text.

    Raises:
        UnparsableReplyError: No token with a log-probability reaches beyond `start`.
    """
    *offsets, text_end = kept["offsets"]
    first = start + text_end - end
    token_ends = [*offsets[1:], text_end]
    pairs = zip(token_ends, kept["logprobs"], strict=False)
    values = [value for token_end, value in pairs if token_end > first and value is not None]
    if not values:
        raise UnparsableReplyError("the echoed prompt has no token of the reference")
    return float(np.mean(values))


def _answer(text: str, choice: Json, reply: Any) -> Json:
    """Return what is stored of an answer. Raises UnparsableReplyError if a content filter stopped the answer."""
    reason = choice.get("finish_reason")
    if reason == CONTENT_FILTER:
        raise UnparsableReplyError("the server's content filter stopped the answer")
    return {"text": text, "finish_reason": str(reason or ""), "tokens": list(token_usage(reply))}


def _reply(kept: Json, examples: tuple[str, ...]) -> Reply:
    prompt, completion = kept["tokens"]
    return Reply(kept["text"], kept["finish_reason"], prompt, completion, examples)


def _text_prompt(candidate: Candidate, injected: Injected, row: Row) -> TextPrompt:
    return text_prompt(LAYOUTS[candidate.layout], injected.prompt, injected.examples, row.messages)
