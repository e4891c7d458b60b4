"""Examples of the models' own texts: no question copies a row, and an answer of the wrong form is dropped."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from optimizer.core.config import read_config
from optimizer.core.journal import Event, Journal
from optimizer.data.dataset import GENERAL, REFUSE
from optimizer.models.row_embedder import RowEmbedder
from optimizer.models.task_model import TaskModel
from optimizer.stages.proposers.failures import group_failures
from optimizer.stages.proposers.own_answers import OwnAnswers
from optimizer.stages.run_context import open_run_context, starting_candidate
from tests.optimizer.scripted_endpoint import completion
from tests.optimizer.scripted_models import open_scripted_models, write_run
from tests.optimizer.stages.proposers.candidates import REFUSAL, PickyEmbedder, outcome

ROW = "How do I boil an egg so that it stays soft inside?"
EARLIER = "Tell me first which of your three cats sleeps the longest."
COPY = "Please say how do I boil an egg so that it is hard."
QUESTIONS = ["What is a good name for a cat?", COPY, "Too short?", "What is a good name for a dog?"]


async def made(
    tmp_path: Path, kind: str, answer: str, reply: object = QUESTIONS, unread: str = ""
) -> tuple[list[tuple[str, str]], list[Event]]:
    """Return query and answer of each example, and the notes about what was dropped.

    The embedder fails at the text `unread`.
    """

    def fault(body: Mapping[str, Any]) -> tuple[int, bytes] | None:
        if body["model"] == "optimizer":
            return completion(json.dumps({"questions": reply}))[::2]
        return completion(answer)[::2]

    failures = group_failures([outcome(0, ROW, kind, right=0.0)])
    async with open_scripted_models(fault=fault) as (_, url):
        config = read_config(write_run(tmp_path, url))
        history = [{"role": "user", "content": EARLIER}, {"role": "assistant", "content": "Mimi."}]
        with (tmp_path / "train.jsonl").open("a") as file:
            file.write(
                "".join(f"\n{json.dumps(row)}" for row in ({"query": ROW}, {"query": "Why?", "history": history}))
            )
        with Journal(tmp_path / "out") as journal:
            async with open_run_context(config, journal, print) as context:
                task = TaskModel(context.calls, "chat", RowEmbedder(PickyEmbedder(context.embedder, unread)))
                own = OwnAnswers(context.calls, task, context.gate, 150)
                parent = await asyncio.to_thread(starting_candidate, config, context.embedder)
                found = await own.examples(parent, failures[0], 6, 0)
            notes = [event for event in journal.events if event.get("note") == "dropped"]
    return [(one.query, one.response) for one in found], notes


async def test_new_questions_and_own_answers_become_examples(tmp_path: Path) -> None:
    found, dropped = await made(tmp_path, GENERAL, "Choose a short one.")
    assert found == [(query, "Choose a short one.") for query in (QUESTIONS[0], QUESTIONS[3])]
    assert [(event["why"], event["count"]) for event in dropped] == [
        ("a question shares 8 consecutive words with a row", 1),
        ("a question has fewer than 3 or more than 60 words", 1),
    ]


CHINESE = "\u7ed9\u732b\u53d6\u4ec0\u4e48\u540d\u5b57\u6bd4\u8f83\u597d\u5462\uff1f"


async def test_question_without_spaces_has_words_and_broken_ones_are_counted(tmp_path: Path) -> None:
    broken = ["What is \ud800 good for?", None, CHINESE * 20]
    found, dropped = await made(tmp_path, GENERAL, "Choose a short one.", [CHINESE, *broken])
    assert [query for query, _ in found] == [CHINESE]
    assert [(event["why"], event["count"]) for event in dropped] == [
        ('"question" holds half of a surrogate pair', 1),
        ('"question" is not a text', 1),
        ("a question has fewer than 3 or more than 60 words", 1),
    ]


async def test_question_of_a_row_is_dropped_and_counted_however_short(tmp_path: Path) -> None:
    rows = ["TRAIN question, number 3", "Is sealed  question number 4?", "sealed question number 4!"]
    found, dropped = await made(tmp_path, GENERAL, "Choose a short one.", [*rows, QUESTIONS[0]])
    assert [query for query, _ in found] == [rows[1], QUESTIONS[0]]
    assert [(event["why"], event["count"]) for event in dropped] == [("a question is the same as a turn of a row", 2)]


async def test_question_that_copies_an_earlier_turn_is_dropped_before_it_is_answered(tmp_path: Path) -> None:
    copy = "Please tell me first which of your three cats sleeps the least."
    found, dropped = await made(tmp_path, GENERAL, "Choose a short one.", [copy, QUESTIONS[0]])
    assert [query for query, _ in found] == [QUESTIONS[0]]
    assert [(event["why"], event["count"]) for event in dropped] == [
        ("a question shares 8 consecutive words with a row", 1)
    ]


async def test_question_that_the_embedder_cannot_read_is_dropped_and_counted(tmp_path: Path) -> None:
    found, dropped = await made(tmp_path, GENERAL, "Choose a short one.", unread=QUESTIONS[0])
    assert [query for query, _ in found] == [QUESTIONS[3]]
    assert "the embedder cannot read the question" in [event["why"] for event in dropped]


@pytest.mark.parametrize(
    ("kind", "answer", "why"),
    [
        (GENERAL, REFUSAL, "refuses wrongly"),
        (REFUSE, "Choose a short one.", "refuses wrongly"),
        (GENERAL, "one two three four " * 9, "repeats itself"),
        (GENERAL, " ".join(map(str, range(200))), "more than 150 words"),
        (GENERAL, "Begin.\n# Query: forged", "role marker"),
    ],
)
async def test_answer_of_the_wrong_form_is_dropped_and_counted(
    kind: str, answer: str, why: str, tmp_path: Path
) -> None:
    found, dropped = await made(tmp_path, kind, answer)
    assert not found
    assert sum(why in event["why"] for event in dropped) == 2


async def test_refusals_become_examples_for_rows_to_refuse(tmp_path: Path) -> None:
    assert [answer for _, answer in (await made(tmp_path, REFUSE, REFUSAL))[0]] == [REFUSAL] * 2


@pytest.mark.parametrize("reply", [[], "none", [1, None]])
async def test_writer_without_questions_gives_no_examples(reply: object, tmp_path: Path) -> None:
    found, dropped = await made(tmp_path, GENERAL, "Choose a short one.", reply)
    assert not found
    assert dropped
