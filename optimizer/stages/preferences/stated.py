"""Decides whether a run asks its writer model what people prefer, and asks it."""

from optimizer.core.config_tables import RunConfig
from optimizer.core.journal import SPECIFICATION
from optimizer.core.model_tables import PUBLISHED_RULES
from optimizer.stages.preferences.specification import state_preferences
from optimizer.stages.proposers.base import WRITER
from optimizer.stages.run_context import RunContext
from optimizer.stages.writer_protocol import ROLE


def states_preferences(config: RunConfig) -> bool:
    """Whether a run asks its writer model what people prefer. The published instructions cannot contain the answer."""
    search = config.search
    uses_writer = ROLE in config.models and (not search.propose or WRITER in search.propose)
    return config.data.preferences is not None and uses_writer and search.writer.instructions != PUBLISHED_RULES


async def stated_preferences(context: RunContext) -> str:
    """Return what people prefer, as the writer model states it, and journal it; empty if there are no pairs.

    Raises:
        ModelError: The writer model gave no usable answer, but a later call may succeed.
        BudgetSpentError: The budget is spent.
        JournalError: The journal cannot be written.
    """
    if not states_preferences(context.config):
        return ""
    specification = await state_preferences(context.calls, context.gate, context.preferences)
    await context.journal.note(SPECIFICATION, rules=specification.rules, pairs=len(context.preferences.pairs))
    return specification.text
