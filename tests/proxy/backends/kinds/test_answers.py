"""Tests which answers show a base model behind a chat template, and which a chat model, whatever the template."""

from typing import Any

import pytest

from proxy.backends.kinds.answers import find_sign, read_chat, read_completion


def reply(content: Any, finish_reason: str = "stop", **fields: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **fields}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]}


@pytest.mark.parametrize(
    "token",
    [
        *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>", "<|user|>", "<|end|>"),
        *("<|END_OF_TURN_TOKEN|>", "<|start_of_role|>", "<start_of_turn>", "<end_of_turn>", "<turn|>", "<|turn>"),
        *("[INST]", "[/INST]", "<<SYS>>", "</s>", "<s>", "<eos>", "<｜User｜>", "<｜end▁of▁sentence｜>"),
        *("[|endofturn|]", "[AVAILABLE_TOOLS]", "<seed:eos>", "[gMASK]", "<sop>", "<|fim_middle|>", "<|reserved_7>"),
    ],
)
@pytest.mark.parametrize("ended", [True, False])
def test_template_token_in_an_answer_is_a_sign(token: str, ended: bool) -> None:
    assert token in find_sign(f"Paris{token}\n", ended=ended)


@pytest.mark.parametrize(
    "text",
    [
        "Paris\nUser: And of Spain?",
        "Paris.\nuser\nWhat is the capital of Spain?",
        "Paris.assistant\n\nThe capital is Paris.",
        "Paris\n\nHuman: And of Spain?\nAssistant: Madrid",
        "Paris\n### Instruction:\nName a fruit.",
        "Paris\n**User:** thanks",
        "Paris\n\nQ: What is 2 + 2?",
        "Paris\nQuestion 2: What is 2 + 2?",
        "Paris\nsystem\nYou are a helpful assistant.",
        "Paris\n[User]: hello",
        "Paris\n\n# Query: next",
        "Paris\nUSER：你好",
    ],
)
@pytest.mark.parametrize("ended", [True, False])
def test_second_turn_in_an_answer_is_a_sign(text: str, ended: bool) -> None:
    assert "another turn" in find_sign(text, ended=ended)


@pytest.mark.parametrize(
    "text",
    [
        "The capital of France is Paris. " * 4,
        "Paris\n" * 12,
        "0" * 60,
        "巴黎是法国的首都。" * 6,
        "a b c d e. And then a b c d e. Now a b c d e again",
    ],
)
def test_repetition_is_a_sign_only_in_an_answer_that_does_not_end(text: str) -> None:
    assert find_sign(text, ended=False) == "repeats itself"
    assert not find_sign(text, ended=True)


def test_another_question_and_its_answer_are_a_sign_only_in_an_answer_that_does_not_end() -> None:
    text = "Paris\n\nWhat is the capital of Germany?\nBerlin\n\nWhat is"
    assert "another question" in find_sign(text, ended=False)
    assert not find_sign(text, ended=True)


@pytest.mark.parametrize(
    "text",
    [
        "Paris",
        "Answer: Paris",
        "**Answer:** Paris.",
        "Assistant: Paris.",
        "The capital of France is **Paris**.\n\nIs there anything else that you would like to know?",
        "# Paris\n\n* the capital of France\n* on the Seine\n\n```html\n<b>Paris</b>\n```",
        "2 + 3 = 5, and 5 > 3, and a < b.",
        "The user interface: a system of 3 parts. Each model is a human.",
        "Sure! Here is a table:\n\n| city | country |\n| --- | --- |\n| Paris | France |",
        "[1] Paris [A] (see <https://example.org>)",
    ],
)
@pytest.mark.parametrize("ended", [True, False])
def test_ordinary_answer_has_no_sign(text: str, ended: bool) -> None:
    assert not find_sign(text, ended=ended)


@pytest.mark.parametrize(
    "given",
    [
        reply("Paris."),
        reply("Paris.", "eos_token"),
        reply("Paris.", "end_turn"),
        reply([{"type": "text", "text": "Paris."}]),
        reply(None, "length", reasoning_content="The user asks for"),
        reply("", "length", reasoning="The user asks for"),
        reply("", "length", thinking="Hm"),
        reply("<think>\nThe user asks", "length"),
        reply("<think>\n\n</think>\n\nParis"),
        reply("Okay, the user asks for a city.\n</think>\n\nParis"),
        reply("[THINK]The user asks", "length"),
        reply("<seed:think>The user", "length"),
        reply("<|channel|>analysis<|message|>The user asks", "length"),
        reply("<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>Paris"),
        {**reply("", "length"), "usage": {"completion_tokens_details": {"reasoning_tokens": 48}}},
    ],
)
def test_answer_of_a_chat_model_is_recognized(given: Any) -> None:
    answer = read_chat(given)
    assert answer is not None
    assert answer.is_chat


@pytest.mark.parametrize(
    "given",
    [
        reply("Paris", "length"),
        reply("Paris", "max_tokens"),
        reply("Paris", "MAX_TOKENS"),
        reply(""),
        reply(None),
        reply("<think></think>Paris<|im_end|>\n<|im_start|>user\n", "length"),
        reply("Paris<|im_end|>"),
        reply(None, "length", reasoning_content="Paris<|im_end|>\n<|im_start|>user"),
    ],
)
def test_answer_of_a_base_model_is_not_that_of_a_chat_model(given: Any) -> None:
    answer = read_chat(given)
    assert answer is not None
    assert not answer.is_chat


@pytest.mark.parametrize(
    "given",
    [
        *(None, [], 5, {}, {"choices": None}, {"choices": []}, {"choices": [None]}, {"choices": {"a": 1}}),
        *({"choices": [{"message": None}]}, {"choices": [{"text": "x"}]}, {"error": "no"}),
    ],
)
def test_reply_of_another_form_is_no_answer(given: Any) -> None:
    assert read_chat(given) is None
    if given != {"choices": [{"text": "x"}]}:
        assert read_completion(given) is None


@pytest.mark.parametrize("usage", [None, 5, {"completion_tokens_details": 3}, {"completion_tokens_details": {}}])
def test_odd_usage_does_not_matter(usage: Any) -> None:
    answer = read_chat({**reply("Paris"), "usage": usage})
    assert answer is not None
    assert not answer.reasoned


def test_very_long_answer_is_read_quickly() -> None:
    assert not find_sign("word " + "x y" * 400_000 + "?\n", ended=True)
    assert not find_sign("<|" * 300_000, ended=False)
    assert find_sign("a b " * 300_000, ended=False) == "repeats itself"
