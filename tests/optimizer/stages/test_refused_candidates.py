"""A request that the server refuses under one candidate alone counts against this candidate, not against the row."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from optimizer.core.candidate import Candidate
from optimizer.core.config import read_config
from optimizer.core.errors import UnusableRowsError
from optimizer.core.journal import Journal, read_journal
from optimizer.data.dataset import Row
from optimizer.data.split import TRAIN
from optimizer.models.task_model import REFUSED
from optimizer.report.html_report import write_report
from optimizer.stages.candidate_gate import PromptGate
from optimizer.stages.run_context import RunContext, open_run_context, starting_candidate
from tests.optimizer.scripted_models import PROMPT, ScriptedModels, open_scripted_models, run_config, write_run

Refuses = Callable[[str, str, str], bool]
"""Whether the server refuses a request: by the model, the system prompt and the query."""
TOO_LONG = b'{"error": {"message": "maximum context length is 4096 tokens"}}'
LONGER = "Answer well, and at length."


def fault_if(refuses: Refuses) -> Callable[[Mapping[str, Any]], tuple[int, bytes] | None]:
    def fault(body: Mapping[str, Any]) -> tuple[int, bytes] | None:
        messages = body["messages"]
        system = messages[0]["content"] if messages[0]["role"] == "system" else ""
        return (400, TOO_LONG) if refuses(body["model"], system, messages[-1]["content"]) else None

    return fault


@asynccontextmanager
async def opened(
    folder: Path, refuses: Refuses, **tables: Mapping[str, Any]
) -> AsyncIterator[tuple[ScriptedModels, RunContext, Candidate]]:
    async with AsyncExitStack() as stack:
        models, url = await stack.enter_async_context(open_scripted_models(fault=fault_if(refuses)))
        journal = stack.enter_context(Journal(folder / "out"))
        config = read_config(write_run(folder, url, **tables))
        context = await stack.enter_async_context(open_run_context(config, journal, print))
        yield models, context, starting_candidate(config, context.embedder)


def dropped(folder: Path) -> Sequence[str]:
    return [event["why"] for event in read_journal(folder / "out") if event.get("note") == "dropped"]


def rows(count: int, **long: str) -> Sequence[Row]:
    """Return rows with short queries, except at the numbers that `long` names (`n25` for the row 25)."""
    return [Row(long.get(f"n{number}", f"question {number}")) for number in range(count)]


async def test_candidate_that_is_too_long_for_a_later_row_is_dropped_before_it_races(tmp_path: Path) -> None:
    long = "word " * 40

    def refuses(model: str, system: str, query: str) -> bool:
        return model == "task" and len(system) + len(query) > len(PROMPT) + len(long) + 5

    async with opened(tmp_path, refuses) as (models, context, start):
        gate = PromptGate(context.gate, context.task, 250, rows(40, n25=long), 10)
        assert not await gate.admits(start.with_prompt(LONGER), start)
        assert await gate.admits(start.with_prompt("Be good."), start)
        sent = len(models.requests)
        assert await gate.admits(start.with_prompt("Be kind."), start)
        assert len(models.requests) == sent + 1, "of a request no longer than an answered one, no trial is made"
    (why,) = dropped(tmp_path)
    assert "too long for the context" in why
    assert "status 400" in why


async def test_row_that_is_refused_for_every_candidate_drops_no_candidate(tmp_path: Path) -> None:
    long = "word " * 400
    async with opened(tmp_path, lambda _model, _system, query: query == long) as (models, context, start):
        gate = PromptGate(context.gate, context.task, 250, rows(40, n3=long, n25=long + "more"), 10)
        assert await gate.admits(start.with_prompt(LONGER), start)
        assert await gate.admits(start.with_prompt(LONGER + " Be kind."), start)
        refused = [text for model, text in models.requests if model == "task" and text.endswith(long)]
        assert len(refused) <= 2, "a row that is refused under two candidates is not tried again"
    assert not dropped(tmp_path)


async def test_change_that_affects_only_later_rows_is_admitted(tmp_path: Path) -> None:
    async with opened(tmp_path, lambda *_: False) as (_, context, start):
        narrow = replace(start, retrieval=replace(start.retrieval, minimum_similarity=0.95))
        other = replace(start, retrieval=replace(start.retrieval, minimum_similarity=0.99999))
        queries = {"n25": "Example question 1?"}
        first, all_rows = rows(10), rows(40, **queries)
        seen = PromptGate(context.gate, context.task, 250, all_rows, 10)
        assert await seen.admits(narrow, start)
        unseen = PromptGate(context.gate, context.task, 250, first, 10)
        assert not await unseen.admits(other, narrow)
    assert "changes no request for the first 10 rows" in dropped(tmp_path)[0]


@pytest.mark.parametrize("model", ["task", "judge"])
@pytest.mark.parametrize("is_refused_under_both", [True, False])
async def test_refusal_counts_against_the_candidate_if_only_its_request_is_refused(
    model: str, is_refused_under_both: bool, tmp_path: Path
) -> None:
    def refuses(called: str, system: str, query: str) -> bool:
        if called != model or "number 3" not in query:
            return False
        return called == "judge" or is_refused_under_both or system != PROMPT

    async with opened(tmp_path, refuses, data={"unusable": 0}) as (_, context, start):
        scored_rows, child = context.scored_rows("prompt", TRAIN, start), start.with_prompt(LONGER)
        row = next(one for one in context.data.train if one.query == "train question number 3")
        if model == "judge" or is_refused_under_both:
            with pytest.raises(UnusableRowsError):
                await scored_rows.score(child.key, child, row)
            return
        found = await scored_rows.score(child.key, child, row)
        assert found is not None
        assert (found.score, found.reply.text, found.reply.finish_reason) == (0.0, "", REFUSED)
        assert not context.unusable[TRAIN].found
        usual = await scored_rows.score(start.key, start, row)
        assert usual is not None
        assert usual.reply.text


async def test_bundle_that_cannot_answer_a_sealed_row_gets_no_score_for_it(tmp_path: Path) -> None:
    def refuses(model: str, system: str, query: str) -> bool:
        return model == "task" and "+" in system and query == "sealed question number 3"

    async with open_scripted_models(fault=fault_if(refuses)) as (_, url):
        result = await run_config(write_run(tmp_path, url, rows=8, search={"depth": 1}), tmp_path / "out")
    assert result.sealed is not None
    assert result.sealed.rows == 12, "the row is not left out"
    assert result.sealed.summaries["bundle"].ends.estimate == pytest.approx(11 / 12)
    assert not result.is_found, "a bundle that leaves a row unanswered ends fewer answers than the baseline"
    page = write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert "refused 1 of its requests" in page


async def test_search_goes_on_if_only_new_candidates_are_too_long(tmp_path: Path) -> None:
    """These rows must not count as rows that cannot be used, because the run would stop after a few of them."""

    def refuses(model: str, system: str, query: str) -> bool:
        return model == "task" and "+" in system and query.endswith(("5", "6", "7", "8"))

    async with open_scripted_models(fault=fault_if(refuses)) as (_, url):
        config = write_run(tmp_path, url, data={"unusable": 0.01}, search={"depth": 2, "algorithm": "published"})
        result = await run_config(config, tmp_path / "out")
        assert result.bundle.exists()
    assert not [event for event in read_journal(tmp_path / "out") if event.get("note") == "unusable"]
