"""Tests how a request is repeated after a reply that cannot be read: never with the same body at temperature 0."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from optimizer.core.errors import UnparsableReplyError
from optimizer.core.request_form import RequestForm
from optimizer.models.repeats import joined
from optimizer.models.request import Request
from tests.optimizer.models.test_cached_calls import read_text
from tests.optimizer.models.test_negotiation import calls
from tests.optimizer.scripted_endpoint import ScriptedEndpoint, completion, failure

REMINDER = "Reply with JSON only."


def request_at(temperature: float | None, reminder: str = "", **fields: Any) -> Request:
    body = {"messages": [{"role": "user", "content": "Well?"}], "max_tokens": 10, **fields}
    if temperature is not None:
        body["temperature"] = temperature
    return Request("judge", "chat/completions", body, reminder=reminder)


def unreadable(finish_reason: str = "stop") -> ScriptedEndpoint:
    return ScriptedEndpoint(lambda *_: completion("?", finish_reason))


@pytest.mark.parametrize(
    ("request_", "sent"),
    [
        (request_at(0.0), 1),
        (request_at(0), 1),
        (request_at(0.7), 3),
        (request_at(None), 3),
        (request_at(0.7, seed=3), 1),
        (request_at(0.0, REMINDER), 3),
        (request_at(0.7, REMINDER), 3),
    ],
)
async def test_unreadable_reply_is_requested_again_only_if_the_next_reply_can_differ(
    request_: Request, sent: int, tmp_path: Path
) -> None:
    endpoint = unreadable()
    async with calls(endpoint, tmp_path) as (made, budget):
        with pytest.raises(UnparsableReplyError, match="could not be read: it asks back"):
            await made.ask(request_, read_text)
        bodies = [orjson.dumps(body) for body, _ in endpoint.seen]
        assert (len(bodies), budget.spent.calls) == (sent, sent)
        if request_.reminder or sent == 1:
            assert len(set(bodies)) == sent, "no body is sent twice"
    resumed = unreadable()
    async with calls(resumed, tmp_path) as (made, _):
        with pytest.raises(UnparsableReplyError):
            await made.ask(request_, read_text)
        assert not resumed.seen, "a resumed run does not ask again"


async def test_reminder_is_appended_to_the_last_message(tmp_path: Path) -> None:
    endpoint = unreadable()
    async with calls(endpoint, tmp_path) as (made, _):
        with pytest.raises(UnparsableReplyError):
            await made.ask(request_at(0.0, REMINDER), read_text)
    messages: list[Any] = [body["messages"] for body, _ in endpoint.seen]
    assert [one[-1]["content"].count(REMINDER) for one in messages] == [0, 1, 2]
    assert all(one[-1]["content"].startswith("Well?") for one in messages)


async def test_cut_reply_is_repeated_with_more_tokens_and_later_requests_begin_with_them(tmp_path: Path) -> None:
    def script(body: Any, _variant: str) -> Any:
        return completion("Yes.") if body["max_tokens"] >= 160 else completion("?", "length")

    endpoint = ScriptedEndpoint(script)
    async with calls(endpoint, tmp_path) as (made, _):
        assert await made.ask(request_at(0.0, REMINDER), read_text) == {"text": "Yes."}
        assert [body["max_tokens"] for body, _ in endpoint.seen] == [10, 40, 160]
        assert made.form("judge") == RequestForm(max_tokens=160)
        await made.ask(request_at(0.0, REMINDER, n=1), read_text)
        assert [body["max_tokens"] for body, _ in endpoint.seen[3:]] == [160]
    resumed = ScriptedEndpoint(script)
    async with calls(resumed, tmp_path) as (made, _):
        assert await made.ask(request_at(0.0, REMINDER), read_text) == {"text": "Yes."}
        assert not resumed.seen
        assert made.form("judge") == RequestForm(max_tokens=160)


LOOPS = {
    "sentence": '{"reason": "' + "It should be clear and easy to follow. " * 30,
    "word": "{" + " no" * 200,
    "characters": "ab" * 400,
    "white space": '{"score":' + "\n" * 300,
}


@pytest.mark.parametrize("text", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("field", ["content", "reasoning_content"])
async def test_cut_reply_that_repeats_itself_gets_no_more_tokens(text: str, field: str, tmp_path: Path) -> None:
    def script(_body: Any, _variant: str) -> Any:
        message = {"role": "assistant", "content": "?", field: f"?{text}"}
        choice = {"index": 0, "message": message, "finish_reason": "length"}
        return 200, {}, orjson.dumps({"object": "chat.completion", "choices": [choice]})

    endpoint = ScriptedEndpoint(script)
    async with calls(endpoint, tmp_path) as (made, _):
        with pytest.raises(UnparsableReplyError) as raised:
            await made.ask(request_at(0.0, REMINDER), read_text)
    assert [body["max_tokens"] for body, _ in endpoint.seen] == [10, 10, 10]
    assert "raise max_tokens" not in str(raised.value)


async def test_reply_that_stays_cut_names_the_key_to_raise(tmp_path: Path) -> None:
    async with calls(unreadable("length"), tmp_path) as (made, _):
        with pytest.raises(UnparsableReplyError, match=r"Raise max_tokens in \[models.judge.request\]"):
            await made.ask(request_at(0.0, REMINDER), read_text)
        assert not made.form("judge").differences


async def test_server_that_refuses_more_tokens_leaves_the_reply_unreadable(tmp_path: Path) -> None:
    def script(body: Any, _variant: str) -> Any:
        is_first = body["max_tokens"] == 10
        return completion("?", "length") if is_first else failure(400, "maximum context length is 20 tokens")

    async with calls(ScriptedEndpoint(script), tmp_path) as (made, _):
        with pytest.raises(UnparsableReplyError, match="1 reply could not be read"):
            await made.ask(request_at(0.0, REMINDER), read_text)


def test_parts_of_several_replies_are_joined() -> None:
    bad = {"unparsable": "no"}
    assert joined([{"texts": ["a"], "dropped": []}, bad, {"texts": ["b", "c"], "dropped": ["x"]}]) == {
        "texts": ["a", "b", "c"],
        "dropped": ["x"],
    }
    assert joined([bad, {"texts": ["a"]}]) == {"texts": ["a"]}
    assert joined([bad, {"unparsable": "other"}]) == bad


async def test_cut_reply_of_one_letter_is_not_repeated_with_more_tokens(tmp_path: Path) -> None:
    endpoint = unreadable("length")
    async with calls(endpoint, tmp_path, RequestForm(max_tokens=4096)) as (made, _):
        with pytest.raises(UnparsableReplyError):
            await made.ask(request_at(0.0, max_tokens=4), read_text)
        assert [body["max_tokens"] for body, _ in endpoint.seen] == [4]
        assert made.form("judge") == RequestForm(max_tokens=4096)
