"""Scores the answers to the rows of one part of the data, and journals each score. All stages score rows this way."""

from collections.abc import Sequence
from dataclasses import dataclass

from optimizer.core.candidate import Candidate
from optimizer.core.errors import RefusedRequestError
from optimizer.core.journal import Journal
from optimizer.data.dataset import Row
from optimizer.data.unusable_rows import UnusableRows
from optimizer.models.task_model import REFUSED, Reply, Variant
from optimizer.rewards.scorer import ScoredReply, Scorer


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """The rows of one part of the data, and how a stage scores them.

    Attributes:
        stage: The name of the stage in the journal.
        rows: The rows.
        scorer: Answers rows and scores the answers.
        journal: The journal of the run.
        unusable: The rows of this part that cannot be used.
        reference: The candidate that the others are compared with. If the server refuses a row under another candidate
            and accepts it under this one, the other candidate is the reason, for example because its examples make the
            request too long. If None, every refusal counts against the row.
    """

    stage: str
    rows: Sequence[Row]
    scorer: Scorer
    journal: Journal
    unusable: UnusableRows
    reference: Candidate | None = None

    async def score(self, name: str, variant: Variant, row: Row, *, is_counted: bool = True) -> ScoredReply | None:
        """Score the answer to a row, and journal the score with the query, the answer and the value of each reward.

        Args:
            name: The name of the variant in the journal.
            variant: The candidate or the raw variant that answers.
            row: The row.
            is_counted: Whether a row that cannot be used counts as left out.

        Returns:
            The answer with its score; None if the row cannot be used. If the server refuses the row only because of
            what the candidate puts into the request, the answer is empty, and its score is 0.

        Raises:
            UnusableRowsError: Too many rows cannot be used.
            ModelError: A model gave no usable answer, but a later call may succeed.
            BudgetSpentError: The budget is spent.
            JournalError: The journal cannot be written.
        """
        scored = await self.unusable.attempt(row, self._answered(variant, row), is_counted=is_counted)
        if scored is not None:
            await self._add_note(name, row, scored)
        return scored

    async def _answered(self, variant: Variant, row: Row) -> ScoredReply:
        try:
            return await self.scorer.score(variant, row)
        except RefusedRequestError as error:
            if error.is_final and await self._is_to_blame(variant, row):
                return ScoredReply(Reply("", REFUSED, 0, 0), 0.0, {})
            raise

    async def _is_to_blame(self, variant: Variant, row: Row) -> bool:
        """Whether the server refuses a row under a candidate, and accepts it under the reference candidate."""
        if self.reference is None or not isinstance(variant, Candidate) or variant.key == self.reference.key:
            return False
        if await self.scorer.refusal(variant, row) is None:
            return False  # another model refused its request, such as the judge
        return await self.scorer.refusal(self.reference, row) is None

    async def _add_note(self, name: str, row: Row, scored: ScoredReply) -> None:
        await self.journal.note(
            "score",
            stage=self.stage,
            candidate=name,
            score=scored.score,
            parts={part: {"value": score.value, **score.details} for part, score in scored.parts.items()},
            query=row.query,
            kind=row.kind,
            answer=scored.reply.text,
            finish_reason=scored.reply.finish_reason,
            tokens=scored.reply.completion_tokens,
        )
