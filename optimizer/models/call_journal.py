"""The calls of a run in the journal: the events of each attempt, and the results of the calls of earlier sessions.

A call that the server refused for good is in the journal too. A resumed run therefore does not send it again. If a run
stopped because too many rows were left out, the user changes something before the run is resumed. Refusals and
unparsable replies from before such a stop are therefore ignored, and their requests are sent again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from optimizer.core.budget import Budget, Cost
from optimizer.core.errors import ModelError, NoReplyError, RefusedRequestError
from optimizer.core.journal import STOPPED, Event, Journal

UNPARSABLE: Final = "unparsable"
"""The key of a stored reply whose content could not be parsed. Its value is the reason."""
_SERVER_ERROR: Final = 500


@dataclass(slots=True)
class CallRecord:
    """The results of the calls of earlier sessions, and of the calls of this session so far.

    Attributes:
        replies: The stored part of each reply, by the cache key of its request.
        refusals: Message and status of each request that the server refused for good, by cache key.
        given_up: The cache keys of requests that failed in all attempts, although the server may have been well.
        spent: The cost of the calls of earlier sessions.
        roles: The roles whose models have replied.
    """

    replies: dict[str, Event] = field(default_factory=dict)
    refusals: dict[str, tuple[str, int]] = field(default_factory=dict)
    given_up: set[str] = field(default_factory=set)
    spent: Cost = field(default_factory=Cost)
    roles: set[str] = field(default_factory=set)

    def add_reply(self, key: str, role: str, kept: Event) -> None:
        """Record the stored part of a reply."""
        self.replies[key] = kept
        self.roles.add(role)

    def forget_failures(self) -> None:
        """Remove refused requests and replies that could not be parsed."""
        self.refusals.clear()
        self.given_up.clear()
        self.replies = {key: kept for key, kept in self.replies.items() if UNPARSABLE not in kept}


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
            max_cost = unanswered.pop(event["key"], Cost())
            record.spent += max_cost if event["maybe_paid"] else Cost(1)
        elif kind == "refused":
            record.refusals[event["key"]] = (event["message"], event["status"])
        elif kind == "given_up":
            record.given_up.add(event["key"])
        elif kind == "reply":
            unanswered.pop(event["key"], None)
            record.add_reply(event["key"], event["role"], event["kept"])
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
    """

    journal: Journal
    budget: Budget
    record: CallRecord
    role: str
    key: str
    max_cost: Cost

    async def before(self) -> None:
        """Reserve the highest possible cost of an attempt, and journal the attempt."""
        self.budget.reserve(self.max_cost)
        event = {"call": "sent", "key": self.key, "role": self.role}
        await self.journal.add({**event, "tokens": self.max_cost.tokens, "money": self.max_cost.money})

    async def failed(self, *, maybe_paid: bool) -> None:
        """Settle and journal a failed attempt."""
        self.budget.settle(self.max_cost, self.max_cost if maybe_paid else Cost(1))
        await self.journal.add({"call": "failed", "key": self.key, "role": self.role, "maybe_paid": maybe_paid})

    async def gave_up(self, error: ModelError) -> ModelError:
        """Journal that the request failed in all attempts, and return the error to raise.

        The failure is final in three cases. The server refused the request itself. It answered with status 403 although
        it accepts the API key: some servers so reject a text. Or the request failed in an earlier session too, and not
        because the server was overloaded or down.
        """
        status = error.status if isinstance(error, RefusedRequestError) else 0
        may_be_temporary = status == _SERVER_ERROR or isinstance(error, NoReplyError)
        is_final = error.is_final or (status == RefusedRequestError.FORBIDDEN and self.role in self.record.roles)
        if is_final or (may_be_temporary and self.key in self.record.given_up):
            self.record.refusals[self.key] = (str(error), status)
            event = {"call": "refused", "key": self.key, "role": self.role}
            await self.journal.add({**event, "status": status, "message": str(error)})
            return RefusedRequestError(str(error), status, is_final=True)
        if may_be_temporary:
            await self.journal.add({"call": "given_up", "key": self.key, "role": self.role})
        return error
