"""The paid calls of a run. Each request is sent once, and a part of its reply is stored in the journal.

This module does not depend on the content of requests and replies. A `ReplyReader` extracts the part to store.

The cache key of a request is a hash of the request's path, its body with the model's name, its replicate number, and
the name of the reader. These values determine the reply and the part of it that is stored.

A `sent` event is written to the journal before a request is sent, and a `reply` event before the caller gets the reply.
If the process dies between these two events, the server may have billed the request. The resumed run therefore counts
the highest possible cost of the request as spent, and sends the request again. Both requests have the same value of the
header Idempotency-Key. A server that supports this header bills only one of them.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from optimizer.core.budget import Budget, Cost, Prices
from optimizer.core.errors import ModelError, RefusedRequestError, UnparsableReplyError
from optimizer.core.journal import Journal
from optimizer.models.call_journal import UNPARSABLE, Attempts, read_calls
from optimizer.models.http_client import Client

Json = Mapping[str, Any]
_MAX_READS = 3
_DEFAULT_MAX_TOKENS = 1024
"""The number of tokens that the budget reserves for an answer if the request does not limit its length."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request to the model of a role.

    Attributes:
        role: The role, which is the name of the model's table under [models] in run.toml.
        path: The path, with the meaning of the argument `path` of `Client.post`.
        body: The JSON body without the field `model`.
        replicate: A number that distinguishes requests with the same body. If two requests differ only in this number,
            both are sent, and their replies are independent.
    """

    role: str
    path: str
    body: Json
    replicate: int = 0


@dataclass(frozen=True, slots=True)
class ReplyReader:
    """Extracts one part from a reply. The journal stores this part, and the caller gets it.

    Attributes:
        name: The name of the reader, which is part of the cache key. Do not change the name of an existing reader:
            otherwise a resumed run does not find its replies in the journal, and pays for them again.
        read: The function that extracts the part from the parsed JSON of a reply. It raises UnparsableReplyError if
            the reply does not contain what was requested.
    """

    name: str
    read: Callable[[Any], Json]

    def __call__(self, reply: Any) -> Json:
        return self.read(reply)


def reply_reader(name: str) -> Callable[[Callable[[Any], Json]], ReplyReader]:
    """Return a decorator that turns a function into a ReplyReader with this name."""
    return lambda read: ReplyReader(name, read)


@dataclass(frozen=True, slots=True)
class PricedClient:
    """The client that sends requests to the model of a role, and the prices of the model's tokens."""

    client: Client
    prices: Prices


class CachedCalls:
    """Sends each request once. If a caller repeats a request, the caller gets the stored part of the first reply."""

    def __init__(self, clients: Mapping[str, PricedClient], journal: Journal, budget: Budget) -> None:
        """Read the replies and the costs of earlier calls from the journal.

        Args:
            clients: The client and the prices for each role.
            journal: The journal of the run, to which new calls are added.
            budget: The budget of the run. The costs of earlier calls are added to `budget.spent`.
        """
        self._clients = clients
        self._journal = journal
        self._budget = budget
        self._record = read_calls(journal.events)
        self._in_flight: dict[str, asyncio.Task[Json]] = {}
        self._is_closing = False
        budget.spent += self._record.spent

    @property
    def roles(self) -> frozenset[str]:
        """The roles for which the run has a model."""
        return frozenset(self._clients)

    async def ask(self, request: Request, reader: ReplyReader) -> Json:
        """Return the part of the reply that `reader` extracts.

        If the journal holds the reply to this request, the part comes from the journal. Otherwise the request is sent.
        If the reader cannot parse the reply, the same body is sent again, at most three times in all.

        Raises:
            UnparsableReplyError: The reader could parse none of the three replies.
            ModelError: The endpoint gave no complete reply, or answered with an error status. If the error is final, a
                resumed run does not send the request again.
            BudgetSpentError: The budget does not allow the call.
            JournalError: The journal cannot be written.
        """
        for attempt in range(_MAX_READS):
            replicate = request.replicate * _MAX_READS + attempt
            kept = await self._ask_once(request, replicate, reader)
            if UNPARSABLE not in kept:
                return kept
        raise UnparsableReplyError(f"{request.role}: {_MAX_READS} replies could not be read: {kept[UNPARSABLE]}")

    async def count_tokens(self, role: str, text: str) -> int:
        """Return the number of tokens of a text, counted by the tokenizer of a role's model.

        Tokens that the tokenizer adds to every text, such as a token for the beginning of the text, do not count. If
        the server cannot count tokens, the result is an estimate of one token for three bytes. The estimate is usually
        too high. Requests for a count are free of charge and are not written to the journal.

        Raises:
            ModelError: The endpoint gave no complete reply.
        """
        client = self._clients[role].client
        counts = [await _server_token_count(client, counted) for counted in (text, "")]
        if counts[0] is None or counts[1] is None:
            return len(text.encode("utf-8", "surrogatepass")) // 3 + 1
        return counts[0] - counts[1]

    async def close(self, say: Callable[[str], None]) -> None:
        """Wait for the calls in flight, because they are paid for, and send no new requests.

        A coroutine that has not noticed the end of the run can still call `ask`. If the journal does not hold the
        reply to this request, `ask` raises CancelledError.

        Args:
            say: A function that shows a message to the user. It is called only if calls are in flight.
        """
        self._is_closing = True
        if self._in_flight:
            say(f"waiting for {len(self._in_flight)} calls under way: they are paid for (Ctrl-C stops at once)")
            await asyncio.wait(self._in_flight.values())

    async def _ask_once(self, request: Request, replicate: int, reader: ReplyReader) -> Json:
        priced = self._clients[request.role]
        body = orjson.dumps({**request.body, "model": priced.client.endpoint.model}, option=orjson.OPT_SORT_KEYS)
        key = _cache_key(request.path, body, replicate, reader)
        if (kept := self._record.replies.get(key)) is not None:
            return kept
        if (refusal := self._record.refusals.get(key)) is not None:
            raise RefusedRequestError(*refusal, is_final=True)
        if key not in self._in_flight:
            if self._is_closing:
                raise asyncio.CancelledError("the run is over")
            max_cost = _max_cost(body, request.body, priced)
            attempts = Attempts(self._journal, self._budget, self._record, request.role, key, max_cost)
            task = asyncio.create_task(self._send(priced, request, body, attempts, reader))
            task.add_done_callback(lambda _: self._in_flight.pop(key, None))
            self._in_flight[key] = task
        return await asyncio.shield(self._in_flight[key])

    async def _send(
        self, priced: PricedClient, request: Request, body: bytes, attempts: Attempts, reader: ReplyReader
    ) -> Json:
        began = time.monotonic()
        try:
            raw, _ = await priced.client.post(request.path, body, {"Idempotency-Key": attempts.key}, attempts)
        except ModelError as error:
            raise await attempts.gave_up(error) from None
        kept, tokens = _read_reply(raw, reader)
        cost = Cost(1, sum(tokens), priced.prices.of(*tokens))
        self._budget.settle(attempts.max_cost, cost)
        event = {"call": "reply", "key": attempts.key, "role": request.role, "kept": kept, "tokens": tokens}
        await self._journal.add({**event, "money": cost.money, "seconds": round(time.monotonic() - began, 3)})
        self._record.add_reply(attempts.key, request.role, kept)
        return kept


async def _server_token_count(client: Client, text: str) -> int | None:
    """Request a token count at the path /tokenize, first in vLLM's format, then in llama.cpp's format.

    Return None if the server supports neither format.
    """
    model = {"model": client.endpoint.model}
    for body in ({"prompt": text, "add_special_tokens": True}, {"content": text, "add_special": True}):
        try:
            raw, _ = await client.post("/tokenize", orjson.dumps({**model, **body}))
            reply = orjson.loads(raw)
        except (RefusedRequestError, orjson.JSONDecodeError):
            continue
        if isinstance(reply, dict) and isinstance(reply.get("count"), int):
            return int(reply["count"])
        if isinstance(reply, dict) and isinstance(reply.get("tokens"), list) and reply["tokens"]:
            return len(reply["tokens"])
    return None


def _cache_key(path: str, body: bytes, replicate: int, reader: ReplyReader) -> str:
    """Return the cache key. The key depends on the reader, because each reader extracts a different part of a reply."""
    header = orjson.dumps([path, replicate, reader.name])
    return hashlib.sha256(header + body).hexdigest()


def _max_cost(raw: bytes, body: Json, priced: PricedClient) -> Cost:
    """Return the highest possible cost of a request.

    The prompt has at most one token for each byte of the body. All answers of the reply together have at most the
    tokens that the body allows, or 1,024 tokens each if the body sets no limit.
    """
    answer = next((body[name] for name in ("max_tokens", "max_completion_tokens") if name in body), _DEFAULT_MAX_TOKENS)
    answer *= body.get("n") or 1
    return Cost(1, len(raw) + answer, priced.prices.of(len(raw), answer))


def _read_reply(raw: bytes, reader: ReplyReader) -> tuple[Json, tuple[int, int]]:
    """Return the part of the reply to store, and the numbers of prompt and completion tokens that the reply reports.

    If the reply cannot be parsed, the part to store is a dictionary with the reason under the key `unparsable`.
    """
    try:
        parsed = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return {UNPARSABLE: "not JSON"}, (0, 0)
    try:
        return reader(parsed), token_usage(parsed)
    except UnparsableReplyError as error:
        return {UNPARSABLE: str(error)}, token_usage(parsed)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        return {UNPARSABLE: f"it lacks what was asked for ({type(error).__name__})"}, token_usage(parsed)


def token_usage(reply: Any) -> tuple[int, int]:
    """Return the numbers of prompt and completion tokens that a reply reports. A missing or malformed number is 0."""
    usage = reply.get("usage") if isinstance(reply, dict) else None
    if not isinstance(usage, dict):
        return 0, 0
    return _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))


def _count(value: object) -> int:
    return int(value) if isinstance(value, int | float) and value > 0 else 0
