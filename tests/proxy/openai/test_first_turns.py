"""Guards which requests count as the first turn of a conversation."""

from typing import Any

import pytest

from proxy.openai.conversation import read_chat, read_completion, read_response

USER = {"role": "user", "content": "How do I make tea?"}
ANSWER = {"role": "assistant", "content": "Boil water."}
CALL = {"type": "function_call", "call_id": "1", "name": "kettle", "arguments": "{}"}


@pytest.mark.parametrize(
    ("messages", "is_first"),
    [
        ([USER], True),
        ([{"role": "system", "content": "Be brief."}, USER], True),
        ([{"role": "developer", "content": "Be brief."}, USER], True),
        ([{"role": "user", "content": "A document."}, USER], True),
        ([USER, {"role": "assistant", "content": ""}], True),
        ([USER, ANSWER, USER], False),
        ([USER, ANSWER], False),
        ([ANSWER, USER], False),
        ([USER, {"role": "assistant", "tool_calls": []}, {"role": "tool", "content": "4"}], False),
        ([USER, {"role": ["user"]}], False),
        ([USER, {"content": "no role"}], False),
    ],
)
def test_chat_request_without_an_answer_of_the_model_is_a_first_turn(messages: list[Any], is_first: bool) -> None:
    assert read_chat({"messages": messages}).is_first_turn is is_first


@pytest.mark.parametrize(
    ("given", "is_first"),
    [("How do I make tea?", True), ([USER], True), ([USER, ANSWER, USER], False), ([USER, CALL], False)],
)
def test_input_of_the_responses_api_is_read_in_the_same_way(given: Any, is_first: bool) -> None:
    assert read_response({"input": given}).is_first_turn is is_first


def test_text_completion_is_a_first_turn() -> None:
    assert read_completion({"prompt": "Tea is"}).is_first_turn
