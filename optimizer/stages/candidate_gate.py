"""Checks candidates when they are made, by the rules of the bundle that is written at the end of the run.

A model can propose a prompt or an answer that a bundle must not contain, such as a text with a role marker. Without an
early check, the run would pay for the scores of such a candidate, and could not write it as a bundle at the end.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from index.bundle.bundle import check_bundle_input
from index.bundle.bundle_input import BundleInput
from index.bundle.example_bank import check_example, examples_bytes
from index.counted import counted
from index.errors import BundleError
from index.types import EmbedderSpec, Example
from optimizer.core.candidate import Candidate
from optimizer.core.config_tables import EMPTY, RunConfig
from optimizer.core.errors import ConfigError, ModelError, RefusedRequestError, UnembeddableTextError, refusal_of
from optimizer.core.journal import DROPPED, NO_CHANGE, Journal
from optimizer.data.dataset import Row
from optimizer.models.negotiation import is_too_long
from optimizer.models.request import Request
from optimizer.models.task_model import ROLE as TASK
from optimizer.models.task_model import TaskModel
from optimizer.stages.checks.learned_text import LearnedTexts

_WORDS_FACTOR: Final = 2
_TOKENS_FACTOR: Final = 4
"""A prompt is too long if it has more words or tokens than the setting `words` times these factors.

Texts without spaces, such as Chinese, have few words, so that only their tokens show that they are too long.
"""


def bundle_input(config: RunConfig, candidate: Candidate, sealed: Mapping[str, Any] | None = None) -> BundleInput:
    """Return the bundle of a candidate, as the run writes it.

    Args:
        config: The settings of run.toml.
        candidate: The candidate.
        sealed: The result of the sealed evaluation as plain values; None before this evaluation.
    """
    provenance = {
        "optimizer": {
            "recipe": config.search.recipe,
            "algorithm": config.search.algorithm,
            "seed": config.search.seed,
        },
        "models": {role: table.model for role, table in config.models.items()},
        "reward": dict(config.reward.weights),
        "screen": dict(config.reward.screen),
        "sealed": sealed,
    }
    return BundleInput(
        name=config.bundle.name,
        model=config.bundle.model or config.models[TASK].model,
        layout=candidate.layout,
        prompt=candidate.prompt,
        examples=candidate.bank.examples,
        retrieval=candidate.retrieval,
        sampling=candidate.sampling,
        provenance=provenance,
        sets=candidate.bank.sets,
        needs_examples=config.bundle.start != EMPTY,
    )


def example_fault(example: Example) -> str:
    """Return why a bundle cannot contain an example; an empty text if it can."""
    try:
        check_example(example, "example")
        examples_bytes([example])
    except BundleError as error:
        return str(error)
    return ""


class CandidateGate:
    """Drops candidates that could not be written as a bundle, and names them in the journal."""

    def __init__(
        self,
        config: RunConfig,
        embedder: EmbedderSpec,
        journal: Journal,
        rows: Sequence[Row],
        others: Sequence[Row] = (),
    ) -> None:
        """Create the gate.

        Args:
            config: The settings of run.toml.
            embedder: The embedder of the bundle.
            journal: The journal of the run.
            rows: The training rows, which a prompt or an example must not copy.
            others: The rows of all other parts. An example that is not made of rows must not copy these rows either.
        """
        self._learned = LearnedTexts(config, rows, others)
        self._config = config
        self._embedder = embedder
        self._journal = journal

    def check(self, candidate: Candidate, what: str) -> None:
        """Check a candidate that comes from the user. `what` names its source in the message. Raises ConfigError."""
        try:
            check_bundle_input(bundle_input(self._config, candidate), self._embedder)
        except BundleError as error:
            raise ConfigError(f"{what}: no bundle can be written with this setting. {error}") from None

    async def admits(self, candidate: Candidate, what: str) -> bool:
        """Whether a candidate can be written as a bundle. If not, journal the reason. `what` is the changed part."""
        try:
            await asyncio.to_thread(check_bundle_input, bundle_input(self._config, candidate), self._embedder)
        except BundleError as error:
            await self.drop(what, candidate.key, str(error))
            return False
        return True

    async def admits_example(self, example: Example) -> bool:
        """Whether a bundle can contain an example. If not, journal the reason."""
        why = example_fault(example) or self._learned.example_fault(example)
        if why:
            await self.drop("example", f"{example.id}/{_short_hash(example.response)}", why)
        return not why

    def question_fault(self, question: str) -> str:
        """Return why no example should be made from a new question; an empty text if one may be made."""
        return self._learned.question_fault(question)

    def prompt_fault(self, text: str) -> str:
        """Return why a text should not become a part of a prompt; an empty text if it may."""
        return self._learned.prompt_fault(text, "")

    def learned_fault(self, child: Candidate, parent: Candidate) -> str:
        """Return why the run should not learn what is new in a candidate; an empty text if it may."""
        return self._learned.candidate_fault(child, parent)

    async def drop(self, what: str, source: str, why: str, count: int = 1) -> None:
        """Journal that candidates were dropped.

        Args:
            what: The part that a model proposed: `prompt`, `example` or a hyperparameter.
            source: The key of the dropped candidate, or of the candidate from which it was made.
            why: The reason. It contains no text of a candidate.
            count: The number of dropped candidates.
        """
        if count:
            await self._journal.note(DROPPED, what=what, source=source, why=why, count=count)

    async def drop_each(self, what: str, source: str, reasons: Iterable[str]) -> None:
        """Journal that candidates were dropped, one for each reason. `drop` describes the arguments."""
        for why, count in Counter(reasons).items():
            await self.drop(what, source, why, count)

    async def drop_failed(self, what: str, source: str, error: ModelError, count: int = 1) -> None:
        """Journal that a model gave no candidate because of a final error. Raise the error again if it is not final."""
        if not error.is_final:
            raise error
        await self.drop(what, source, str(error).partition(": ")[0] + ": no usable reply", count)


class PromptGate:
    """Drops new prompts that cannot be written, are too long, or whose requests the task model's server refuses."""

    def __init__(self, gate: CandidateGate, task: TaskModel, max_words: int, rows: Sequence[Row], first: int) -> None:
        """Create the gate.

        Args:
            gate: Checks that a candidate can be written, and journals dropped candidates.
            task: The task model.
            max_words: The setting `words` of [search]. If 0, no prompt is too long.
            rows: The rows of a race. The rows with the longest requests are answered as a trial. If there are no rows,
                there is no trial.
            first: The number of rows at the beginning of `rows` that every candidate of a race answers.
        """
        self._gate = gate
        self._task = task
        self._max_words = max_words
        self._rows = rows
        self._first = frozenset(rows[:first])
        self._refused: set[Row] = set()
        self._longest_answered = 0

    async def admits(self, child: Candidate, parent: Candidate, part: str = "prompt") -> bool:
        """Whether the search can use a new candidate. If not, journal the reason. `part` is the changed part."""
        if not await self._gate.admits(child, part):
            return False
        why = await self._fault(child, parent)
        if why:
            await self.drop(part, child.key, why)
        return not why

    async def drop(self, part: str, source: str, why: str) -> None:
        """Journal that a candidate was dropped, as `CandidateGate.drop` does."""
        await self._gate.drop(part, source, why)

    async def _fault(self, child: Candidate, parent: Candidate) -> str:
        if child.prompt != parent.prompt and (why := await self._length_fault(child, parent)):
            return why
        if why := self._gate.learned_fault(child, parent):
            return why
        return await self._effect_fault(child, parent) or await self._trial_fault(child, parent)

    async def _effect_fault(self, child: Candidate, parent: Candidate) -> str:
        """Return a fault if both candidates lead to equal requests for all rows, and so to equal answers."""
        equal = 0
        for row in self._rows:
            one, other = [await self._request(candidate, row) for candidate in (child, parent)]
            if one != other:
                return ""
            equal += one is not None
        return f"{NO_CHANGE} request for the first {counted(equal, 'row')}" if equal else ""

    async def _request(self, candidate: Candidate, row: Row) -> Request | None:
        """Return the request for a row; None if the embedder fails at it, so that the row will be left out."""
        try:
            return self._task.request(candidate, await self._task.injected(candidate, row), row)
        except UnembeddableTextError:
            return None

    async def _length_fault(self, child: Candidate, parent: Candidate) -> str:
        if not self._max_words:
            return ""
        max_words, max_tokens = _WORDS_FACTOR * self._max_words, _TOKENS_FACTOR * self._max_words
        if len(child.prompt.split()) > max_words:
            return f"more than {max_words} words"
        tokens = await self._task.prompt_tokens(child)
        if tokens > max_tokens and tokens > await self._task.prompt_tokens(parent):
            return f"more than {max_tokens} tokens"
        return ""

    async def _trial_fault(self, child: Candidate, parent: Candidate) -> str:
        """Let the task model answer two requests as a trial. Return why the new candidate cannot be used.

        The first request is the longest one of the candidate for any row. It is sent only if it is longer than all
        requests that were answered as trials before. The second request is the longest one for one of the first rows,
        whose answers are needed anyway.

        If the server refuses a request, but accepts the parent's request for the same row, the new candidate is the
        reason: for example, it is too long for the context. If the server refuses both requests, the row is the reason,
        and the next row is tried.
        """
        lengths = [(_length(request), row) for row in self._rows if (request := await self._request(child, row))]
        ordered = sorted(lengths, key=lambda one: -one[0])
        records = [(length, row) for length, row in ordered if length > self._longest_answered]
        firsts = [(length, row) for length, row in ordered if row in self._first]
        for group in (records, firsts):
            for length, row in group:
                if row in self._refused:
                    continue
                refusal = await refusal_of(self._task.answer(child, row))
                if refusal is None:
                    self._longest_answered = max(self._longest_answered, length)
                    break
                if await refusal_of(self._task.answer(parent, row)) is None:
                    return _refusal_text(refusal)
                self._refused.add(row)
        return ""


def _length(request: Request) -> int:
    """Return the length of a request in bytes, which stands for its length in tokens."""
    return len(str(request.body).encode("utf-8", "surrogatepass"))


def _refusal_text(refusal: RefusedRequestError) -> str:
    why = "a request is too long for the context of the task model" if is_too_long(refusal) else "a request is refused"
    return f"{why}: the server answers with status {refusal.status}, but it accepts the parent's request"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
