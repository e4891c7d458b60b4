"""Scores the answers to the rows of one part of the data, and journals each score. All stages score rows this way."""

from collections.abc import Sequence
from dataclasses import dataclass

from optimizer.core.journal import Journal
from optimizer.data.dataset import Row
from optimizer.data.unusable_rows import UnusableRows
from optimizer.models.task_model import Variant
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
    """

    stage: str
    rows: Sequence[Row]
    scorer: Scorer
    journal: Journal
    unusable: UnusableRows

    async def score(self, name: str, variant: Variant, row: Row, *, is_counted: bool = True) -> ScoredReply | None:
        """Score the answer to a row, and journal the score with the query, the answer and the value of each reward.

        Args:
            name: The name of the variant in the journal.
            variant: The candidate or the raw variant that answers.
            row: The row.
            is_counted: Whether a row that cannot be used counts as left out.

        Returns:
            The answer with its score; None if the row cannot be used.

        Raises:
            UnusableRowsError: Too many rows cannot be used.
            ModelError: A model gives no usable answer, but may do so later.
            BudgetSpentError: The budget is spent.
            JournalError: The journal cannot be written.
        """
        scored = await self.unusable.attempt(row, self.scorer.score(variant, row), is_counted=is_counted)
        if scored is not None:
            await self._add_note(name, row, scored)
        return scored

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
