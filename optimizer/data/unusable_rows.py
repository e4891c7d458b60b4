"""Leaves out rows that cannot be answered or scored, and stops the run if there are too many of them.

A row cannot be used if the same work would fail again: a model refuses the request, no reply can be read, the embedder
fails at a text, or the user's reward function fails. Such a row is left out for all candidates that are compared on it.
Other failures, such as a server that is down, stop the run. A resumed run then tries the row again.
"""

from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from index.counted import counted
from optimizer.core.errors import (
    ModelError,
    RefusedRequestError,
    RewardError,
    UnembeddableTextError,
    UnparsableReplyError,
    UnusableRowsError,
)
from optimizer.core.journal import STOPPED, UNUSABLE, Journal
from optimizer.data.dataset import Row

T = TypeVar("T")
RowError = ModelError | RewardError | UnembeddableTextError
_MIN_UNREADABLE: Final = 5
"""The run stops if most replies are unreadable, but only if at least this number of results lack a readable reply."""
_MAX_NAMED_ROWS: Final = 10
_ADVICE: Final = (
    "Run drpo-optimizer doctor, correct what the reason names, and resume: these rows are then tried again. Or raise "
    "unusable under [data] in the run's run.toml, and resume. Or begin a new run without these rows, or with another "
    "model"
)
_ADVICE_WITHOUT_RUN: Final = (
    "Run drpo-optimizer doctor, and correct what the reason names. Or raise unusable under [data] in run.toml, remove "
    "these rows from the data, or use another model"
)


@dataclass(slots=True)
class UnusableRows:
    """The rows of one part of the data that could not be used so far.

    Attributes:
        journal: The journal of the run.
        part: The name of the part: `train`, `validation` or `sealed`.
        size: The number of rows of the part.
        share: The largest share of the rows that may be left out.
        found: The rows that were left out.
    """

    journal: Journal
    part: str
    size: int
    share: float
    found: dict[Row, None] = field(default_factory=dict)
    _unreadable: int = 0
    _succeeded: int = 0
    _stops: int = field(init=False)

    def __post_init__(self) -> None:
        self._stops = sum(event.get("note") == STOPPED for event in self.journal.events)

    @property
    def allowed(self) -> int:
        """The number of rows that may be left out: at least one if the share is above 0."""
        return max(1, int(self.share * self.size)) if self.share else 0

    async def attempt(self, row: Row, work: Awaitable[T], *, is_counted: bool = True) -> T | None:
        """Await work on a row, and return its result. Return None if the row cannot be used.

        Args:
            row: The row.
            work: The work, which answers or scores the row.
            is_counted: Whether the row counts as left out. If not, it is only named in the journal.

        Raises:
            UnusableRowsError: Too many rows cannot be used.
            ModelError: The work failed, but may succeed later.
            BudgetSpentError: The budget is spent.
            JournalError: The journal cannot be written.
        """
        try:
            result = await work
        except (ModelError, RewardError, UnembeddableTextError) as error:
            if isinstance(error, ModelError) and not error.is_final:
                raise
            # Rows that were left out before a stop are tried again. Their new notes differ in the number of stops.
            why = _category(error)
            await self.journal.note(UNUSABLE, part=self.part, row=row.name, why=why, stops=self._stops)
            if is_counted:
                self._leave_out(row, error)
            return None
        self._succeeded += 1
        return result

    def _leave_out(self, row: Row, error: RowError) -> None:
        self.found[row] = None
        self._unreadable += isinstance(error, UnparsableReplyError)
        if len(self.found) > self.allowed:
            names = list(dict.fromkeys(one.name for one in self.found))
            more = f" and {len(names) - _MAX_NAMED_ROWS} more" if len(names) > _MAX_NAMED_ROWS else ""
            allowed = f"{len(self.found)} of {counted(self.size, 'row')} of {self.part} cannot be answered or scored"
            raise _unusable_error(
                f"{allowed}, and [data] unusable = {self.share:g} allows {self.allowed}: "
                f"{'; '.join(names[:_MAX_NAMED_ROWS])}{more}. The last reason: {error}"
            )
        if self._unreadable >= _MIN_UNREADABLE and self._unreadable > self._succeeded:
            raise _unusable_error(
                f"{self._unreadable} of the first {self._unreadable + self._succeeded} results of {self.part} lack a "
                f"reply that can be read. The last reason: {error}"
            )


def _unusable_error(problem: str) -> UnusableRowsError:
    return UnusableRowsError(f"{problem}. {_ADVICE}", without_run=f"{problem}. {_ADVICE_WITHOUT_RUN}")


def _category(error: RowError) -> str:
    """Return the reason in words that contain no text of a query or an answer."""
    if isinstance(error, RewardError):
        return "the reward function failed"
    if isinstance(error, UnembeddableTextError):
        return "the embedder fails at a text"
    if isinstance(error, RefusedRequestError) and error.status:
        return f"a model's server answered with status {error.status}"
    return "a model's reply cannot be read" if isinstance(error, UnparsableReplyError) else "a model does not answer"
