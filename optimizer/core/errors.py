"""Everything that can go wrong while learning and measuring; knows no endpoint and no file.

    OptimizeError
      DataError               a data file or an answers file that cannot be used
      ConfigError             run.toml says something that cannot be done
      JournalError            the run's journal cannot be read or written
      BudgetSpentError        the next call might cost more than is left
      ModelError              the endpoint did not give an answer
        UnreachableError      no connection, or no reply in time, after every retry
        RefusedRequestError   the endpoint says no: its status, and its own words
        UnparsableReplyError  a reply that is not what was asked for

Messages say what was wrong and what to do. They never hold keys or the text of queries and answers.
"""

from index.errors import DrpoError


class OptimizeError(DrpoError):
    """Learning or measuring cannot go on."""


class DataError(OptimizeError):
    """A data file or an answers file cannot be used; the message names the file and the line."""


class ConfigError(OptimizeError):
    """run.toml says something that cannot be done; the message names the table and the key."""


class JournalError(OptimizeError):
    """The run's journal cannot be read or written: another process has it, the disk is full, or it was edited."""


class BudgetSpentError(OptimizeError):
    """The next call might cost more than is left of the budget; `what` is spent: calls, tokens, money or minutes."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the budget of {what} is spent: raise it under [budget] in the run's run.toml, and resume")
        self.what = what


class ModelError(OptimizeError):
    """The endpoint did not give an answer."""


class UnreachableError(ModelError):
    """No connection, or no reply in time, after every retry."""


class RefusedRequestError(ModelError):
    """The endpoint answered with an error. `status`: its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class UnparsableReplyError(ModelError):
    """The endpoint's reply is not what was asked for."""
