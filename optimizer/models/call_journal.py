"""The calls of a run in the journal: writes the events of each attempt, and reads the results of earlier calls.

A call that the server refused for good is in the journal too. A resumed run therefore does not send it again. If a run
stopped because too many rows were left out, the user changes something before the run is resumed. Refusals and
unparsable replies from before such a stop are therefore ignored, and their requests are sent again.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from optimizer.core.budget import Budget, Cost, Prices
from optimizer.core.errors import ModelError, NoReplyError, RefusedRequestError, UnreachableError
from optimizer.core.journal import STOPPED, Event, Journal
from optimizer.models.repeats import UNPARSABLE
from optimizer.models.request_body import max_reply_tokens

_SERVER_ERROR: Final = 500
_FAILURES: Final = frozenset((_SERVER_ERROR, 502, 504))
"""Statuses of a server that may have failed because of the request. With status 503, a server says that it is busy."""
_DEFAULT_MAX_TOKENS: Final = 1024
"""The number of tokens that the budget reserves for an answer if the request does not limit its length."""


@dataclass(frozen=True, slots=True)
class StoredReply:
    """What the journal holds of a reply.

    Attributes:
        kept: The part that the reader extracted.
        choices: The number of choices of the reply.
    """

    kept: Event
    choices: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that the server refused for good.

    Attributes:
        message: The message of the error.
        status: The HTTP status.
        configured: The form that run.toml set then, as `RequestForm.differences`. With another form, the request may
            succeed.
    """

    message: str
    status: int
    configured: Mapping[str, Any]


@dataclass(slots=True)
class CallRecord:
    """The results of all calls of a run so far, including those that the journal contained when it was opened.

    Attributes:
        replies: The stored reply to each request, by the cache key of the request.
        refusals: The requests that the server refused for good, by cache key.
        given_up: The cache keys of requests that failed in all attempts, perhaps because of the request itself.
        spent: The cost of the calls that the journal contained when it was opened.
        roles: The roles whose models have replied.
    """

    replies: dict[str, StoredReply] = field(default_factory=dict)
    refusals: dict[str, Refusal] = field(default_factory=dict)
    given_up: set[str] = field(default_factory=set)
    spent: Cost = field(default_factory=Cost)
    roles: set[str] = field(default_factory=set)

    def add_reply(self, key: str, role: str, reply: StoredReply) -> None:
        """Record a stored reply."""
        self.replies[key] = reply
        self.roles.add(role)

    def forget_failures(self) -> None:
        """Remove refused requests and replies that could not be parsed."""
        self.refusals.clear()
        self.given_up.clear()
        self.replies = {key: reply for key, reply in self.replies.items() if UNPARSABLE not in reply.kept}


def read_calls(events: Sequence[Event]) -> CallRecord:
    """Return the results of the calls in the events of a journal.

    A call without a reply, which the server may have billed, counts with its highest possible cost.
    """
    record, unanswered = CallRecord(), dict[str, Cost]()
    for event in events:
        kind = event.get("call")
        if kind == "sent":
            record.spent += unanswered.pop(event["key"], Cost())
            unanswered[event["key"]] = Cost(1, event["tokens"], event["money"])
        elif kind == "failed":
            unanswered.pop(event["key"], None)
            record.spent += Cost(event["calls"], event["tokens"], event["money"])
        elif kind == "refused":
            record.refusals[event["key"]] = Refusal(event["message"], event["status"], event["configured"])
        elif kind == "given_up":
            record.given_up.add(event["key"])
        elif kind == "reply":
            unanswered.pop(event["key"], None)
            record.add_reply(event["key"], event["role"], StoredReply(event["kept"], event["choices"]))
            record.spent += Cost(1, sum(event["tokens"]), event["money"])
        elif event.get("note") == STOPPED:
            record.forget_failures()
    for max_cost in unanswered.values():
        record.spent += max_cost
    return record


@dataclass(frozen=True, slots=True)
class Attempts:
    """Reserves budget for each attempt to send one request, and writes each attempt to the journal.

    Attributes:
        journal: The journal of the run.
        budget: The budget of the run.
        record: The results of the calls so far.
        role: The role whose model receives the request.
        key: The cache key of the request.
        max_cost: The highest possible cost of one attempt.
        configured: The form of requests that run.toml sets, as `RequestForm.differences`.
        sent_at: For each request that is sent and not yet answered, the value of `time.monotonic()` when it was sent,
            by cache key.
    """

    journal: Journal
    budget: Budget
    record: CallRecord
    role: str
    key: str
    max_cost: Cost
    configured: Mapping[str, Any]
    sent_at: dict[str, float]

    async def before(self) -> None:
        """Reserve the highest possible cost of an attempt, and journal the attempt."""
        self.budget.reserve(self.max_cost)
        self.sent_at[self.key] = time.monotonic()
        event = {"call": "sent", "key": self.key, "role": self.role}
        await self.journal.add({**event, "tokens": self.max_cost.tokens, "money": self.max_cost.money})

    async def failed(self, *, maybe_paid: bool, reached_server: bool) -> None:
        """Settle and journal a failed attempt. An attempt without a connection is no call, so it costs nothing."""
        cost = self.max_cost if maybe_paid else Cost(int(reached_server))
        self.budget.settle(self.max_cost, cost)
        await self.journal.add({"call": "failed", "key": self.key, "role": self.role, **asdict(cost)})
        self.sent_at.pop(self.key, None)

    async def gave_up(self, error: ModelError, model_answers: Callable[[], Awaitable[bool]]) -> ModelError:
        """Journal that the request failed in all attempts, and return the error to raise.

        The failure is final in three cases:

        - The server refused the request itself.
        - The server answered with status 403, although it has accepted the API key. Some servers reject a text with
          this status.
        - The request also failed before the run was resumed, and the server seems to be up and not busy. It seems so
          if the server answered with status 500 or did not reply in time. It also seems so if the connection broke, or
          a gateway answered with status 502 or 504, but the model answers another request now.

        Args:
            error: The error of the last attempt.
            model_answers: Returns whether the model answers another request now.
        """
        status = error.status if isinstance(error, RefusedRequestError) else 0
        may_be_this_request = status in _FAILURES or isinstance(error, UnreachableError)
        is_final = error.is_final or (status == RefusedRequestError.FORBIDDEN and self.role in self.record.roles)
        if not is_final and may_be_this_request and self.key in self.record.given_up:
            is_final = status == _SERVER_ERROR or isinstance(error, NoReplyError) or await model_answers()
        if is_final:
            self.record.refusals[self.key] = Refusal(str(error), status, self.configured)
            event = {"call": "refused", "key": self.key, "role": self.role, "configured": self.configured}
            await self.journal.add({**event, "status": status, "message": str(error)})
            return RefusedRequestError(str(error), status, is_final=True)
        if may_be_this_request:
            await self.journal.add({"call": "given_up", "key": self.key, "role": self.role})
        return error


def max_cost(raw: bytes, sent: Mapping[str, Any], prices: Prices) -> Cost:
    """Return the highest possible cost of a request.

    The prompt has at most one token for each byte of the body. All answers of the reply together have at most the
    tokens that the body allows, or 1,024 tokens each if the body sets no limit.
    """
    answer = max_reply_tokens(sent, _DEFAULT_MAX_TOKENS)
    return Cost(1, len(raw) + answer, prices.of(len(raw), answer))
