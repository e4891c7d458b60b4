"""Tests that no reply of a server, whatever its numbers and shapes, ends a run with a stack trace."""

import json
from typing import Any

import orjson
import pytest

from optimizer.core.budget import Cost
from optimizer.core.errors import UnparsableReplyError
from optimizer.core.model_tables import JudgeTable
from optimizer.models.paid_replies import _read_reply, _Sent
from optimizer.models.repeats import UNPARSABLE
from optimizer.models.request import ReplyReader
from optimizer.models.task_model import mean_log_probability, read_chat, read_completion, read_echo
from optimizer.models.token_count import token_usage
from optimizer.rewards.judge_protocol import choice_reader, rating_reader, read_digit, read_preference
from optimizer.stages.writer_protocol import read_prompts

READERS = (
    *(read_chat, read_completion, read_echo, choice_reader(JudgeTable()), read_digit, read_preference, read_prompts),
    rating_reader(["clarity"], JudgeTable()),
)


def chat(content: object, **choice: object) -> dict[str, Any]:
    return {"choices": [{"message": {"content": content}, "finish_reason": "stop", **choice}]}


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
@pytest.mark.parametrize(
    "reply",
    [
        {"choices": {"0": 1}},
        {"choices": "x"},
        {"choices": [[1]]},
        chat('{"clarity": 1' + "0" * 400 + "}"),
        chat('{"criteria": 7, "new": 7}'),
        chat('{"criteria": ["clarity"], "new": 7}'),
        chat('{"better": 7}'),
        chat('{"prompt": {"prompt": {}}}'),
        chat("4", logprobs=7),
        chat("4", logprobs={"content": 7}),
        chat("4", logprobs={"content": [{"token": "4", "top_logprobs": {"4": 1}}]}),
        {"choices": [{"logprobs": {"text_offset": 5, "token_logprobs": 5}}]},
        {"choices": [{"logprobs": {"text_offset": [1, 2], "token_logprobs": ["a", {}]}}]},
        {"choices": [{"logprobs": [1]}]},
    ],
    ids=lambda reply: json.dumps(reply)[:60],
)
def test_reply_of_any_shape_is_unreadable_and_no_error(reader: ReplyReader, reply: dict[str, Any]) -> None:
    stored, tokens, _ = _read_reply(sent(reply), reader)
    assert UNPARSABLE in stored.kept or reader is read_chat
    assert orjson.dumps([stored.kept, tokens])


@pytest.mark.parametrize("number", [1e300, 2**63, 2**64 - 1, 1e10, -5, "7", None, [1], {}])
def test_impossible_number_of_tokens_counts_as_missing(number: object) -> None:
    found = token_usage({"usage": {"prompt_tokens": number, "completion_tokens": 3}})
    assert found == (0, 3)
    assert orjson.dumps(found)


def sent(reply: dict[str, Any]) -> _Sent:
    return _Sent(orjson.dumps(reply), {"prompt": "What is two and two?"}, Cost())


def echo(offsets: object, values: object) -> dict[str, Any]:
    return {"choices": [{"logprobs": {"text_offset": offsets, "token_logprobs": values}}]}


@pytest.mark.parametrize(
    ("offsets", "values"),
    [
        ([None, None, None], [None, -1.0, -1.0]),
        (["0", "5", "9"], [None, -1.0, -1.0]),
        ([0, 1.5, 3], [None, -1.0, -1.0]),
        (5, [None]),
        ({"a": 1}, [None]),
        ([0, 5, 9], None),
        ([0, 5, 9], ["a", "b", "c"]),
    ],
)
def test_echo_with_malformed_numbers_is_unreadable(offsets: object, values: object) -> None:
    assert UNPARSABLE in _read_reply(sent(echo(offsets, values)), read_echo)[0].kept


@pytest.mark.parametrize("value", [5e3, 1e308, 0.001])
def test_log_probability_above_0_counts_as_0(value: float) -> None:
    assert mean_log_probability(read_echo(echo([0, 5, 9], [None, value, value])), 5, 9) == 0.0


@pytest.mark.parametrize(
    "text", ["null", "None", "N/A", "undefined", "...", "\u200b", "\ufeff", "---", "", " ", None, 5, ["a"]]
)
def test_prompt_without_words_is_an_unreadable_reply(text: object) -> None:
    with pytest.raises(UnparsableReplyError):
        read_prompts(chat(json.dumps({"analysis": "x", "prompt": text})))


@pytest.mark.parametrize(
    "wrapped",
    [
        *('{"prompt": "Be kind."}', '{"result": {"prompt": "Be kind."}}', '{"prompt": "Be kind."} {"note": 1}'),
        *('{"system_prompt": "Be kind."}', '{"new_prompt": "Be kind.",}', "{'prompt': 'Be kind.'}"),
    ],
)
def test_prompt_is_found_in_the_object_that_holds_it(wrapped: str) -> None:
    assert read_prompts(chat(wrapped))["prompts"] == ["Be kind."]
