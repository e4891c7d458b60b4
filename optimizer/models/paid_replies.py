"""The paid replies of a run. Each request is sent once, and a part of its reply is stored in the journal.

This module does not depend on the content of requests and replies. A `ReplyReader` extracts the part to store.

The cache key of a request is a hash of five values: its path, its body before it is adapted to the server, the name of
the model, its replicate number (which tells equal requests apart), and the name of the reader. These values determine
the reply and the part of it that is stored. Servers accept different fields, so the body that is sent can have another
form (request_form.py). The key ignores the form: if it changes, the stored reply is found, and not paid for again.

A `sent` event is written to the journal before a request is sent, and a `reply` event before the caller gets the reply.
If the process dies between these two events, the server may have billed the request. The resumed run therefore counts
the highest possible cost of the request as spent, and sends the request again. Both requests have the same value of the
header Idempotency-Key. A server that supports this header bills only one of them.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson

from index.model_names import RAW, VARIANT_HEADER, VARIANTS, split_model_name
from optimizer.core.budget import Budget, Cost, Prices
from optimizer.core.concurrency import start_shared
from optimizer.core.errors import ModelError, RefusedRequestError, UnparsableReplyError
from optimizer.core.journal import ESTIMATED, Journal
from optimizer.core.request_form import RequestForm
from optimizer.models.call_journal import Attempts, StoredReply, max_cost, read_calls
from optimizer.models.http_client import Client
from optimizer.models.negotiation import FormNegotiation
from optimizer.models.repeats import CUT, UNPARSABLE
from optimizer.models.reply_text import is_cut
from optimizer.models.request import Json, ReplyReader, Request, reply_reader
from optimizer.models.request_body import MAX_SHORT_REPLY
from optimizer.models.token_count import call_tokens

_TRIAL: Final = "What is the capital of France?"
_CHECK_INTERVAL: Final = 0.2
"""Seconds between two looks for failed attempts, when the run ends and waits for the last replies."""


@dataclass(frozen=True, slots=True)
class PricedClient:
    """The client that sends requests to the model of a role.

    Attributes:
        client: The client.
        prices: The prices of the model's tokens.
        form: The request form that run.toml sets.
    """

    client: Client
    prices: Prices
    form: RequestForm = field(default_factory=RequestForm)


@dataclass(frozen=True, slots=True)
class _Sent:
    """A reply, the body of its request, and the highest possible cost of the request."""

    raw: bytes
    body: Mapping[str, Any]
    max_cost: Cost


class PaidReplies:
    """Sends each request once, within the budget. If a request is repeated, its stored reply is returned.

    Attributes:
        negotiations: An object for each role. It finds the request form that the server of this role accepts.
    """

    def __init__(self, clients: Mapping[str, PricedClient], journal: Journal, budget: Budget) -> None:
        """Read the replies and the costs of earlier calls from the journal. CachedCalls describes the arguments."""
        self._clients = clients
        self._journal = journal
        self._budget = budget
        self._record = read_calls(journal.events)
        self._in_flight: dict[str, asyncio.Task[StoredReply]] = {}
        self._sent_at: dict[str, float] = {}
        self._is_closing = False
        self.negotiations = {role: FormNegotiation(role, one.form, journal) for role, one in clients.items()}
        budget.spent += self._record.spent

    def holds(self, request: Request, first_choice: int, reader: ReplyReader) -> bool:
        """Return whether a reply that begins with the choice number `first_choice` is stored."""
        return self._cache_key(request, first_choice, reader) in self._record.replies

    async def get(
        self, request: Request, first_choice: int, choices: int, min_tokens: int, reader: ReplyReader
    ) -> StoredReply:
        """Return the reply that begins with the choice number `first_choice`. Request it if it is not stored."""
        key = self._cache_key(request, first_choice, reader)
        if (stored := self._record.replies.get(key)) is not None:
            return stored
        refusal = self._record.refusals.get(key)
        if refusal is not None and refusal.configured == self._clients[request.role].form.differences:
            raise RefusedRequestError(refusal.message, refusal.status, is_final=True)
        if key not in self._in_flight:
            if self._is_closing:
                raise asyncio.CancelledError("the run is over")
            task = start_shared(self._send(request, choices, min_tokens, key, reader))
            task.add_done_callback(lambda _: self._forget(key))
            self._in_flight[key] = task
        return await asyncio.shield(self._in_flight[key])

    async def _send(
        self, request: Request, choices: int, min_tokens: int, key: str, reader: ReplyReader
    ) -> StoredReply:
        negotiation, configured = self.negotiations[request.role], self._clients[request.role].form.differences
        attempts = Attempts(
            self._journal, self._budget, self._record, request.role, key, Cost(), configured, self._sent_at
        )

        async def send(sent: dict[str, Any]) -> _Sent:
            return await self._send_body(request, sent, attempts)

        try:
            reply = await negotiation.post(request.path, self._body(request, choices), min_tokens, send)
        except ModelError as error:
            raise await attempts.gave_up(error, lambda: self._answers_trial(request)) from None
        stored, tokens, is_estimate = _read_reply(reply, reader)
        cost = Cost(1, sum(tokens), self._clients[request.role].prices.of(*tokens))
        self._budget.settle(reply.max_cost, cost)
        event = {"call": "reply", "key": key, "role": request.role, "kept": stored.kept, "choices": stored.choices}
        seconds = round(time.monotonic() - self._sent_at[key], 3)
        await self._journal.add({**event, "tokens": tokens, "money": cost.money, "seconds": seconds})
        if is_estimate:
            await self._journal.note(ESTIMATED, role=request.role)
        self._record.add_reply(key, request.role, stored)
        if 0 < stored.choices < (choices := reply.body.get("n") or 1):
            reason = f"the server returned {stored.choices} of {choices} choices"
            await negotiation.change(reason, replace(negotiation.form, max_choices=stored.choices))
        return stored

    async def _answers_trial(self, request: Request) -> bool:
        """Return whether the model answers a short request, after another request failed."""
        asked: dict[str, Any] = {"max_tokens": MAX_SHORT_REPLY, "temperature": 0.0}
        text = {"messages": [{"role": "user", "content": _TRIAL}]} if "messages" in request.body else {"prompt": _TRIAL}
        # The number makes each trial a new request. Without it, the stored reply to an earlier trial would count.
        trial = replace(request, body={**asked, **text}, replicate=len(self._journal.events), reminder="")
        try:
            await self.get(trial, 0, 1, 0, _read_nothing)
        except ModelError:
            return False
        return True

    async def _send_body(self, request: Request, sent: dict[str, Any], attempts: Attempts) -> _Sent:
        priced = self._clients[request.role]
        body = orjson.dumps(sent, option=orjson.OPT_SORT_KEYS)
        cost = max_cost(body, sent, priced.prices)
        # A server may answer a repeated Idempotency-Key with its first reply, so another body needs another key.
        headers = {"Idempotency-Key": hashlib.sha256(attempts.key.encode() + body).hexdigest()}
        if "messages" in sent:
            headers |= _without_bundle(priced.client.endpoint.model)
        raw, _ = await priced.client.post(request.path, body, headers, replace(attempts, max_cost=cost), is_json=True)
        return _Sent(raw, sent, cost)

    def _body(self, request: Request, choices: int | None = None) -> dict[str, Any]:
        """Return the body in the usual form, with the model's name and this number of choices."""
        body = {**request.body, "model": self._clients[request.role].client.endpoint.model}
        return body if choices is None or "n" not in body else {**body, "n": choices}

    def _cache_key(self, request: Request, first_choice: int, reader: ReplyReader) -> str:
        """Return the cache key of the reply with the choices from number `first_choice` on.

        The key depends on the reader, because each reader extracts a different part of a reply. It does not depend on
        the form in which the request is sent.
        """
        later = [first_choice] if first_choice else []
        header = orjson.dumps([request.path, request.replicate, reader.name, *later])
        return hashlib.sha256(header + orjson.dumps(self._body(request), option=orjson.OPT_SORT_KEYS)).hexdigest()

    async def finish(self) -> None:
        """Wait for the replies to the calls that are sent, and drop the calls that wait for their turn.

        A call whose attempt fails meanwhile is not attempted again.
        """
        while self._in_flight:
            self._drop_unsent()
            await asyncio.wait(self._in_flight.values(), timeout=_CHECK_INTERVAL)

    async def close(self, say: Callable[[str], None]) -> None:
        """Do the same as `finish`, and send no new requests. CachedCalls.close describes the argument."""
        self._is_closing = True
        if self._sent_at:
            say(f"Waiting for the replies to paid calls: {len(self._sent_at)}. Ctrl-C stops at once.")
        await self.finish()

    def _drop_unsent(self) -> None:
        """Cancel the calls that wait for their turn or for their next attempt: nobody needs their replies now."""
        for key, task in self._in_flight.items():
            if key not in self._sent_at:
                task.cancel()

    def _forget(self, key: str) -> None:
        self._in_flight.pop(key, None)
        self._sent_at.pop(key, None)


def _without_bundle(model: str) -> Mapping[str, str]:
    """Return the header by which a drpo-proxy adds no bundle to a chat request. Other servers ignore it.

    The requests of a run contain a prompt already. If the name of the model has a variant, the user chose it.
    """
    return {} if split_model_name(model, ())[1] in VARIANTS else {VARIANT_HEADER: RAW}


@reply_reader("optimizer.trial.read_nothing")
def _read_nothing(_reply: Any) -> Json:
    return {}


def _read_reply(reply: _Sent, reader: ReplyReader) -> tuple[StoredReply, tuple[int, int], bool]:
    """Read a reply.

    Returns:
        What to store of it, the numbers of prompt and completion tokens, and whether they are an estimate. If the reply
        cannot be parsed, the part to store is a dictionary with the reason under the key `unparsable`.
    """
    try:
        parsed = orjson.loads(reply.raw)
    except orjson.JSONDecodeError:
        return StoredReply({UNPARSABLE: "not JSON"}, 1), *call_tokens(reply.body, None)
    choices = parsed.get("choices") if isinstance(parsed, dict) else None
    count = len(choices) if isinstance(choices, list) else 0
    return StoredReply(_read_part(parsed, reader), count), *call_tokens(reply.body, parsed)


def _read_part(parsed: Any, reader: ReplyReader) -> Json:
    try:
        return reader(parsed)
    except UnparsableReplyError as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001 - a reply can have any shape, and none may end a paid run
        reason = f"it lacks what was asked for ({type(error).__name__})"
    return {UNPARSABLE: reason, CUT: True} if is_cut(parsed) else {UNPARSABLE: reason}
