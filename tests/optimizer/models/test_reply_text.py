"""Tests which JSON object in a reply counts: the last whole one after any reasoning."""

from typing import Any

import pytest

from optimizer.core.errors import UnparsableReplyError
from optimizer.models.reply_text import answer_text, json_objects, parse_json_object, without_reasoning

VERDICT = '{"better": "B", "reason": "it is {right}"}'


@pytest.mark.parametrize(
    "text",
    [
        VERDICT,
        f"<think>{{hm}}</think>{VERDICT}",
        f"<think>maybe {{'better': 'A'}} or {{\"better\": \"A\"}}</think>\n\n{VERDICT}",
        f'The braces {{ and }} and {{"better": "A"}}.\n</think>\n{VERDICT}',
        f"<thinking>\n{{\n</thinking>\n{VERDICT}",
        f"```json\n{VERDICT}\n```",
        f"Here is my verdict:\n\n```\n{VERDICT}\n```\nI hope that {{this}} helps [1]!",
        f'{{"better": "A"}}\nWait, no.\n{VERDICT}',
        f"[{VERDICT}]",
        f"{VERDICT} {{",
        f"f(x) = {{x : x > 0}}; {VERDICT}",
        VERDICT.replace("it is", "it is\n"),
        f"<|channel|>analysis<|message|>A{{<|end|><|start|>assistant<|channel|>final<|message|>{VERDICT}",
        VERDICT.replace("right", "</think>"),
    ],
)
def test_last_whole_object_after_the_reasoning_counts(text: str) -> None:
    assert parse_json_object(text)["better"] == "B"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "I would rather not.",
        "[1, 2]",
        "[]",
        f"[{VERDICT}, {VERDICT}]",
        f"<think>{VERDICT}",
        f"<think>{VERDICT}</think>",
        f"<think>no</think>I will not.<think>{VERDICT}",
        "{'better': 'A'}",
        '{"example": {"better": "A"}, "better": ',
        '{"example": {"better": "A"}, "reason": "it was cut he',
        "{" * 5000,
        '{"a":' * 5000,
        '{"better": ' + "9" * 5000 + "}",
    ],
)
def test_text_without_a_whole_object_is_unreadable(text: str) -> None:
    with pytest.raises(UnparsableReplyError):
        parse_json_object(text)


def test_objects_come_last_first_and_without_the_inner_ones() -> None:
    found = json_objects('{"a": {"b": 1}} and {"c": 2}')
    assert [one.value for one in found] == [{"c": 2}, {"a": {"b": 1}}]


def choice(content: Any, finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish_reason}


@pytest.mark.parametrize(
    "reply",
    [
        choice(VERDICT),
        choice(VERDICT, reasoning_content='{"better": "A"}'),
        choice("", reasoning_content=f"hm {VERDICT}"),
        choice(None, reasoning=f"hm {VERDICT}"),
        choice([{"type": "thinking", "thinking": "{"}, {"type": "text", "text": VERDICT}]),
    ],
)
def test_text_is_found_wherever_a_server_puts_it(reply: dict[str, Any]) -> None:
    assert parse_json_object(answer_text(reply))["better"] == "B"


@pytest.mark.parametrize(
    "reply",
    [
        choice(""),
        choice(None),
        choice("", "length", reasoning_content=VERDICT),
        choice(7),
        {"message": None},
        {},
        None,
        choice(None, refusal="I can't help with that."),
    ],
)
def test_choice_without_text_is_unreadable(reply: Any) -> None:
    with pytest.raises(UnparsableReplyError):
        answer_text(reply)


def test_reasoning_is_removed_from_a_text() -> None:
    assert without_reasoning("<think>A {</think> B") == " B"
    assert without_reasoning("A</think>B") == "B"
    assert without_reasoning("no reasoning") == "no reasoning"
    assert without_reasoning("<think>A") == ""
