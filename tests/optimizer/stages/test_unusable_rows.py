"""A whole run on scripted models with faults: a row that cannot be used is left out, and never ends a paid run."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from optimizer.core.errors import ModelError, UnusableRowsError
from optimizer.core.journal import Event, read_journal
from optimizer.report.html_report import write_report
from optimizer.report.run_summary import summarize_run
from tests.optimizer.scripted_models import open_scripted_models, run_config, write_run

Fault = tuple[int, bytes]


def chat(content: object, finish_reason: object = "stop") -> Fault:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish_reason}
    return 200, json.dumps({"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}).encode()


def refused(status: int, message: str = "no") -> Fault:
    return status, json.dumps({"error": {"message": message}}).encode()


def fault_for(model: str, queries: Sequence[str], reply: Fault) -> Callable[[Mapping[str, Any]], Fault | None]:
    """Return a fault of one model at all requests that contain one of the queries."""

    def fault(body: Mapping[str, Any]) -> Fault | None:
        text = "\n".join(message["content"] for message in body["messages"])
        found = any(re.search(rf"{query}\b", text) for query in queries)
        return reply if body["model"] == model and found else None

    return fault


def notes(out: Path, name: str) -> list[Event]:
    return [event for event in read_journal(out) if event.get("note") == name]


FAULTS = {
    "context is too short": ("task", refused(400, "maximum context length is 4096")),
    "request is too large": ("task", refused(413)),
    "request cannot be processed": ("task", refused(422)),
    "status without a body": ("task", (400, b"")),
    "content filter": ("task", chat("", "content_filter")),
    "answer is null": ("task", chat(None)),
    "answer is a number": ("task", chat(7)),
    "answer is a list": ("task", chat([1])),
    "answer is an object": ("task", chat({"a": 1})),
    "no choice": ("task", (200, b'{"choices": []}')),
    "choice is null": ("task", (200, b'{"choices": [null]}')),
    "no JSON": ("task", (200, b"<html>")),
    "empty body": ("task", (200, b"")),
    "judge refuses in prose": ("judge", chat("I would rather not judge this.")),
    "judge is silent": ("judge", chat("")),
    "judge's server refuses": ("judge", refused(400)),
    "judge gives other JSON": ("judge", chat('{"sorry": true}')),
    "judge's content filter": ("judge", chat(None, "content_filter")),
}


PARTS = ("train", "validation", "sealed")
CASES = [(PARTS[number % 3], *fault) for number, fault in enumerate(FAULTS.values())]


@pytest.mark.parametrize(("part", "model", "reply"), CASES, ids=FAULTS)
async def test_row_that_cannot_be_used_is_left_out_counted_and_named(
    part: str, model: str, reply: Fault, tmp_path: Path
) -> None:
    async with open_scripted_models(fault=fault_for(model, [f"{part} question number 3"], reply)) as (models, url):
        config = write_run(tmp_path, url, rows=8, search={"depth": 1})
        result = await run_config(config, tmp_path / "out")
        assert result.sealed.improved
        requests = len(models.requests)
        again = await run_config(config, tmp_path / "out")
        assert len(models.requests) == requests, "a resumed run repeats no hopeless call"
    left_out = notes(tmp_path / "out", "unusable")
    assert {(event["part"], event["row"]) for event in left_out} == {(part, f"{part}.jsonl, line 4")}
    assert "question" not in json.dumps(left_out), "a row is named without its content"
    assert result.sealed.rows == again.sealed.rows == (11 if part == "sealed" else 12)
    assert {one.rows for one in result.sealed.summaries.values()} == {result.sealed.rows}
    page = write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert f'<th scope="row">{part}</th><td>{part}.jsonl, line 4</td>' in page
    scored = {event["query"] for event in notes(tmp_path / "out", "score")}
    assert f"{part} question number 3" not in scored


@pytest.mark.parametrize("model", ["task", "judge"])
async def test_too_many_unusable_rows_stop_the_run_and_can_be_tried_again(model: str, tmp_path: Path) -> None:
    queries = [f"train question number {number}" for number in range(40)]
    async with open_scripted_models(fault=fault_for(model, queries, refused(400, "the context is 64"))) as (
        models,
        url,
    ):
        config = write_run(tmp_path, url)
        with pytest.raises(UnusableRowsError) as caught:
            await run_config(config, tmp_path / "out")
        for part in (
            "3 of 40 rows of train",
            "unusable = 0.05 allows 2",
            "train.jsonl, line ",
            "the context is 64",
            "resume",
        ):
            assert part in str(caught.value)
        assert len(models.requests) < 40
        assert len(summarize_run(read_journal(tmp_path / "out")).left_out) >= 3
        models.fault = lambda _body: None
        result = await run_config(config, tmp_path / "out")
    assert result.sealed.improved
    assert result.sealed.rows == 12
    assert not summarize_run(read_journal(tmp_path / "out")).left_out


@pytest.mark.parametrize("search", [{"recipe": "raced"}, {"recipe": "drpo"}])
@pytest.mark.parametrize("examples", [0, 12])
async def test_judge_that_is_mostly_unreadable_stops_the_run_early(
    examples: int, search: dict[str, Any], tmp_path: Path
) -> None:
    def fault(body: Mapping[str, Any]) -> Fault | None:
        return chat("I think it is good.") if body["model"] == "judge" else None

    async with open_scripted_models(fault=fault) as (models, url):
        config = write_run(tmp_path, url, rows=400, search=search, examples={"queries": examples})
        with pytest.raises(UnusableRowsError, match=r"can be read|cannot be") as caught:
            await run_config(config, tmp_path / "out")
    assert "doctor" in str(caught.value)
    assert len(models.requests) < 150


@pytest.mark.parametrize("share", [0, 0.05, 0.2])
async def test_share_of_unusable_rows_is_a_setting(share: float, tmp_path: Path) -> None:
    queries = ["sealed question number 3", "sealed question number 5"]
    async with open_scripted_models(fault=fault_for("task", queries, refused(400))) as (_, url):
        config = write_run(tmp_path, url, rows=8, search={"depth": 1}, data={"unusable": share})
        if share < 0.1:
            with pytest.raises(UnusableRowsError, match="of 12 rows of sealed"):
                await run_config(config, tmp_path / "out")
        else:
            assert (await run_config(config, tmp_path / "out")).sealed.rows == 10


async def test_rows_are_left_out_in_the_example_stage_and_the_published_recipe(tmp_path: Path) -> None:
    queries = ["train question number 1", "train question number 2"]
    async with open_scripted_models(fault=fault_for("judge", queries, chat("No."))) as (_, url):
        search = {"algorithm": "published", "depth": 4}
        config = write_run(tmp_path, url, search=search, examples={"queries": 40, "rounds": 2})
        result = await run_config(config, tmp_path / "out")
    assert result.sealed.rows == 12
    rows = {event["row"] for event in notes(tmp_path / "out", "unusable")}
    assert rows == {"train.jsonl, line 2", "train.jsonl, line 3"}
    assert notes(tmp_path / "out", "bank")[0]["size"] == 38


async def test_row_that_only_a_raw_variant_cannot_answer_is_left_out_for_it_alone(tmp_path: Path) -> None:
    def fault(body: Mapping[str, Any]) -> Fault | None:
        return refused(400) if body["model"] == "task" and body["messages"][0]["role"] != "system" else None

    async with open_scripted_models(fault=fault) as (_, url):
        config = write_run(tmp_path, url, rows=8, search={"depth": 1})
        result = await run_config(config, tmp_path / "out")
    assert result.sealed.improved
    assert result.sealed.rows == 12
    assert set(result.sealed.summaries) == {"bundle", "baseline"}


async def test_comparison_that_the_judge_refuses_is_left_out(tmp_path: Path) -> None:
    def fault(body: Mapping[str, Any]) -> Fault | None:
        prompt = body["messages"][0]["content"]
        is_comparison = body["model"] == "judge" and prompt.startswith("Two answers")
        return chat("Both are fine.") if is_comparison and "sealed question number 3" in prompt else None

    async with open_scripted_models(fault=fault) as (_, url):
        reward = {"weights": {"judge": 1.0}, "confirm": 12}
        config = write_run(tmp_path, url, rows=8, search={"depth": 1}, reward=reward)
        result = await run_config(config, tmp_path / "out")
    assert result.sealed.improved
    preferred = result.sealed.against["baseline"].preferred
    assert preferred is not None
    assert preferred.estimate == pytest.approx(1.0)
    assert [event["row"] for event in notes(tmp_path / "out", "unusable")] == ["sealed.jsonl, line 4"]


@pytest.mark.parametrize("status", [429, 503])
async def test_busy_server_ends_the_session_and_loses_no_row(status: int, tmp_path: Path) -> None:
    async with open_scripted_models() as (models, url):
        config = write_run(tmp_path, url, rows=8, search={"depth": 1})
        models.fault = fault_for("task", ["sealed question number 3"], refused(status))
        with pytest.raises(ModelError) as caught:
            await run_config(config, tmp_path / "out")
        assert not caught.value.is_final
        models.fault = lambda _body: None
        result = await run_config(config, tmp_path / "out")
    assert result.sealed.rows == 12
    assert not notes(tmp_path / "out", "unusable")


REWARDS = {
    "exception": "raise KeyError('tone')",
    "NaN": "return float('nan')",
    "infinity": "return float('inf')",
    "text": "return '0.5'",
    "None": "return None",
    "complex": "return 1j",
    "too high": "return 1.01",
    "list": "return [0.5]",
}


@pytest.mark.parametrize("body", REWARDS.values(), ids=REWARDS)
async def test_row_for_which_a_users_reward_fails_is_left_out(body: str, tmp_path: Path, request: Any) -> None:
    module = re.sub(r"\W", "_", f"reward_{request.node.name}")
    code = f"def score(query, answer, reference, kind):\n    if 'number 3' in query:\n        {body}\n    return 0.5\n"
    (tmp_path / f"{module}.py").write_text(code)
    request.getfixturevalue("monkeypatch").syspath_prepend(str(tmp_path))
    async with open_scripted_models() as (_, url):
        reward = {"weights": {f"{module}:score": 1.0}}
        config = write_run(tmp_path, url, rows=8, search={"depth": 1}, reward=reward)
        result = await run_config(config, tmp_path / "out")
    assert result.sealed.rows == 11
    assert {event["row"] for event in notes(tmp_path / "out", "unusable")} == {
        f"{part}.jsonl, line 4" for part in ("train", "validation", "sealed")
    }
    assert not result.sealed.improved
