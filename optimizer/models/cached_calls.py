"""The calls of a run to its models. A call is repeated if its reply cannot be read, or has too few choices.

paid_replies.py sends the requests, and stores their replies in the journal.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from index.counted import counted
from index.errors import DrpoError
from index.token_estimate import estimated_tokens
from optimizer.core.budget import Budget
from optimizer.core.concurrency import gather_or_cancel
from optimizer.core.errors import RefusedRequestError, UnparsableReplyError
from optimizer.core.journal import Journal
from optimizer.core.model_tables import MAX_ATTEMPTS
from optimizer.core.request_form import RequestForm
from optimizer.models.call_journal import StoredReply
from optimizer.models.paid_replies import PaidReplies, PricedClient
from optimizer.models.repeats import CUT, UNPARSABLE, joined, repeated_body
from optimizer.models.request import Json, ReplyReader, Request
from optimizer.models.request_body import MAX_SHORT_REPLY
from optimizer.models.token_count import server_token_count

_GROWTH: Final = 4
"""The factor by which the maximum number of tokens is raised after a reply that was cut."""


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
        self._paid = PaidReplies(clients, journal, budget)

    @property
    def roles(self) -> frozenset[str]:
        """The roles for which the run has a model."""
        return frozenset(self._clients)

    def form(self, role: str) -> RequestForm:
        """Return the form of the requests to the model of a role, as far as it is known now."""
        return self._paid.negotiations[role].form

    def configured_form(self, role: str) -> RequestForm:
        """Return the form of the requests to the model of a role that run.toml sets."""
        return self._clients[role].form

    async def change_form(self, role: str, reason: str, form: RequestForm) -> None:
        """Use another form for the requests to the model of a role, and record it in the journal with the reason."""
        await self._paid.negotiations[role].change(reason, form)

    async def ask(self, request: Request, reader: ReplyReader) -> Json:
        """Return the part of the reply that `reader` extracts.

        If the journal holds the reply to this request, the part comes from the journal. Otherwise the request is sent.
        If the reader cannot parse the reply, the request is repeated with its reminder, as often as its `attempts`
        allow. If the reply was cut, it is repeated with a higher maximum number of tokens. A request at temperature 0
        is not repeated if it has no reminder. If the server returns fewer choices than the request asks for, the
        missing choices are requested again, and the lists in the parts are joined.

        Raises:
            UnparsableReplyError: The reader could parse no reply.
            ModelError: The endpoint gave no complete reply, or answered with an error status. If the error is final, a
                resumed run does not send the request again.
            BudgetSpentError: The budget does not allow the call.
            JournalError: The journal cannot be written.
        """
        kept: Json = {}
        reads, min_tokens = 0, 0
        for attempt in range(MAX_ATTEMPTS):
            is_cut = bool(kept.get(CUT)) and request.body.get("max_tokens", 0) > MAX_SHORT_REPLY
            body = repeated_body(request.body, request.reminder, attempt, is_cut=is_cut)
            if body is None or (attempt >= request.attempts and not is_cut):
                break
            min_tokens = self._more_tokens(request, min_tokens) if is_cut else min_tokens
            repeat = replace(request, body=body, replicate=request.replicate * MAX_ATTEMPTS + attempt)
            is_new = not self._paid.holds(repeat, 0, reader)
            try:
                kept = await self._collect(repeat, min_tokens, reader)
            except RefusedRequestError:
                if not attempt:
                    raise
                break  # the server refuses the longer request: what was read before is the result
            reads += 1
            if UNPARSABLE not in kept:
                if is_new:
                    await self._keep_more_tokens(request.role, min_tokens)
                return kept
        raise UnparsableReplyError(_unreadable_message(request.role, reads, kept))

    async def count_tokens(self, role: str, text: str) -> int:
        """Return the number of tokens of a text, counted by the tokenizer of a role's model.

        Tokens that the tokenizer adds to every text, such as a token for the beginning of the text, do not count. If
        the server cannot count tokens, the result is an estimate of one token for three bytes. The estimate is usually
        too high. Requests for a count are free of charge and are not written to the journal.

        Raises:
            ModelError: The endpoint gave no complete reply.
        """
        client = self._clients[role].client
        counts = [await server_token_count(client, counted) for counted in (text, "")]
        if counts[0] is None or counts[1] is None:
            return estimated_tokens(text)
        return counts[0] - counts[1]

    async def finish(self) -> None:
        """Wait for the calls that are sent, and drop the others. A call can outlast the work that made it."""
        await self._paid.finish()

    async def close(self, say: Callable[[str], None]) -> None:
        """Wait for the calls that are sent, because they are paid for, and send no new requests.

        A coroutine that has not noticed the end of the run can still call `ask`. If the journal does not hold the
        reply to this request, `ask` raises CancelledError.

        Args:
            say: A function that shows a message to the user. It is called only if replies are missing.
        """
        await self._paid.close(say)

    def _more_tokens(self, request: Request, min_tokens: int) -> int:
        """Return a higher maximum number of tokens, for the repeat of a request whose reply was cut."""
        return _GROWTH * int(min_tokens or self.form(request.role).max_tokens or request.body["max_tokens"])

    async def _keep_more_tokens(self, role: str, min_tokens: int) -> None:
        """Use a higher maximum number of tokens from now on, because a reply was complete only with it."""
        form = self.form(role)
        if min_tokens > form.max_tokens:
            await self.change_form(role, "a reply was cut", replace(form, max_tokens=min_tokens))

    async def _collect(self, request: Request, min_tokens: int, reader: ReplyReader) -> Json:
        """Return the part of the reply. If the reply has too few choices, request the others, and join the parts."""
        count = request.body.get("n") or 1
        parts: dict[int, StoredReply] = {}
        while missing := _missing_choices(parts, count):
            known = [number for number in missing if self._paid.holds(request, number, reader)]
            chunks = [(number, 1) for number in known[:1]] or _chunks(missing, self.form(request.role).max_choices)
            replies = await gather_or_cancel(
                self._paid.get(request, number, size, min_tokens, reader) for number, size in chunks
            )
            parts.update(zip((number for number, _ in chunks), replies, strict=True))
        return joined([parts[number].kept for number in sorted(parts)])


async def close_calls(
    calls: CachedCalls,
    say: Callable[[str], None],
    _kind: type[BaseException] | None,
    error: BaseException | None,
    _traceback: object,
) -> None:
    """Close the calls at the end of a context. If an error ended it, say so first, because the wait can take minutes.

    Args:
        calls: The calls.
        say: As for `CachedCalls.close`.
        error: The error that ended the context; None if none did.
    """
    reason = f"{error}\n" if isinstance(error, DrpoError) else ""
    await calls.close(lambda line: say(reason + line))


def _missing_choices(parts: Mapping[int, StoredReply], count: int) -> list[int]:
    """Return the numbers of the choices that no part contains. A part without a choice counts as one choice."""
    found = {number + one for number, part in parts.items() for one in range(max(1, part.choices))}
    return [number for number in range(count) if number not in found]


def _chunks(missing: Sequence[int], size: int) -> list[tuple[int, int]]:
    """Return, for each request for missing choices, the number of its first choice and how many choices it asks for."""
    step = size or len(missing)
    return [(missing[start], len(missing[start : start + step])) for start in range(0, len(missing), step)]


def _unreadable_message(role: str, reads: int, kept: Json) -> str:
    advice = f". The reply was cut. Raise max_tokens in [models.{role}.request]" if kept.get(CUT) else ""
    return f"{role}: {counted(reads, 'reply')} could not be read: {kept[UNPARSABLE]}{advice}"
