"""Defines the rows that wait to be written, and the futures of the requests that wait for their feedback."""

import asyncio
from dataclasses import dataclass, field

from proxy.core.errors import StoreError
from proxy.experiments.records import Content, Exposure, Feedback, Judgement
from proxy.experiments.store.store import Batch


@dataclass(frozen=True, slots=True)
class PendingFeedback:
    """Feedback that is not committed yet.

    Attributes:
        feedback: The feedback.
        committed: The future for which the request that sent the feedback waits. It ends with the commit or an error.
            Its value says whether the store has a request with the id that the feedback names.
    """

    feedback: Feedback
    committed: "asyncio.Future[bool]" = field(repr=False)


@dataclass(slots=True)
class PendingBatch:
    """The rows that one transaction writes. Each feedback has the future for which its request waits.

    After the commit, `recorded` contains those ids of the feedback that name a stored request.
    """

    exposures: list[Exposure]
    contents: list[Content]
    judgements: list[Judgement]
    feedback: list[PendingFeedback]
    recorded: frozenset[str] = frozenset()

    @property
    def batch(self) -> Batch:
        """The rows without the futures."""
        feedback = [pending.feedback for pending in self.feedback]
        return Batch(self.exposures, self.contents, self.judgements, feedback)

    def complete(self, error: StoreError | None) -> None:
        """End the futures of the feedback, with an error if there was one. The event loop calls this."""
        for one in self.feedback:
            if one.committed.done():
                continue
            if error is None:
                one.committed.set_result(one.feedback.subject in self.recorded)
            else:
                one.committed.set_exception(error)
