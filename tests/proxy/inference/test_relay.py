"""Tests which headers and which token counts of a backend the client gets."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.inference.plan import Plan
from proxy.inference.relay import reply_headers, request_headers
from proxy.inference.reply_progress import ReplyProgress
from proxy.inference.stream import StreamConverter
from proxy.inference.stream_formats import stream_format
from proxy.inference.variants import Choice

USAGE = b'data: {"id":"1","choices":[],"usage":{"prompt_tokens":3}}\n\n'
TEXT = b'data: {"id":"1","choices":[{"delta":{"content":"say \\"usage\\":null, please"}}]}\n\n'


def relayed(event: bytes, *, wanted: bool) -> tuple[bytes, object]:
    """Return what a client gets for an event of a chat model, and the recorded token counts."""
    progress = ReplyProgress()
    choice = Choice("m", "raw", explicit=False)
    plan = Plan(choice, "/v1/chat/completions", b"", stream=True, strip_usage=not wanted)
    return StreamConverter(stream_format(plan, progress), progress).convert(event), progress.usage


@pytest.mark.parametrize("wanted", [True, False])
def test_usage_event_is_recorded_and_removed_only_if_not_requested(*, wanted: bool) -> None:
    assert relayed(TEXT, wanted=wanted) == (TEXT, None)
    assert relayed(USAGE, wanted=wanted) == (USAGE if wanted else b"", {"prompt_tokens": 3})


@pytest.mark.parametrize("choices", [b"", b'"choices":null,'])
def test_usage_event_without_a_list_of_choices_gets_an_empty_one(choices: bytes) -> None:
    event = USAGE.replace(b'"choices":[],', choices)
    assert relayed(event, wanted=False) == (b"", {"prompt_tokens": 3})
    sent, usage = relayed(event, wanted=True)
    assert orjson.loads(sent[6:]) == {"id": "1", "choices": [], "usage": {"prompt_tokens": 3}}
    assert usage == {"prompt_tokens": 3}


def test_usage_on_the_last_choice_is_removed_if_not_requested() -> None:
    event = b'data: {"choices":[{"delta":{"content":"."}}],"usage":{"total_tokens":3}}\n\n'
    without = b'data: {"choices":[{"delta":{"content":"."}}]}\n\n'
    assert relayed(event, wanted=False) == (without, {"total_tokens": 3})
    assert relayed(event, wanted=True) == (event, {"total_tokens": 3})


def test_only_the_null_usage_key_is_removed_if_not_requested() -> None:
    event = b'data: {"choices":[{"delta":{"content":",\\"usage\\":null"}}],"usage":null}\n\n'
    expected = b'data: {"choices":[{"delta":{"content":",\\"usage\\":null"}}]}\n\n'
    assert relayed(event, wanted=False) == (expected, None)
    assert relayed(event, wanted=True) == (event, None)


@given(
    st.dictionaries(st.text(max_size=8), st.one_of(st.none(), st.text(max_size=8), st.integers(0, 9)), max_size=5),
    st.booleans(),
)
def test_chunk_without_usage_passes_unchanged(fields: dict[str, object], wanted: bool) -> None:
    choices = [{"index": 0, "delta": {"content": "."}}]
    fields = {name: value for name, value in fields.items() if name not in ("usage", "error", "object", "type")}
    event = b"data: " + orjson.dumps({**fields, "choices": choices}) + b"\n\n"
    assert relayed(event, wanted=wanted) == (event, None)


def test_only_headers_of_the_allow_list_are_passed_on() -> None:
    sent = {"Authorization": "Bearer k", "Cookie": "c", "X-Request-Id": "r", "Traceparent": "t", "X-Evil": "e"}
    assert request_headers(sent, authorization=False) == {"X-Request-Id": "r", "Traceparent": "t"}
    assert request_headers(sent, authorization=True)["Authorization"] == "Bearer k"
    replied = {"set-cookie": "c", "retry-after": "3", "x-ratelimit-remaining": "0", "server": "s"}
    assert reply_headers(replied) == {"retry-after": "3", "x-ratelimit-remaining": "0"}
    assert reply_headers({"retry-after": "3\udcff", "x-ratelimit-\xe9": "0"}) == {}
