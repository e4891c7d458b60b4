"""The errors of the optimizer. This module depends on no endpoint and no file format.

    OptimizeError
      DataError               a data file or an answers file that cannot be used
      ConfigError             run.toml has a wrong key or value
      JournalError            the run's journal cannot be read or written
      BudgetSpentError        the next call might cost more than the budget has left
      ModelError              the endpoint did not give an answer
        UnreachableError      no connection, or no reply in time, after every retry
        RefusedRequestError   the endpoint answered with an error status
        UnparsableReplyError  the reply does not hold what the request asked for

Messages state the problem and a remedy. They never contain keys or the text of queries and answers.
"""

from index.errors import DrpoError


class OptimizeError(DrpoError):
    """A run or an evaluation cannot continue."""


class DataError(OptimizeError):
    """A data file or an answers file cannot be used; the message names the file and the line."""


class ConfigError(OptimizeError):
    """run.toml has a wrong key or value; the message names the table and the key."""


class JournalError(OptimizeError):
    """The run's journal cannot be read or written: another process uses it, the disk is full, or it was edited."""


class BudgetSpentError(OptimizeError):
    """The next call might cost more than the budget has left.

    Attributes:
        what: The limit that was reached: calls, tokens, money or minutes.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"the budget of {what} is spent: raise it under [budget] in the run's run.toml, and resume")
        self.what = what


class ModelError(OptimizeError):
    """The endpoint did not give an answer."""


class UnreachableError(ModelError):
    """No connection, or no reply in time, after every retry."""


class RefusedRequestError(ModelError):
    """The endpoint answered with an error.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class UnparsableReplyError(ModelError):
    """The endpoint's reply does not hold what the request asked for."""
