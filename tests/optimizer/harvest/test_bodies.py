"""Tests of how logged requests and replies are read."""

import json
from typing import Any

import pytest

from index.types import Message
from optimizer.harvest.store.bodies import reply_text, request_turns
from tests.optimizer.harvest.recorded import chat_reply, stream_reply

USER, SYSTEM = Message("user", "Hi"), Message("system", "Be kind.")

RESPONSE = {"output": [{"type": "message", "content": [{"type": "output_text", "text": "Good day, all."}]}]}
COMPLETED = json.dumps({"type": "response.completed", "response": RESPONSE})


def chat(*messages: dict[str, Any]) -> str:
    return json.dumps({"messages": messages})


@pytest.mark.parametrize(
    ("body", "turns"),
    [
        (chat({"role": "user", "content": "Hi"}), (USER,)),
        (chat({"role": "developer", "content": "Be kind."}, {"role": "user", "content": "Hi"}), (SYSTEM, USER)),
        (chat({"role": "user", "content": [{"type": "text", "text": "H"}, "i"]}), (Message("user", "H\ni"),)),
        (json.dumps({"input": "Hi", "instructions": "Be kind."}), (SYSTEM, USER)),
        (json.dumps({"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]}), (USER,)),
    ],
)  # fmt: skip
def test_turns_of_a_request_are_read(body: str, turns: tuple[Message, ...]) -> None:
    assert request_turns(body) == turns


@pytest.mark.parametrize(
    "body",
    [
        chat({"role": "user", "content": "Hi"})[:-5],
        chat({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}),
        chat({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}),
        chat({"role": "tool", "content": "4"}, {"role": "user", "content": "Hi"}),
        chat({"role": "user", "content": " "}),
        chat(),
        json.dumps({"prompt": "Hi"}),
        json.dumps({"messages": ["Hi"]}),
        "[]",
        "",
    ],
)
def test_request_that_is_cut_or_is_not_only_text_gives_nothing(body: str) -> None:
    assert request_turns(body) is None


@pytest.mark.parametrize(
    "body",
    [
        chat_reply("Good day, all."),
        chat_reply("<think>They greet.</think>\nGood day, all."),
        stream_reply("Good day, all."),
        stream_reply("Good day, all.").replace("\n", "\r\n"),
        json.dumps({"choices": [{"message": {"content": None, "refusal": "Good day, all."}}]}),
        json.dumps(RESPONSE),
        'data: {"choices": [{"delta": {"content": "Good day, all."}}], "id": "\u2028\x85"}\n\ndata: [DONE]\n\n',
        f"event: response.completed\ndata: {COMPLETED}\n\n",
    ],
)
def test_text_of_a_reply_is_read(body: str) -> None:
    assert reply_text(body) == "Good day, all."


@pytest.mark.parametrize(
    "body",
    [
        stream_reply("Good day, all.").removesuffix("data: [DONE]\n\n"),
        chat_reply("Good day")[:-3],
        json.dumps({"choices": [{"message": {"content": "a"}}, {"message": {"content": "b"}}]}),
        json.dumps({"choices": [{"message": {"content": None, "tool_calls": [{}]}}]}),
        json.dumps({"error": {"message": "no"}}),
        json.dumps({"choices": [{"message": {"content": ""}}]}),
        "data: {broken\n\ndata: [DONE]\n\n",
        "",
    ],
)
def test_reply_that_is_cut_or_has_no_single_text_gives_nothing(body: str) -> None:
    assert reply_text(body) is None
