"""Stage 2: the system prompt, as a space to search in. Knows how prompts are rewritten and how one is scored on a row;
the order of things is the search's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from optimizer.core.candidate import Candidate
from optimizer.core.errors import UnparsableReplyError
from optimizer.core.journal import Journal
from optimizer.data.dataset import Row
from optimizer.models.cached_calls import Calls, Json, Request
from optimizer.rewards.judge import json_reply
from optimizer.rewards.rewards import Judged, Scorer
from optimizer.search.search import Outcome, Path
from optimizer.stages.prompt_edits import edits
from optimizer.templates import template

ROLE: Final = "optimizer"
_EARLIER = 4
_CASES = 3
_TOKENS = 2048
_SHOWN_CHARACTERS = 1500


@dataclass(frozen=True, slots=True)
class Scale:
    """A score from 0 to 1 as the search sees it: the paper counts from 1 to 5."""

    low: float = 0.0
    high: float = 1.0

    def of(self, score: float) -> float:
        """The score on this scale."""
        return self.low + score * (self.high - self.low)


class PromptSpace:
    """Candidates that differ in their prompts alone. rows: the queries by their number; words: the longest prompt."""

    def __init__(
        self, scorer: Scorer, journal: Journal, rows: Sequence[Row], rewriter: "Rewriter", scale: Scale
    ) -> None:
        self._scorer = scorer
        self._journal = journal
        self._rows = rows
        self._rewriter = rewriter
        self._scale = scale

    def key(self, candidate: Candidate) -> str:
        """See Candidate.key."""
        return candidate.key

    async def expand(self, path: Path[Candidate], count: int, again: int) -> Sequence[Candidate]:
        """Rewrites of the path's last prompt."""
        parent = path[-1].candidate
        children = [parent.with_prompt(prompt) for prompt in await self._rewriter.rewrite(path, count, again)]
        for child in children:
            await self._journal.note("candidate", id=child.key, parent=parent.key, prompt=child.prompt)
        return children

    async def score(self, candidate: Candidate, query: int) -> Outcome:
        """The candidate on a row; journaled for the report."""
        row = self._rows[query % len(self._rows)]
        try:
            judged = await self._scorer.judge(candidate, row)
        except UnparsableReplyError:
            return Outcome(query, 0.0, readable=False)
        await journal_score(self._journal, "prompt", candidate.key, row, judged)
        return Outcome(query, self._scale.of(judged.score), told=(row, judged))


class Rewriter:
    """The optimizer model where there is one, else edit operators. words: the longest prompt."""

    def __init__(self, calls: Calls, seed: int, words: int) -> None:
        self._calls = calls
        self._seed = seed
        self._words = words

    async def rewrite(self, path: Path[Candidate], count: int, again: int) -> list[str]:
        """New prompts in place of the path's last one. Raises ModelError, BudgetSpentError."""
        if ROLE not in self._calls.roles:
            return edits(path[-1].candidate.prompt, count, f"{self._seed}:{again}", self._words)
        request = replace(rewrite_request(path, count, self._words), replicate=again)
        kept = await self._calls.ask(request, read_prompts)
        return [prompt for prompt in kept["prompts"] if len(prompt.split()) <= 2 * self._words]


def rewrite_request(path: Path[Candidate], count: int, words: int) -> Request:
    """What the optimizer model is asked: the prompt, its worst outcomes with the judge's reasons, earlier versions."""
    last = path[-1]
    worst = sorted(last.outcomes, key=lambda outcome: outcome.score)[:_CASES]
    cases = "\n\n".join(_case(outcome) for outcome in worst if outcome.told is not None) or "(none yet)"
    earlier = "\n\n".join(
        f"--- version {number}{_mean(step.outcomes)} ---\n{step.candidate.prompt}"
        for number, step in enumerate(path[-_EARLIER - 1 : -1], start=1)
    )
    filled = template("rewrite_prompt").format(
        prompt=last.candidate.prompt, cases=cases, earlier=earlier or "(none)", words=words
    )
    body = {"messages": [{"role": "user", "content": filled}], "n": count, "temperature": 0.7, "top_p": 0.95}
    return Request(ROLE, "chat/completions", {**body, "max_tokens": _TOKENS})


def read_prompts(reply: Any) -> Json:
    """The prompt of each choice that can be read; at least one."""
    prompts = []
    for choice in reply["choices"]:
        try:
            prompts.append(str(json_reply(choice["message"]["content"])["prompt"]).strip())
        except (UnparsableReplyError, KeyError):
            continue
    if not any(prompts):
        raise UnparsableReplyError("no choice holds a prompt")
    return {"prompts": [prompt for prompt in prompts if prompt]}


async def journal_score(journal: Journal, stage: str, key: str, row: Row, judged: Judged) -> None:
    """A score, for whoever reads the journal: what was asked and answered, and what each reward said."""
    parts = {name: {"value": part.value, **part.details} for name, part in judged.parts.items()}
    reply = judged.reply
    told = {"answer": reply.text, "finish_reason": reply.finish_reason, "tokens": reply.completion_tokens}
    asked = {"query": row.query, "kind": row.kind}
    await journal.note("score", stage=stage, candidate=key, score=judged.score, parts=parts, **asked, **told)


def _case(outcome: Outcome) -> str:
    row, judged = cast("tuple[Row, Judged]", outcome.told)  # what `score` put there
    reasons = "\n".join(f"  {name}: {_said(part.details)}" for name, part in judged.parts.items())
    answer = judged.reply.text[:_SHOWN_CHARACTERS]
    return f"Query: {row.query[:_SHOWN_CHARACTERS]}\nAnswer: {answer}\nScore: {judged.score:.2f}\n{reasons}"


def _said(details: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name} {told['score']:.1f} ({told['why']})" if isinstance(told, dict) else f"{name} {told:.2f}"
        for name, told in details.items()
    )


def _mean(outcomes: Sequence[Outcome]) -> str:
    scores = [outcome.score for outcome in outcomes]
    return f" (mean score {sum(scores) / len(scores):.2f})" if scores else ""
