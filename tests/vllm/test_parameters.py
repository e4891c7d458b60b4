"""Tests of OpenAI's parameters for chat on a base model, translated in both directions, on real vLLM."""

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionTokenLogprob

from tests.vllm.models import BASE
from tests.vllm.queries import asking
from tests.vllm.server import CONTEXT

_QUERY = "Name three uses for baking soda around the house."
_PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def _greedy(client: openai.OpenAI, **options: Any) -> ChatCompletion:
    reply = client.chat.completions.create(
        **{"model": BASE.name, "messages": asking(_QUERY), "max_tokens": 40, "temperature": 0, **options}
    )
    assert isinstance(reply, ChatCompletion)
    return reply


def _check_logprobs(tokens: list[ChatCompletionTokenLogprob], text: str) -> None:
    assert "".join(token.token for token in tokens).strip() == text.strip()
    for token in tokens:
        assert token.bytes == list(token.token.encode())
        assert token.logprob <= 0
        assert 1 <= len(token.top_logprobs) <= 2
        assert token.top_logprobs[0].logprob == max(top.logprob for top in token.top_logprobs)
        assert token.top_logprobs[0].token == token.token  # greedy: what was drawn is the most likely


def test_logprobs_cover_each_token_of_the_answer(client: openai.OpenAI) -> None:
    choice = _greedy(client, logprobs=True, top_logprobs=2, max_tokens=12, frequency_penalty=0).choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    _check_logprobs(choice.logprobs.content, choice.message.content or "")


def test_stream_contains_logprobs(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=BASE.name,
        messages=asking(_QUERY),
        max_tokens=12,
        temperature=0,
        frequency_penalty=0,
        logprobs=True,
        top_logprobs=2,
        stream=True,
    )
    choices = [choice for chunk in stream for choice in chunk.choices]
    tokens = [token for choice in choices if choice.logprobs for token in choice.logprobs.content or ()]
    _check_logprobs(tokens, "".join(choice.delta.content or "" for choice in choices))


def test_reply_contains_two_choices(client: openai.OpenAI) -> None:
    reply = _greedy(client, n=2, temperature=0.9, seed=7)
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert len({choice.message.content for choice in reply.choices}) == 2
    assert reply.usage is not None
    again = _greedy(client, n=2, temperature=0.9, seed=7)
    assert [choice.message.content for choice in again.choices] == [choice.message.content for choice in reply.choices]


def test_stream_contains_two_choices(client: openai.OpenAI) -> None:
    whole = _greedy(client, n=2, temperature=0.9, seed=7, max_tokens=12)
    stream = client.chat.completions.create(
        model=BASE.name, messages=asking(_QUERY), max_tokens=12, temperature=0.9, seed=7, n=2, stream=True
    )
    texts = {0: "", 1: ""}
    ends = []
    for choice in (choice for chunk in stream for choice in chunk.choices):
        texts[choice.index] += choice.delta.content or ""
        ends += [choice.index] if choice.finish_reason else []
    assert texts == {choice.index: choice.message.content for choice in whole.choices}
    assert sorted(ends) == [0, 1]


@pytest.mark.parametrize("requested", [True, False])
def test_stream_contains_usage_only_on_request(client: openai.OpenAI, requested: bool) -> None:
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if requested else {}
    with client.chat.completions.with_streaming_response.create(
        model=BASE.name, messages=asking(_QUERY), max_tokens=5, temperature=0, stream=True, **options
    ) as reply:
        events = [line.removeprefix("data: ") for line in reply.iter_lines() if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    with_usage = [chunk for chunk in chunks if chunk.get("usage")]
    assert [chunk["choices"] for chunk in with_usage] == ([[]] if requested else [])
    if not requested:
        assert all("usage" not in chunk for chunk in chunks)


def test_stop_string_ends_the_answer_and_is_removed(client: openai.OpenAI) -> None:
    text = _greedy(client).choices[0].message.content or ""
    word = text.split()[len(text.split()) // 2]
    # vLLM takes four stop strings, and the layout needs two of them. The proxy itself cuts at the last one.
    for stop in ([word], ["<1>", "<2>", "<3>", word]):
        choice = _greedy(client, stop=stop).choices[0]
        assert (choice.message.content, choice.finish_reason) == (text[: text.index(word)], "stop")


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_answer_follows_the_json_schema(client: openai.OpenAI, streaming: bool) -> None:
    create = client.chat.completions.with_raw_response.create
    options: dict[str, Any] = {
        "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": _PERSON}}
    }
    messages = asking("Invent a person: name and age, as JSON.")
    if streaming:
        raw = create(model=BASE.name, messages=messages, max_tokens=60, temperature=0, stream=True, **options)
        text = "".join(choice.delta.content or "" for chunk in raw.parse() for choice in chunk.choices)
    else:
        raw = create(model=BASE.name, messages=messages, max_tokens=60, temperature=0, **options)
        text = raw.parse().choices[0].message.content
    assert raw.headers["x-drpo-reduced"] == "response_format"
    person = json.loads(text)
    assert set(person) == {"name", "age"}
    assert isinstance(person["age"], int)


def test_answer_follows_vllm_structured_outputs(client: openai.OpenAI) -> None:
    reply = _greedy(client, extra_body={"structured_outputs": {"choice": ["zebra", "giraffe"]}})
    assert reply.choices[0].message.content in {"zebra", "giraffe"}


def _refusal(call: Callable[[], object]) -> bytes:
    with pytest.raises(openai.BadRequestError) as refused:
        call()
    return refused.value.response.content


@pytest.mark.parametrize("options", [{"max_tokens": CONTEXT + 1}, {"temperature": -1}, {"n": 2, "temperature": 0}])
def test_error_of_vllm_is_unchanged(client: openai.OpenAI, direct: openai.OpenAI, options: dict[str, Any]) -> None:
    ours = _refusal(lambda: _greedy(client, **options))
    own = _refusal(lambda: direct.completions.create(model=BASE.name, prompt="Hello", **options))
    assert ours == own
