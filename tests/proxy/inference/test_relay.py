"""Guards that a stream arrives byte for byte however it is cut, and that only the usage not asked for is taken out."""

import itertools

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import BackendProtocolError
from proxy.inference.relay import (
    LARGEST_EVENT,
    EventSplitter,
    ReplyFacts,
    event_data,
    is_done,
    passes_untouched,
    reply_headers,
    request_headers,
    split_events,
    usage_filter,
)

END_OF_LINE = st.sampled_from([b"\n", b"\r\n", b"\r"])
LINE = st.binary(min_size=1, max_size=20).filter(lambda line: b"\n" not in line and b"\r" not in line)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[int]]:
    """A stream of events with one kind of line end, and where it is cut on its way."""
    end = draw(END_OF_LINE)
    events = draw(st.lists(st.lists(LINE, min_size=1, max_size=3), max_size=5))
    whole = b"".join(end.join(lines) + end + end for lines in events)
    cuts = draw(st.lists(st.integers(0, len(whole)), max_size=8))
    return whole, [0, *sorted(cuts), len(whole)]


@given(streams())
def test_events_are_whole_and_no_byte_is_lost_however_the_stream_is_cut(stream: tuple[bytes, list[int]]) -> None:
    whole, cuts = stream
    splitter = EventSplitter()
    events = [event for a, b in itertools.pairwise(cuts) for event in split_events(splitter.feed(whole[a:b]))]
    assert b"".join(events) + splitter.held == whole
    at_once = split_events(EventSplitter().feed(whole))
    if b"\r" not in whole:
        assert events == at_once
    for event in events:
        assert event.endswith((b"\n\n", b"\r\n\r\n", b"\r\r", b"\r\n\r", b"\r")) or event.startswith(b"\n")


@given(streams(), st.booleans())
def test_events_that_pass_together_are_those_that_would_pass_each_by_itself(
    stream: tuple[bytes, list[int]],
    wanted: bool,
) -> None:
    whole = EventSplitter().feed(stream[0].replace(b"a", b'"usage": null').replace(b"b", b"data: [DONE]"))
    if passes_untouched(whole):
        transform = usage_filter(ReplyFacts(), wanted=wanted)
        assert [transform(event) for event in split_events(whole)] == split_events(whole)
        assert not any(is_done(event) for event in split_events(whole))


def test_crlf_alone_is_not_taken_for_a_blank_line() -> None:
    assert EventSplitter().feed(b"data: 1\r\ndata: 2\r\n") == b""


def test_event_without_end_is_refused() -> None:
    with pytest.raises(BackendProtocolError):
        EventSplitter().feed(b"x" * (LARGEST_EVENT + 1))


@pytest.mark.parametrize(
    ("event", "done"),
    [
        (b"data: [DONE]\n\n", True),
        (b"data:[DONE]\r\n\r\n", True),
        (b'data: {"choices": [{"delta": {"content": "data: [DONE]"}}]}\n\n', False),
        (b": [DONE]\n\n", False),
    ],
)
def test_only_the_done_event_ends_a_stream(event: bytes, *, done: bool) -> None:
    assert is_done(event) is done


def test_data_of_several_lines_is_joined() -> None:
    assert event_data(b"event: a\ndata: {\ndata: }\n\n") == b"{\n}"


USAGE = b'data: {"id":"1","choices":[],"usage":{"prompt_tokens":3}}\n\n'
TEXT = b'data: {"id":"1","choices":[{"delta":{"content":"say \\"usage\\":null, please"}}]}\n\n'


@pytest.mark.parametrize("wanted", [True, False])
def test_usage_is_noted_and_taken_out_only_if_not_asked_for(*, wanted: bool) -> None:
    facts = ReplyFacts()
    transform = usage_filter(facts, wanted=wanted)
    assert transform(TEXT) == TEXT
    assert transform(USAGE) == (USAGE if wanted else b"")
    assert facts.usage == {"prompt_tokens": 3}


def test_usage_on_the_last_choice_is_taken_off_it_if_not_asked_for() -> None:
    event = b'data: {"choices":[{"text":"."}],"usage":{"total_tokens":3}}\n\n'
    facts = ReplyFacts()
    assert usage_filter(facts, wanted=False)(event) == b'data: {"choices":[{"text":"."}]}\n\n'
    assert facts.usage == {"total_tokens": 3}
    assert usage_filter(facts, wanted=True)(event) == event


def test_null_usage_key_that_was_not_asked_for_is_taken_out_and_nothing_else() -> None:
    event = b'data: {"choices":[{"delta":{"content":",\\"usage\\":null"}}],"usage":null}\n\n'
    expected = b'data: {"choices":[{"delta":{"content":",\\"usage\\":null"}}]}\n\n'
    assert usage_filter(ReplyFacts(), wanted=False)(event) == expected
    assert usage_filter(ReplyFacts(), wanted=True)(event) == event


@given(st.dictionaries(st.text(max_size=8), st.one_of(st.none(), st.text(max_size=8), st.integers(0, 9)), max_size=5))
def test_events_without_usage_pass_untouched(payload: dict[str, object]) -> None:
    payload.pop("usage", None)
    event = b"data: " + orjson.dumps(payload) + b"\n\n"
    assert usage_filter(ReplyFacts(), wanted=False)(event) == event


def test_headers_pass_by_allow_list_only() -> None:
    sent = {"Authorization": "Bearer k", "Cookie": "c", "X-Request-Id": "r", "Traceparent": "t", "X-Evil": "e"}
    assert request_headers(sent, authorization=False) == {"X-Request-Id": "r", "Traceparent": "t"}
    assert request_headers(sent, authorization=True)["Authorization"] == "Bearer k"
    replied = {"set-cookie": "c", "retry-after": "3", "x-ratelimit-remaining": "0", "server": "s"}
    assert reply_headers(replied) == {"retry-after": "3", "x-ratelimit-remaining": "0"}
