"""Guards that a stream of events arrives byte for byte, wherever the transport cuts it."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import BackendProtocolError
from proxy.openai.sse import MAX_EVENT_BYTES, EventSplitter, event_data, is_done, split_events

END_OF_LINE = st.sampled_from([b"\n", b"\r\n", b"\r"])
LINE = st.binary(min_size=1, max_size=20).filter(lambda line: b"\n" not in line and b"\r" not in line)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[int]]:
    """Return a stream of events with one kind of line end, and where it is cut on its way."""
    end = draw(END_OF_LINE)
    events = draw(st.lists(st.lists(LINE, min_size=1, max_size=3), max_size=5))
    whole = b"".join(end.join(lines) + end + end for lines in events)
    cuts = draw(st.lists(st.integers(0, len(whole)), max_size=8))
    return whole, [0, *sorted(cuts), len(whole)]


@given(streams())
def test_splitter_emits_whole_events_and_loses_no_byte_at_any_cut(stream: tuple[bytes, list[int]]) -> None:
    whole, cuts = stream
    splitter = EventSplitter()
    events = [event for a, b in itertools.pairwise(cuts) for event in split_events(splitter.feed(whole[a:b]))]
    assert b"".join(events) + splitter.held == whole
    at_once = split_events(EventSplitter().feed(whole))
    if b"\r" not in whole:
        assert events == at_once
    for event in events:
        assert event.endswith((b"\n\n", b"\r\n\r\n", b"\r\r", b"\r\n\r", b"\r")) or event.startswith(b"\n")


def test_splitter_does_not_take_one_crlf_for_a_blank_line() -> None:
    assert EventSplitter().feed(b"data: 1\r\ndata: 2\r\n") == b""


def test_splitter_refuses_an_event_over_the_size_limit() -> None:
    with pytest.raises(BackendProtocolError):
        EventSplitter().feed(b"x" * (MAX_EVENT_BYTES + 1))


@pytest.mark.parametrize(
    ("event", "done"),
    [
        (b"data: [DONE]\n\n", True),
        (b"data:[DONE]\r\n\r\n", True),
        (b'data: {"choices": [{"delta": {"content": "data: [DONE]"}}]}\n\n', False),
        (b": [DONE]\n\n", False),
    ],
)
def test_is_done_accepts_only_the_done_event(event: bytes, *, done: bool) -> None:
    assert is_done(event) is done


def test_event_data_joins_several_lines() -> None:
    assert event_data(b"event: a\ndata: {\ndata: }\n\n") == b"{\n}"
