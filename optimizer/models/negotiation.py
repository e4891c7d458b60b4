"""Finds the form of requests that a server accepts, and remembers it for the run.

The first request of each shape (`body_shape`) is sent alone. If the server refuses it, simpler forms are tried, and the
first one that the server accepts is used from then on. A refused request costs no tokens. This module does not send
requests itself.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

from optimizer.core.errors import RefusedRequestError
from optimizer.core.journal import Event, Journal
from optimizer.core.request_form import RequestForm
from optimizer.models.request import Json
from optimizer.models.request_body import body_shape, limits_reply, names_field, request_body, simpler_forms

T = TypeVar("T")
Send = Callable[[dict[str, Any]], Awaitable[T]]
"""Sends a body and returns its reply."""
_NOTE: Final = "form"
_REFUSALS: Final = frozenset((400, 422, 501))
"""With these statuses, a server refuses a request for its form, or for its content."""
_VAGUE_REFUSALS: Final = frozenset((403, 404, 405, 406, 415, 424, 500))
"""With these statuses, a server may also mean the form, but only if its message names a part of the request."""
_TOO_LONG: Final = re.compile(
    r"context.{0,20}(?:length|size|window)|max_model_len|too long|too many tokens"
    r"|(?:prompt|input|message)s?.{0,40}exceed",
    re.IGNORECASE | re.DOTALL,
)
_TASK: Final = "task"
"""The role whose maximum number of tokens stays as the bundle sets it."""
_NUMBERS: Final = re.compile(r"[0-9a-f-]{8,}|\d+")
_MAX_TRIALS: Final = 40
_MAX_VAGUE_FAILURES: Final = 2


class FormNegotiation:
    """The form of the requests to the model of one role.

    Attributes:
        form: The form that is used now.
    """

    def __init__(self, role: str, configured: RequestForm, journal: Journal) -> None:
        """Begin with the form that the journal contains, or else with the form of run.toml.

        Args:
            role: The role of the model.
            configured: The form that run.toml sets. If it has changed since a form was journaled, the form of run.toml
                is used.
            journal: The journal of the run.
        """
        self._role = role
        self._configured = configured
        self._journal = journal
        self._accepted: set[tuple[object, ...]] = set()
        self._deciding = asyncio.Lock()
        self._failures = 0
        self.form = _recorded_form(role, configured, journal.events) or configured

    async def post(self, path: str, body: Json, min_tokens: int, send: Send[T]) -> T:
        """Send a body in the form that the server accepts, and return the reply.

        Args:
            path: The path of the request.
            body: The body in the usual form, with the model's name.
            min_tokens: The lowest value for the maximum number of tokens.
            send: Sends a body and returns its reply.

        Raises:
            RefusedRequestError: The server refuses the request, and the reason is not its form.
        """
        sent = request_body(self.form, body, min_tokens)
        if body_shape(path, sent) not in self._accepted:
            async with self._deciding:
                sent = request_body(self.form, body, min_tokens)  # another request may have changed the form
                if body_shape(path, sent) not in self._accepted:
                    return await self._decide(path, body, sent, min_tokens, send)
        return await send(sent)

    async def change(self, reason: str, form: RequestForm) -> None:
        """Use another form from now on, and record it in the journal with the reason."""
        if form != self.form:
            self.form = form
            recorded = {"configured": self._configured.differences, "form": form.differences}
            await self._journal.note(_NOTE, role=self._role, reason=reason, **recorded)

    async def _decide(self, path: str, body: Json, sent: dict[str, Any], min_tokens: int, send: Send[T]) -> T:
        """Send a body in the form that is used now. If the server refuses it for its form, find another form."""
        try:
            reply = await send(sent)
        except RefusedRequestError as error:
            if not self._may_be_form(error, sent):
                raise
            form, reply = await self._find_form(body, min_tokens, send, error)
            await self.change(error.reason[:200], form)
        self._accepted.add(body_shape(path, request_body(self.form, body, min_tokens)))
        return reply

    async def _find_form(
        self, body: Json, min_tokens: int, send: Send[T], first_error: RefusedRequestError
    ) -> tuple[RequestForm, T]:
        """Try simpler forms until the server accepts one. If it accepts none, raise the first error.

        If another form leads to another error, this form solves one of several problems. The search then goes on with
        this form.
        """
        error, form, tried = first_error, self.form, [self.form]
        remaining = self._simpler_forms(form, body, error)
        while remaining and len(tried) < _MAX_TRIALS:
            trial = remaining.pop(0)
            if trial in tried:
                continue
            tried.append(trial)
            try:
                return trial, await send(request_body(trial, body, min_tokens))
            except RefusedRequestError as next_error:
                if _is_another(next_error, error):
                    error, form = next_error, trial
                    remaining = self._simpler_forms(form, body, error)
        self._failures += len(tried) > 1
        raise first_error

    def _simpler_forms(self, form: RequestForm, body: Json, error: RefusedRequestError) -> list[RequestForm]:
        is_unsure = error.status in _REFUSALS and not is_too_long(error) and self._failures < _MAX_VAGUE_FAILURES
        found = simpler_forms(form, body, error.reason, is_unsure=is_unsure)
        if self._role == _TASK:
            return [one for one in found if one.max_tokens == form.max_tokens]
        # If a request is too long, only a lower maximum number of tokens of the reply can help.
        return [one for one in found if not is_too_long(error) or one == replace(form, max_tokens=one.max_tokens)]

    def _may_be_form(self, error: RefusedRequestError, sent: Mapping[str, Any]) -> bool:
        """Return whether the reason of an error may be the form of a body.

        If the message names no part of the body, other forms are tried only a few times, because each refused request
        counts in the budget of calls.
        """
        if is_too_long(error):
            return self._role != _TASK and limits_reply(error.reason)
        if names_field(sent, error.reason):
            return error.status in _REFUSALS | _VAGUE_REFUSALS
        return error.status in _REFUSALS and self._failures < _MAX_VAGUE_FAILURES


def is_too_long(error: RefusedRequestError) -> bool:
    """Return whether a server refused a request because it is too long for the model's context."""
    return _TOO_LONG.search(error.reason or str(error)) is not None


def _is_another(error: RefusedRequestError, earlier: RefusedRequestError) -> bool:
    """Return whether two errors have different reasons. Numbers and identifiers in a message do not matter."""
    return _NUMBERS.sub("#", error.reason) != _NUMBERS.sub("#", earlier.reason)


def _recorded_form(role: str, configured: RequestForm, events: list[Event]) -> RequestForm | None:
    """Return the form in the journal that was found for this configured form; None if there is none."""
    notes = [event for event in events if event.get("note") == _NOTE and event.get("role") == role]
    if not notes or RequestForm.from_differences(notes[-1]["configured"]) != configured:
        return None
    return RequestForm.from_differences(notes[-1]["form"])
