"""The errors of the optimizer. This module does not depend on endpoints or file formats.

    OptimizeError
      DataError               a data file or an answers file cannot be used
      ConfigError             run.toml has a wrong table, key or value
      JournalError            the run's journal cannot be read or written
      BudgetSpentError        the next call might cost more than the rest of the budget
      ModelError              the endpoint gave no usable reply
        UnreachableError      the last attempt got no connection, or no complete reply in time
          NoReplyError        the last attempt got no complete reply in time
        RefusedRequestError   the endpoint answered with an error status
        UnparsableReplyError  the reply lacks the requested content
      RewardError             a user's reward function failed, or returned no number from 0 to 1
      UnembeddableTextError   the embedder fails at a text of a row, but embeds other texts
      UnusableRowsError       too many rows could not be answered or scored

A message states the problem and a remedy. It never contains an API key or the text of a query or an answer.
"""

from collections.abc import Awaitable
from typing import Final, TypeVar

from index.errors import DrpoError

T = TypeVar("T")


class OptimizeError(DrpoError):
    """A run or an evaluation cannot continue.

    Attributes:
        without_run: The message for a command that has no run which could be resumed, such as `estimate`.
    """

    def __init__(self, message: str, *, without_run: str = "") -> None:
        super().__init__(message)
        self.without_run = without_run or message


class DataError(OptimizeError):
    """A data file or an answers file cannot be used. The message names the file, and the line if one line is wrong."""


class ConfigError(OptimizeError):
    """run.toml has a wrong table, key or value. The message names the table and the key."""


class ChangedInputsError(ConfigError):
    """The inputs of a run changed since it began, so that it cannot be resumed as it is."""


class JournalError(OptimizeError):
    """The journal cannot be read or written: another process uses the file, the disk is full, or a line is damaged."""


class BudgetSpentError(OptimizeError):
    """The next call might cost more than the rest of the budget.

    Attributes:
        what: The name of the limit that the call might exceed: `calls`, `tokens`, `money` or `minutes`.
    """

    def __init__(self, what: str) -> None:
        problem = f"the budget of {what} is spent. Raise the limit under [budget] in"
        super().__init__(f"{problem} the run's run.toml, and resume.", without_run=f"{problem} run.toml.")
        self.what = what


class ModelError(OptimizeError):
    """The endpoint gave no usable reply.

    Attributes:
        is_final: Whether the failure is due to the request itself, so that the same request would fail again.
    """

    is_final: bool = False


async def unless_final(call: Awaitable[T]) -> T | None:
    """Return the result of a call to a model, or None if the same call would always fail (`ModelError.is_final`).

    Raises:
        ModelError: The model gave no usable reply, but a later call may succeed.
    """
    try:
        return await call
    except ModelError as error:
        if not error.is_final:
            raise
        return None


async def refusal_of(call: Awaitable[object]) -> "RefusedRequestError | None":
    """Await a call to a model. Return the error if the server refuses the request for good, or else None.

    Raises:
        ModelError: The model gave no usable reply, but a later call may succeed.
    """
    try:
        await call
    except ModelError as error:
        if not error.is_final:
            raise
        return error if isinstance(error, RefusedRequestError) else None
    return None


class UnreachableError(ModelError):
    """The last attempt to send the request got no connection, or no complete reply in time."""


class NoReplyError(UnreachableError):
    """The last attempt to send the request got no complete reply in time."""


class RefusedRequestError(ModelError):
    """The endpoint answered with an error status.

    The refusal is final for a status from 400 to 499, such as 400 for a prompt that is longer than the context. The
    exceptions are statuses that do not depend on the text of the request, such as 401 (API key), 402 (payment), 404
    (address) and 429 (too many requests).

    Attributes:
        status: The HTTP status of the answer.
        reason: The server's explanation, which may be long.
    """

    FORBIDDEN: Final = 403
    _NOT_FINAL: Final = frozenset({401, 402, 403, 404, 405, 407, 408, 409, 421, 425, 426, 429})

    def __init__(self, message: str, status: int, reason: str = "", *, is_final: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.is_final = is_final or (400 <= status < 500 and status not in self._NOT_FINAL)


class UnparsableReplyError(ModelError):
    """The endpoint's reply lacks the requested content, such as the text of an answer."""

    is_final = True


class RewardError(OptimizeError):
    """A user's reward function failed, or returned no number from 0 to 1. The message names function and row."""


class UnembeddableTextError(OptimizeError):
    """The embedder fails at the text of a query or an answer, but embeds other texts."""


class UnusableRowsError(OptimizeError):
    """Too many rows could not be answered or scored. The message names the rows and the last reason."""
