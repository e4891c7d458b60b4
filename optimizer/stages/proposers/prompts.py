"""The proposers `writer` and `edits`: rewritten prompts, by the writer model or by edit operators."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import orjson

from optimizer.core.config_tables import SearchTable
from optimizer.core.errors import ModelError
from optimizer.models.cached_calls import CachedCalls
from optimizer.models.request import Request
from optimizer.stages.candidate_gate import CandidateGate
from optimizer.stages.prompt_edits import edits
from optimizer.stages.proposers.base import EDITS, PROMPT, WRITER, Parent, Proposal
from optimizer.stages.proposers.failures import Failure
from optimizer.stages.writer_protocol import read_prompts, rewrite_request

_RESERVE: Final = 3
"""How many edits are made for each one that is wanted."""


class WriterProposer:
    """Lets the writer model rewrite the prompt."""

    name: Final = WRITER

    def __init__(self, calls: CachedCalls, gate: CandidateGate, table: SearchTable, preferences: str = "") -> None:
        """Create the proposer. `preferences` is a list of what people prefer; empty if it is unknown."""
        self._preferences = preferences
        self._calls = calls
        self._gate = gate
        self._table = table
        self._asked: Counter[bytes] = Counter()

    async def propose(self, parent: Parent, count: int) -> Sequence[Proposal]:
        """Return rewrites of the prompt. There are none if the writer model gives no usable reply.

        Raises:
            ModelError: The writer model gave no usable answer, but a later call may succeed.
            BudgetSpentError: The budget is spent.
            JournalError: The journal cannot be written.
        """
        request = rewrite_request(parent.path, self._table, count, parent.failures, self._preferences)
        again = parent.again + self._times_asked(request)
        source = f"{parent.candidate.key}/{again}"
        try:
            kept = await self._calls.ask(replace(request, replicate=again), read_prompts)
        except ModelError as error:
            await self._gate.drop_failed("prompt", source, error, count)
            return []
        await self._gate.drop_each("prompt", source, kept["dropped"])
        prompts: list[str] = kept["prompts"]
        found = prompts if self._table.resample else list(dict.fromkeys(prompts))
        return [Proposal(parent.candidate.with_prompt(prompt), PROMPT, "rewrites the prompt") for prompt in found]

    def _times_asked(self, request: Request) -> int:
        """Return how often the search has asked for these rewrites before, if they are to be sampled anew; else 0.

        A resumed run repeats the search in the same order, so that it counts the same.
        """
        if not self._table.resample:
            return 0
        key = orjson.dumps(request.body)
        self._asked[key] += 1
        return self._asked[key] - 1


class EditProposer:
    """Edits the sentences of the prompt at random. Inserted sentences are chosen to correct the failures."""

    name: Final = EDITS

    def __init__(self, table: SearchTable) -> None:
        self._table = table

    async def propose(self, parent: Parent, count: int) -> Sequence[Proposal]:
        """Return candidates with edited prompts, more than wanted as a reserve."""
        seed, prompt = f"{self._table.seed}:{parent.again}", parent.candidate.prompt
        found = edits(prompt, _RESERVE * count, seed, self._table.words, criterion_weights(parent.failures))
        names = {"drop": "drops", "shorten": "shortens", "add": "adds", "replace": "replaces"}
        return [
            Proposal(parent.candidate.with_prompt(one.prompt), PROMPT, f"{names[one.change]} a sentence")
            for one in found
        ]


def criterion_weights(failures: Sequence[Failure]) -> dict[str, float]:
    """Return the share of each criterion in the loss of all failures."""
    losses: dict[str, float] = {}
    for failure in failures:
        losses[failure.criterion] = losses.get(failure.criterion, 0.0) + failure.loss
    total = sum(losses.values())
    return {criterion: loss / total for criterion, loss in losses.items()} if total else {}
