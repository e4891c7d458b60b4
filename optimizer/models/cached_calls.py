"""The paid calls of a run: each is made once, whatever happens. Knows requests and replies, journal and budget; knows
nothing of what is asked for.

A call's key is the hash of all that decides its reply: model, path, body, and a replicate number for those who want
another reply to the same request. `sent` is in the journal before a request leaves, `reply` before anybody sees it.
What was sent and never answered, because the process was killed, may have been paid: it counts as spent in full, and is
asked again with the same Idempotency-Key, so that a server that knows the header bills it once.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from optimizer.core.budget import Budget, Cost, Prices
from optimizer.core.errors import RefusedRequestError, UnparsableReplyError
from optimizer.core.journal import Event, Journal
from optimizer.models.http_client import Client

Json = Mapping[str, Any]
Read = Callable[[Any], Json]
_READS = 3
_ANSWER_BOUND = 1024
"""Tokens reserved for an answer whose request does not limit it."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a role's model. path: as Client.post takes it; body: without the model; replicate: 0 for the
    first reply to this body, 1 for another one."""

    role: str
    path: str
    body: Json
    replicate: int = 0


@dataclass(frozen=True, slots=True)
class Source:
    """Who answers a role's calls, and for how much."""

    client: Client
    prices: Prices


class Calls:
    """Asks each request once, and remembers."""

    def __init__(self, sources: Mapping[str, Source], journal: Journal, budget: Budget) -> None:
        self._sources = sources
        self._journal = journal
        self._budget = budget
        self._replies: dict[str, Json] = {}
        self._under_way: dict[str, asyncio.Task[Json]] = {}
        self._closing = False
        self._recall(journal.events)

    @property
    def roles(self) -> frozenset[str]:
        """The roles that have a model."""
        return frozenset(self._sources)

    async def ask(self, request: Request, read: Read) -> Json:
        """What `read` takes from the reply to `request`: remembered, or asked for now.

        read: given the parsed reply, raises UnparsableReplyError if it is not what was asked for; such a request is
        tried again as another replicate, and never scored. Raises ModelError, BudgetSpentError, JournalError.
        """
        for attempt in range(_READS):
            replicate = request.replicate * _READS + attempt
            kept = await self._once(request, replicate, read)
            if "unparsable" not in kept:
                return kept
        raise UnparsableReplyError(f"{request.role}: {_READS} replies could not be read: {kept['unparsable']}")

    async def count_tokens(self, role: str, text: str) -> int:
        """Tokens of `text` for a role's model, its beginning-of-text token not among them; estimated, on the high side,
        where the server cannot count. Costs nothing, and is not journaled. Raises ModelError."""
        client = self._sources[role].client
        counts = [await _tokenized(client, told) for told in (text, "")]
        if counts[0] is None or counts[1] is None:
            return len(text.encode("utf-8", "surrogatepass")) // 3 + 1
        return counts[0] - counts[1]

    async def close(self, say: Callable[[str], None]) -> None:
        """Wait for the calls under way: they are paid for, so their replies are kept. No other is begun any more, by
        whoever has not heard yet that the run is over: nobody would be there to keep the reply."""
        self._closing = True
        if self._under_way:
            say(f"waiting for {len(self._under_way)} calls under way: they are paid for (Ctrl-C stops at once)")
            await asyncio.wait(self._under_way.values())

    async def _once(self, request: Request, replicate: int, read: Read) -> Json:
        source = self._sources[request.role]
        body = orjson.dumps({**request.body, "model": source.client.endpoint.model}, option=orjson.OPT_SORT_KEYS)
        key = _key(request.path, body, replicate, read)
        if (kept := self._replies.get(key)) is not None:
            return kept
        if key not in self._under_way:
            if self._closing:
                raise asyncio.CancelledError("the run is over")
            most = _most(body, request.body, source)
            attempt = _Attempt(self._journal, self._budget, request.role, key, most)
            task = asyncio.create_task(self._send(source, request, body, attempt, read))
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
            self._under_way[key] = task
        return await asyncio.shield(self._under_way[key])

    async def _send(self, source: Source, request: Request, body: bytes, attempt: "_Attempt", read: Read) -> Json:
        began = time.monotonic()
        raw, _ = await source.client.post(request.path, body, {"Idempotency-Key": attempt.key}, attempt)
        kept, tokens = _read_reply(raw, read)
        cost = Cost(1, sum(tokens), source.prices.of(*tokens))
        self._budget.settle(attempt.most, cost)
        event = {"call": "reply", "key": attempt.key, "role": request.role, "kept": kept, "tokens": tokens}
        await self._journal.add({**event, "money": cost.money, "seconds": round(time.monotonic() - began, 3)})
        self._replies[attempt.key] = kept
        return kept

    def _recall(self, events: list[Event]) -> None:
        """Take up what the journal holds: replies, and what they and the unanswered ones cost."""
        open_attempts: dict[str, Cost] = {}
        for event in events:
            kind = event.get("call")
            if kind == "sent":
                self._budget.spent += open_attempts.pop(event["key"], Cost())
                open_attempts[event["key"]] = Cost(1, event["tokens"], event["money"])
            elif kind == "failed":
                most = open_attempts.pop(event["key"], Cost())
                self._budget.spent += most if event["maybe_paid"] else Cost(1)
            elif kind == "reply":
                open_attempts.pop(event["key"], None)
                self._replies[event["key"]] = event["kept"]
                self._budget.spent += Cost(1, sum(event["tokens"]), event["money"])
        for most in open_attempts.values():
            self._budget.spent += most


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One request's attempts, reserved and journaled. `most`: what one can cost."""

    journal: Journal
    budget: Budget
    role: str
    key: str
    most: Cost

    async def before(self) -> None:
        self.budget.reserve(self.most)
        event = {"call": "sent", "key": self.key, "role": self.role}
        await self.journal.add({**event, "tokens": self.most.tokens, "money": self.most.money})

    async def failed(self, *, maybe_paid: bool) -> None:
        self.budget.settle(self.most, self.most if maybe_paid else Cost(1))
        await self.journal.add({"call": "failed", "key": self.key, "role": self.role, "maybe_paid": maybe_paid})


async def _tokenized(client: Client, text: str) -> int | None:
    """What /tokenize counts, asked in vLLM's way, then in llama.cpp's; None where neither is understood."""
    named = {"model": client.endpoint.model}
    for body in ({"prompt": text, "add_special_tokens": True}, {"content": text, "add_special": True}):
        try:
            raw, _ = await client.post("/tokenize", orjson.dumps({**named, **body}))
            reply = orjson.loads(raw)
        except (RefusedRequestError, orjson.JSONDecodeError):
            continue
        if isinstance(reply, dict) and isinstance(reply.get("count"), int):
            return int(reply["count"])
        if isinstance(reply, dict) and isinstance(reply.get("tokens"), list) and reply["tokens"]:
            return len(reply["tokens"])
    return None


def _key(path: str, body: bytes, replicate: int, read: Read) -> str:
    """What a reply is kept under. The reader is part of it: what it did not take is not there."""
    named = orjson.dumps([path, replicate, f"{read.__module__}.{read.__qualname__}"])
    return hashlib.sha256(named + body).hexdigest()


def _most(raw: bytes, body: Json, source: Source) -> Cost:
    """The most that a request can cost: no token is less than a byte, and the answer is as long as it may be."""
    answer = next((body[name] for name in ("max_tokens", "max_completion_tokens") if name in body), _ANSWER_BOUND)
    answer *= body.get("n") or 1
    return Cost(1, len(raw) + answer, source.prices.of(len(raw), answer))


def _read_reply(raw: bytes, read: Read) -> tuple[Json, tuple[int, int]]:
    """What is kept of a reply, and its prompt and completion tokens."""
    try:
        parsed = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return {"unparsable": "not JSON"}, (0, 0)
    try:
        return read(parsed), _tokens(parsed)
    except UnparsableReplyError as error:
        return {"unparsable": str(error)}, _tokens(parsed)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        return {"unparsable": f"it lacks what was asked for ({type(error).__name__})"}, _tokens(parsed)


def _tokens(reply: Any) -> tuple[int, int]:
    usage = reply.get("usage") if isinstance(reply, dict) else None
    if not isinstance(usage, dict):
        return 0, 0
    return int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
