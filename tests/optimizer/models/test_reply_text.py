"""Tests which JSON object in a reply counts: the last whole one after any reasoning."""

import json
from typing import Any

import pytest

from optimizer.core.errors import UnparsableReplyError
from optimizer.models.reply_text import answer_text, find_object, json_objects, message_text, without_reasoning


def better(text: str) -> Any:
    """Return the value of the key `better` in the object that counts; None if there is none."""
    found = find_object(text, lambda value: "better" in value)
    return found and found.value["better"]


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
        f'[THINK]{{"better": "A"}}[/THINK]{VERDICT}',
        f"\u25c1think\u25b7{{hm}}\u25c1/think\u25b7{VERDICT}",
        f"<|begin_of_thought|>{{<|end_of_thought|>{VERDICT}",
        f'<think type="long">{{"better": "A"}}</think >{VERDICT}',
        f'{{"verdict": {VERDICT}}}',
        "{'better': 'B', 'reason': 'it's {right}'}",
        '{"better": "B", "reason": "x",}',
        '{"better": "B", // the second\n "reason": "it says "Paris" twice"}',
        '{"better": "B", "safe": True, "other": None}',
        "{better: B, reason: \u201cx\u201d}",
        VERDICT.replace(" ", "\u00a0"),
        f"<reason>{{'better': 'A'}}</reason>{VERDICT}",
        f'<inner_monologue>{{"better": "A"}}</inner_monologue>{VERDICT}',
        f'<|thinking|>{{"better": "A"}}<|/thinking|>{VERDICT}',
        f'<|START_THINKING|>{{"better": "A"}}<|END_THINKING|><|START_RESPONSE|>{VERDICT}<|END_RESPONSE|>',
        f'<|channel>thought\n{{"better": "A"}}<channel|>{VERDICT}',
        f'<think>{{"better": "A"}}\n<answer>{VERDICT}</answer>',
        f"<|channel|>analysis<|message|>A{{<|end|><|channel|>final <|constrain|>json<|message|>{VERDICT}<|return|>",
        f'analysis{{"better": "A"}}assistantfinal{VERDICT}',
        f'{{"name": "verdict", "arguments": {json.dumps(VERDICT)}}}',
    ],
)
def test_last_whole_object_after_the_reasoning_counts(text: str) -> None:
    assert better(text) == "B"


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
        "{'better': 'A'",
        "{better: A or B}",
        "{'better': 'A', 'better': 'B'}",
        '<|channel>thought\n{"better": "A"}',
        f"<|START_THINKING|>{VERDICT}",
        "{'better': " * 5000,
        "{'a" * 5000,
        f"[THINK]{VERDICT}",
        f"\u25c1think\u25b7{VERDICT}",
        f"<|begin_of_thought|>{VERDICT}",
        f"<|channel|>analysis<|message|>{VERDICT}",
        f"<scratchpad>{VERDICT}",
        f'<think type="long">{VERDICT}',
        '{"example": {"better": "A"}, "better": ',
        '{"example": {"better": "A"}, "reason": "it was cut he',
        "{" * 5000,
        '{"a":' * 5000,
        '{"better": ' + "9" * 5000 + "}",
    ],
)
def test_text_without_a_whole_object_is_unreadable(text: str) -> None:
    assert better(text) is None


def test_outermost_objects_are_found_the_last_one_first() -> None:
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
        choice(f"{VERDICT}<|im_end|>"),
        choice(f"{VERDICT} </s>\n"),
    ],
)
def test_text_is_found_wherever_a_server_puts_it(reply: dict[str, Any]) -> None:
    assert better(answer_text(reply)) == "B"


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


def test_token_that_ends_a_turn_is_no_part_of_the_text() -> None:
    assert answer_text(choice("A<|eot_id|>")) == "A"
    assert answer_text(choice("A </s> B")) == "A </s> B"
    with pytest.raises(UnparsableReplyError):
        answer_text(choice("<|im_end|>"))


def test_reasoning_is_removed_from_a_text() -> None:
    assert without_reasoning("<think>A {</think> B") == " B"
    assert without_reasoning("A</think>B") == "B"
    assert without_reasoning("no reasoning") == "no reasoning"
    assert without_reasoning("<think>A") == ""


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "x"}, "x"),
        ({"content": [{"type": "text", "text": "x"}]}, "x"),
        ({"content": None, "refusal": "I can't help with that."}, "I can't help with that."),
        ({"content": "x", "refusal": None}, "x"),
        ({"content": "", "refusal": ""}, ""),
    ],
)
def test_answer_is_the_text_or_the_refusal_of_a_message(message: dict[str, Any], text: str) -> None:
    assert message_text(message) == text


@pytest.mark.parametrize("content", [None, 7, [], [1], {"a": 1}, True, [{"type": "text", "text": None}], "\ud83d"])
def test_message_without_a_text_has_no_answer(content: object) -> None:
    with pytest.raises(UnparsableReplyError):
        message_text({"content": content})
