"""Scores prompts with the task model and the rewards of a run.toml, for optimizers of other packages.

The optimizer of the other package need not be async. It calls `score` to score its prompts, and `write` to get texts
from the writer model. As in a run, a journal contains the calls and replies, so that no call is paid for twice, even
after an interruption. examples/optimizers shows how GEPA and CAPO use this module.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson

from index.bundle.bundle import check_bundle_input, write_bundle
from index.errors import BundleError
from optimizer.core.candidate import Candidate
from optimizer.core.concurrency import gather_or_cancel
from optimizer.core.config import read_config
from optimizer.core.journal import Journal
from optimizer.data.dataset import Row
from optimizer.data.split import TRAIN
from optimizer.models.reply_text import answer_text
from optimizer.models.request import Json, Request, reply_reader
from optimizer.rewards.scorer import ScoredReply
from optimizer.stages.candidate_gate import bundle_input
from optimizer.stages.run_context import Notify, RunContext, first_candidate, open_run_context, starting_candidate
from optimizer.stages.writer_protocol import ROLE as WRITER
from optimizer.stages.writer_protocol import reasons_text

T = TypeVar("T")
_MAX_TOKENS: Final = 1024
"""The maximum length of a reply of the writer model, in tokens."""


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """The task model's answer to a row under a prompt, and its score.

    Attributes:
        row: The row.
        answer: The answer. It is empty if the row cannot be answered or scored, or if a bundle cannot contain the
            prompt.
        score: The weighted mean of the rewards, from 0 to 1; 0 if there is no answer.
        feedback: The comments of the rewards on the answer, in the form in which a run gives them to the writer model.
    """

    row: Row
    answer: str
    score: float
    feedback: str


class PromptScorer:
    """Scores prompts and asks the writer model. `open_prompt_scorer` opens it.

    Attributes:
        start: The candidate that the table [bundle] of run.toml describes. The other optimizer can begin with its
            prompt. Another prompt is scored with the examples, the layout and the sampling parameters of this
            candidate.
        rows: The training rows of [data].
        faults: For each prompt so far that a bundle cannot contain, the reason.
    """

    def __init__(self, context: RunContext, start: Candidate, loop: asyncio.AbstractEventLoop) -> None:
        self.start = start
        self.rows: Sequence[Row] = context.data.train
        self._context = context
        self._loop = loop
        self._scored_rows = context.scored_rows("prompt", TRAIN, start)
        self._asked: Counter[bytes] = Counter()
        self.faults: dict[str, str] = {}
        self._usable = {start.prompt}

    def score(self, pairs: Sequence[tuple[str, Row]]) -> list[ScoredAnswer]:
        """Let the task model answer each row under its prompt, all rows at the same time, and score the answers.

        A prompt that a bundle cannot contain, for example because it has a role marker, gets no answer and the score 0.

        Raises:
            OptimizeError: A model gives no usable answer, the budget is spent, or too many rows cannot be used.
        """
        return self._wait(gather_or_cancel(self._score(prompt, row) for prompt, row in pairs))

    def write(self, texts: Sequence[str]) -> list[str]:
        """Return the reply of the writer model to each text. If a text is passed again, the model is asked again.

        [search.writer] sets temperature and `top_p`.

        Raises:
            ModelError: The writer model gives no usable reply.
            BudgetSpentError: The budget is spent.
        """
        return [self._wait(self._context.calls.ask(self._writer_request(text), _read_text))["text"] for text in texts]

    def fault(self, prompt: str) -> str:
        """Return why a bundle cannot contain a prompt; an empty text if it can."""
        if prompt not in self._usable and prompt not in self.faults:
            try:
                draft = bundle_input(self._context.config, self._candidate(prompt))
                check_bundle_input(draft, self._context.embedder.spec)
                self._usable.add(prompt)
            except BundleError as error:
                self.faults[prompt] = str(error)
        return self.faults.get(prompt, "")

    def write_bundle(self, prompt: str, directory: Path) -> None:
        """Write the bundle of a prompt into a new directory.

        Raises:
            BundleError: The bundle cannot be written, for example because the prompt has a role marker.
        """
        write_bundle(directory, bundle_input(self._context.config, self._candidate(prompt)), self._context.embedder)

    def _candidate(self, prompt: str) -> Candidate:
        return self.start if prompt == self.start.prompt else self.start.with_prompt(prompt)

    async def _score(self, prompt: str, row: Row) -> ScoredAnswer:
        if why := self.fault(prompt):
            return ScoredAnswer(row, "", 0.0, f"a bundle cannot hold this prompt: {why}")
        candidate = self._candidate(prompt)
        scored = await self._scored_rows.score(candidate.key, candidate, row)
        if scored is None:
            return ScoredAnswer(row, "", 0.0, "no usable answer")
        return ScoredAnswer(row, scored.reply.text, scored.score, _feedback(scored))

    def _writer_request(self, text: str) -> Request:
        writer = self._context.config.search.writer
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": text}],
            "temperature": writer.temperature,
            "max_tokens": _MAX_TOKENS,
        }
        if writer.top_p:
            body["top_p"] = writer.top_p
        key = orjson.dumps(body)
        self._asked[key] += 1
        return Request(WRITER, "chat/completions", body, replicate=self._asked[key] - 1)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


@contextmanager
def open_prompt_scorer(run_file: Path, directory: Path, notify: Notify = print) -> Iterator[PromptScorer]:
    """Read run.toml, open the journal and the connections to the models, and close them at the end.

    Args:
        run_file: The file run.toml. You can use a file for `drpo-optimizer run`. If it names no sealed rows, its table
            [bundle] must contain `write = "found"`.
        directory: The directory of the journal. If it holds one, the replies in it are used again.
        notify: Shows a message to the user if closing has to wait for calls in progress.

    Raises:
        OptimizeError: run.toml, the data or the journal cannot be used.
        BundleError: The starting bundle cannot be loaded.
        EmbedderError: An embedder cannot be opened.
    """
    config = read_config(run_file)
    with Journal(directory, lambda _event: None) as journal, _running_loop() as loop:
        context_manager = open_run_context(config, journal, notify)
        context = asyncio.run_coroutine_threadsafe(context_manager.__aenter__(), loop).result()
        try:
            start = first_candidate(config.bundle, starting_candidate(config, context.embedder))
            yield PromptScorer(context, start, loop)
        finally:
            asyncio.run_coroutine_threadsafe(context_manager.__aexit__(None, None, None), loop).result()


@reply_reader("optimizer.prompt_scorer.read_text")
def _read_text(reply: Any) -> Json:
    """Extract the text of the first choice."""
    return {"text": answer_text(reply["choices"][0])}


def _feedback(scored: ScoredReply) -> str:
    return f"Score: {scored.score:.2f}\n{reasons_text(scored)}"


async def _cancel_others() -> None:
    """Cancel the work that is left in the loop, such as paid calls in flight when the user pressed Ctrl-C."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@contextmanager
def _running_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Yield an event loop that runs in a thread of its own until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="prompt scorer", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(_cancel_others(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
