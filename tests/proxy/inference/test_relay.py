"""Tests that usage is removed from a stream only if the client did not ask for it."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.inference.relay import (
    passes_untouched,
    reply_headers,
    request_headers,
    usage_filter,
)
from proxy.inference.reply_progress import ReplyProgress
from proxy.openai.sse import EventSplitter, is_done, split_events
from tests.proxy.openai.test_sse import streams


@given(streams(), st.booleans())
def test_events_pass_unsplit_only_if_each_would_pass_unchanged(
    stream: tuple[bytes, list[int]],
    wanted: bool,
) -> None:
    whole = EventSplitter().feed(stream[0].replace(b"a", b'"usage": null').replace(b"b", b"data: [DONE]"))
    if passes_untouched(whole):
        transform = usage_filter(ReplyProgress(), wanted=wanted)
        assert [transform(event) for event in split_events(whole)] == split_events(whole)
        assert not any(is_done(event) for event in split_events(whole))


USAGE = b'data: {"id":"1","choices":[],"usage":{"prompt_tokens":3}}\n\n'
TEXT = b'data: {"id":"1","choices":[{"delta":{"content":"say \\"usage\\":null, please"}}]}\n\n'


@pytest.mark.parametrize("wanted", [True, False])
def test_usage_event_is_recorded_and_removed_only_if_not_requested(*, wanted: bool) -> None:
    progress = ReplyProgress()
    transform = usage_filter(progress, wanted=wanted)
    assert transform(TEXT) == TEXT
    assert transform(USAGE) == (USAGE if wanted else b"")
    assert progress.usage == {"prompt_tokens": 3}


def test_usage_on_the_last_choice_is_removed_if_not_requested() -> None:
    event = b'data: {"choices":[{"text":"."}],"usage":{"total_tokens":3}}\n\n'
    progress = ReplyProgress()
    assert usage_filter(progress, wanted=False)(event) == b'data: {"choices":[{"text":"."}]}\n\n'
    assert progress.usage == {"total_tokens": 3}
    assert usage_filter(progress, wanted=True)(event) == event


def test_only_the_null_usage_key_is_removed_if_not_requested() -> None:
    event = b'data: {"choices":[{"delta":{"content":",\\"usage\\":null"}}],"usage":null}\n\n'
    expected = b'data: {"choices":[{"delta":{"content":",\\"usage\\":null"}}]}\n\n'
    assert usage_filter(ReplyProgress(), wanted=False)(event) == expected
    assert usage_filter(ReplyProgress(), wanted=True)(event) == event


@given(st.dictionaries(st.text(max_size=8), st.one_of(st.none(), st.text(max_size=8), st.integers(0, 9)), max_size=5))
def test_event_without_usage_passes_unchanged(payload: dict[str, object]) -> None:
    payload.pop("usage", None)
    event = b"data: " + orjson.dumps(payload) + b"\n\n"
    assert usage_filter(ReplyProgress(), wanted=False)(event) == event


def test_only_headers_of_the_allow_list_are_passed_on() -> None:
    sent = {"Authorization": "Bearer k", "Cookie": "c", "X-Request-Id": "r", "Traceparent": "t", "X-Evil": "e"}
    assert request_headers(sent, authorization=False) == {"X-Request-Id": "r", "Traceparent": "t"}
    assert request_headers(sent, authorization=True)["Authorization"] == "Bearer k"
    replied = {"set-cookie": "c", "retry-after": "3", "x-ratelimit-remaining": "0", "server": "s"}
    assert reply_headers(replied) == {"retry-after": "3", "x-ratelimit-remaining": "0"}
