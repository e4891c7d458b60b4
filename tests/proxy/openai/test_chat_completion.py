"""Guards that nothing is lost between a completion and the chat reply it becomes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import BadRequestError
from proxy.openai.chat_completion import (
    ChatChunks,
    ChatShape,
    chat_completion,
    chat_logprobs,
    check_completable,
    completion_body,
    text_messages,
)

LOGPROBS = {
    "tokens": [" caf", "é"],
    "token_logprobs": [-0.5, -1.0],
    "top_logprobs": [{" caf": -0.5, " bar": -2.0}, {"e": -0.1, "é": -1.0}],
    "text_offset": [0, 4],
}


def test_logprobs_become_objects_with_bytes_and_the_requested_alternatives() -> None:
    translated = chat_logprobs(LOGPROBS, 1)
    assert translated is not None
    first, second = translated["content"]
    assert first["token"] == " caf"
    assert first["logprob"] == -0.5
    assert second["bytes"] == [195, 169]
    assert [top["token"] for top in second["top_logprobs"]] == ["e"]


def test_logprobs_that_were_not_requested_are_null() -> None:
    assert chat_logprobs(None, 0) is None


def test_chat_completion_keeps_choices_reasons_usage_and_unknown_fields() -> None:
    choices = [{"index": n, "text": t, "finish_reason": r, "logprobs": None, "stop_reason": 7} for n, t, r in CHOICES]
    completion = {"id": "cmpl-9", "object": "text_completion", "choices": choices, "usage": {"a": 1}, "new_field": [2]}
    reply = chat_completion(completion, ChatShape())
    assert (reply["id"], reply["object"], reply["usage"], reply["new_field"]) == (
        "chatcmpl-9",
        "chat.completion",
        {"a": 1},
        [2],
    )
    assert [(c["index"], c["message"]["content"], c["finish_reason"]) for c in reply["choices"]] == CHOICES
    assert {choice["stop_reason"] for choice in reply["choices"]} == {7}


CHOICES = [(0, "one", "stop"), (1, " two\n", "length")]


@given(st.lists(st.tuples(st.integers(0, 2), st.text(max_size=5)), max_size=12))
def test_interleaved_choices_each_get_a_role_their_text_and_a_finish_reason(pieces: list[tuple[int, str]]) -> None:
    chunks = ChatChunks(ChatShape())
    events: list[Any] = [{"index": index, "text": text, "finish_reason": None} for index, text in pieces]
    events += [{"index": index, "text": "", "finish_reason": "stop"} for index in range(3)]
    sent = [out["choices"][0] for event in events for out in chunks.translate({"id": "cmpl-1", "choices": [event]})]
    for index in range(3):
        mine = [choice for choice in sent if choice["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(choice["delta"].get("content", "") for choice in mine) == "".join(
            t for i, t in pieces if i == index
        )
        assert [choice["finish_reason"] for choice in mine] == [None] * (len(mine) - 1) + ["stop"]


def test_completion_request_drops_fields_of_chat_alone() -> None:
    body = {"model": "m", "messages": [], "logprobs": True, "top_logprobs": 3, "n": 2, "seed": 1, "chat_template": "x"}
    request = completion_body(body, "text", ["S"], {"temperature": 0.1}, 9)
    assert request == {
        "model": "m",
        "prompt": "text",
        "logprobs": 3,
        "n": 2,
        "seed": 1,
        "temperature": 0.1,
        "max_tokens": 9,
        "stop": ["S"],
    }


def test_logprobs_without_alternatives_request_zero() -> None:
    assert completion_body({"logprobs": True}, "", (), {}, 1)["logprobs"] == 0
    assert "logprobs" not in completion_body({"logprobs": False}, "", (), {}, 1)


def test_text_parts_are_joined_and_developer_becomes_system() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = text_messages([{"role": "developer", "content": "s"}, {"role": "user", "content": parts}])
    assert [(message.role, message.text) for message in messages] == [("system", "s"), ("user", "a\nb")]


def test_usage_on_the_last_choice_is_moved_to_its_own_event() -> None:
    chunks = ChatChunks(ChatShape(usage_on_last_choice=True))
    for index in range(2):
        choice = {"index": index, "text": "", "finish_reason": "stop"}
        usage = {"prompt_tokens": 5, "completion_tokens": 2 + index, "total_tokens": 7 + index}
        assert all("usage" not in chunk for chunk in chunks.translate({"id": "1", "choices": [choice], "usage": usage}))
    (event,) = chunks.finish()
    assert (event["choices"], event["usage"]) == ([], {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10})


def test_logprobs_in_the_format_of_chat_lose_unknown_fields_and_extra_alternatives() -> None:
    entry = {"id": 5, "token": "a", "bytes": [97], "logprob": -1.0}
    translated = chat_logprobs({"content": [{**entry, "top_logprobs": [entry, entry]}]}, 1)
    token = {"token": "a", "bytes": [97], "logprob": -1.0}
    assert translated == {"content": [{**token, "top_logprobs": [token]}], "refusal": None}


def test_extra_fields_of_a_finished_choice_keep_their_order() -> None:
    names = [f"field_{number}" for number in range(20)]
    choice = {"index": 0, "text": "", "finish_reason": "stop", **dict.fromkeys(names, 1)}
    *_, last = ChatChunks(ChatShape()).translate({"id": "1", "choices": [choice]})
    assert [name for name in last["choices"][0] if name in names] == names


def test_first_refused_field_in_a_fixed_order_is_named_in_the_error() -> None:
    body = dict.fromkeys(["echo", "suffix", "prompt_embeds", "prompt"], "x")
    with pytest.raises(BadRequestError) as raised:
        check_completable(body)
    assert raised.value.param == "prompt"
