"""Tests of the shadow judge: what the proxy sends to it and when, how replies are scored, and that no user waits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.experiments.definition import Arm, Experiment, Metric
from proxy.experiments.shadow_judge import MAX_WAITING_CASES, other_arm
from proxy.experiments.store.content import answer_text
from tests.faults.scripted import Received, Reply, ScriptedBackend, completion_events, scripted_backend
from tests.proxy.experiments.test_service import RunningExperiment, answer, running_experiment, write

JUDGED = '[judge]\nmodel = "critic"\nshare = {share}\ncalls = {calls}\n'


def chat(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


def arms_of(request: Received) -> tuple[str, str]:
    """Return the two answers in the judge's prompt, in the order of the prompt."""
    text = request.json["messages"][-1]["content"]
    first, second = text.split("Answer A:\n")[1].split("\n\nAnswer B:\n")
    return first, second.removesuffix("\n\nWhich is better?")


async def prefers_longer(reply: Reply, request: Received) -> None:
    """Prefer the longer answer, whether it is the first or the second."""
    first, second = arms_of(request)
    await reply.whole(chat("A" if len(first) >= len(second) else "B."))


async def two_answers(reply: Reply, request: Received) -> None:
    """Give a long answer for the aligned arm, and a short answer for the other arm."""
    injected = request.json["prompt"].startswith("Answer well.")
    text = "Air scatters blue light the most, so it comes from everywhere." if injected else "Air."
    if request.json.get("stream"):
        await reply.begin()
        for event in completion_events([text[:3], text[3:]]):
            await reply.chunk(event)
        await reply.end()
    else:
        await reply.whole({"id": "cmpl", "choices": [{"index": 0, "text": text, "finish_reason": "stop"}]})


def add_judge_table(path: str, share: float, calls: int) -> None:
    """Add the table [judge] to an experiment file."""
    file = Path(path)
    file.write_text(file.read_text() + JUDGED.format(share=share, calls=calls))


@asynccontextmanager
async def judging(
    folder: Path,
    judge: Any = prefers_longer,
    script: Any = two_answers,
    *,
    share: float = 1.0,
    calls: int = 99,
    **settings: Any,
) -> AsyncIterator[tuple[RunningExperiment, ScriptedBackend]]:
    path = write(folder, plain=0, more="")
    add_judge_table(path, share, calls)
    async with scripted_backend(judge) as critic:
        async with running_experiment(folder, [path], script, judge=critic.url, **settings) as one:
            yield one, critic


def count(one: RunningExperiment, result: str) -> float:
    return one.proxy.gateway.metrics.judgements.labels(result)._value.get()


async def until(one: RunningExperiment, result: str, wanted: int = 1) -> None:
    async with asyncio.timeout(60):
        while count(one, result) < wanted:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
async def test_reply_is_compared_with_the_other_arm_in_both_orders(tmp_path: Path, streaming: bool) -> None:
    async with judging(tmp_path) as (one, critic):
        if streaming:
            await one.proxy.stream()
        else:
            await one.proxy.chat()
        await until(one, "judged")
        first, second = map(arms_of, critic.generating)
        assert first == second[::-1] == ("Air scatters blue light the most, so it comes from everywhere.", "Air.")
        assert critic.generating[0].json["model"] == "critic"
    row = one.rows(kind="judgement")[0]
    assert (row["other"], row["score"], row["judge"]) == ("plain", 1.0, "critic")
    assert row["exposure"] == one.rows()[0]["id"]


async def test_judge_that_always_prefers_the_first_reply_scores_one_half(tmp_path: Path) -> None:
    async def always_first(reply: Reply, _: Received) -> None:
        await reply.whole(chat("A"))

    async with judging(tmp_path, always_first) as (one, _):
        await one.proxy.chat()
        await until(one, "judged")
    assert one.rows(kind="judgement")[0]["score"] == 0.5


async def test_unreadable_reply_of_the_judge_is_no_score(tmp_path: Path) -> None:
    async def rambles(reply: Reply, _: Received) -> None:
        await reply.whole(chat("Both have merits."))

    async with judging(tmp_path, rambles) as (one, _):
        await one.proxy.chat()
        await until(one, "unreadable")
    assert one.rows(kind="judgement") == []


async def test_user_never_waits_for_the_judge_and_excess_cases_are_dropped(tmp_path: Path) -> None:
    async def never(_: Reply, __: Received) -> None:
        await asyncio.Event().wait()

    async with judging(tmp_path, never) as (one, _):
        async with asyncio.timeout(60):
            for number in range(MAX_WAITING_CASES + 10):
                status, _, _ = await one.proxy.chat(f"question {number}")
                assert status == 200
        assert count(one, "dropped") >= 10 - 2
    assert len(one.rows()) == MAX_WAITING_CASES + 10


async def test_failing_judge_does_not_affect_chat_or_exposures(tmp_path: Path) -> None:
    async def breaks(reply: Reply, _: Received) -> None:
        reply.reset()

    async with judging(tmp_path, breaks) as (one, _):
        for _ in range(3):
            assert (await one.proxy.chat())[0] == 200
        await until(one, "failed", 3)
    assert len(one.rows()) == 3


async def test_daily_budget_of_calls_is_not_exceeded(tmp_path: Path) -> None:
    async with judging(tmp_path, calls=7) as (one, critic):
        for number in range(4):
            await one.proxy.chat(f"question {number}")
        await until(one, "budget spent", 2)
        await until(one, "judged", 2)
        assert len(critic.generating) == 4, "two comparisons of three calls each; the third would be the ninth"


async def test_overrides_and_errors_are_not_judged(tmp_path: Path) -> None:
    async def fails(reply: Reply, request: Received) -> None:
        if "fail" in request.json["prompt"].rpartition("# Query:")[2]:
            await reply.whole({"error": {"message": "no"}}, "400 Bad Request")
        else:
            await two_answers(reply, request)

    async with judging(tmp_path, script=fails) as (one, critic):
        await one.proxy.chat(headers={"x-drpo-variant": "aligned"})
        await one.proxy.chat("fail please")
        await one.proxy.chat("Why is the sky blue?")
        await until(one, "judged")
        assert len(critic.generating) == 2


async def test_judge_is_off_without_the_flag(tmp_path: Path) -> None:
    path = write(tmp_path)
    add_judge_table(path, 1.0, 99)
    async with running_experiment(tmp_path, [path], answer) as one:
        await one.proxy.chat()
        assert one.proxy.gateway.experiments is not None
        assert one.proxy.gateway.experiments.shadow is None


async def test_text_for_the_judge_is_neither_logged_nor_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with judging(tmp_path) as (one, _):
        await one.proxy.chat("Where is my grandmother's ring?")
        await until(one, "judged")
    assert "grandmother" not in capsys.readouterr().err
    assert b"grandmother" not in b"".join(file.read_bytes() for file in tmp_path.glob("s.sqlite3*"))


async def test_reply_of_the_other_arm_is_stored_only_if_texts_are_kept(tmp_path: Path) -> None:
    for kept in (False, True):
        async with judging(tmp_path, store_content=kept) as (one, _):
            await one.proxy.chat("Why is the sky blue?")
            await until(one, "judged")
    without, with_it = one.rows(kind="judgement")
    assert "other_text" not in without
    assert with_it["other_text"] == "Air."
    assert b"Air." in b"".join(file.read_bytes() for file in tmp_path.glob("s.sqlite3*"))


def test_other_arm_is_the_control_or_a_weighted_arm_for_the_control() -> None:
    arms = tuple(Arm(name, weight) for name, weight in (("a", 1.0), ("b", 1.0), ("c", 0.0)))
    experiment = Experiment("x", arms, "a", (Metric("latency", "lower"),), "salt")
    assert other_arm(experiment, arms[1]) == arms[0]
    assert {other_arm(experiment, arms[0]) for _ in range(20)} == {arms[1]}


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (b'{"choices":[{"index":0,"message":{"content":"Hi"}}]}', "Hi"),
        (b'{"choices":[{"message":{"content":"Hi"}},{"message":{"content":"Ho"}}]}', ""),
        (b'{"choices":[{"message":{"content":null,"tool_calls":[]}}]}', ""),
        (b'data: {"choices":[{"delta":{"content":"H"}}]}\n\ndata: {"choices":[]}\n\ndata: [DONE]\n\n', "H"),
        (b"{not json", ""),
        (b"", ""),
    ],
)
def test_answer_text_needs_a_single_choice_with_text(reply: bytes, text: str) -> None:
    assert answer_text(reply) == text
