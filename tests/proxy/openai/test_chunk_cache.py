"""Guards that the fast path of streams converts a chunk as the parser does, or not at all."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.inference.plan import Plan
from proxy.inference.reply_progress import ReplyProgress
from proxy.inference.stream import StreamConverter
from proxy.inference.stream_formats import stream_format
from proxy.inference.variants import Choice
from proxy.openai.chat_completion import ChatChunks, ChatShape
from proxy.openai.chunk_cache import ChunkCache

ODD = st.sampled_from(['"', "\\", '\\"', '"text":"', '"content":"', "", " ", "\u2028", "\0", "\n", "\r", "é"])
TEXT = st.text(st.characters(codec="utf-8"), max_size=8) | ODD
LOGPROBS = st.sampled_from([None, {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [None]}])
FINISH = st.sampled_from([None, None, None, "stop"])
CHOICE = st.fixed_dictionaries(
    {"index": st.integers(0, 1), "text": TEXT},
    optional={"logprobs": LOGPROBS, "finish_reason": FINISH, "note": TEXT},
)
CHAT_CHOICE = st.fixed_dictionaries(
    {"index": st.integers(0, 1), "delta": st.dictionaries(st.sampled_from(["content", "role", "reasoning"]), TEXT)},
    optional={"logprobs": st.none() | st.just({"content": []}), "finish_reason": FINISH, "note": TEXT},
)


def chunks(choice: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    chunk = st.fixed_dictionaries(
        {"id": st.just("cmpl-1"), "choices": st.lists(choice, min_size=1, max_size=2)},
        optional={"usage": st.none() | st.just({"total_tokens": 3}), "note": TEXT},
    )
    return st.lists(chunk, max_size=12)


def event(chunk: Any, *, spaced: bool = False) -> bytes:
    encoded = orjson.dumps(chunk)
    return b"data: " + (encoded.replace(b'":', b'": ') if spaced else encoded) + b"\n\n"


def plan(path: str, shape: ChatShape | None, strip: bool) -> Plan:
    return Plan(Choice("m", "aligned", explicit=False), path, b"", None, True, shape, strip)


@given(chunks(CHOICE), st.booleans(), st.booleans(), st.booleans(), st.integers(1, 4))
def test_cached_translation_equals_the_parsed_translation(
    sent: list[Any], trim: bool, strip: bool, spaced: bool, together: int
) -> None:
    shape, progress = ChatShape(trim), ReplyProgress()
    converter = StreamConverter(stream_format(plan("/v1/completions", shape, strip), progress), progress)
    parsing = ChatChunks(shape)
    for start in range(0, len(sent), together):
        events = [event(chunk, spaced=spaced) for chunk in sent[start : start + together]]
        expected = []
        for one in events:
            parsed = orjson.loads(one[6:])
            if strip:
                parsed.pop("usage", None)
            expected += [event(translated) for translated in parsing.translate(parsed)]
        assert converter.convert(b"".join(events)) == b"".join(expected)


@given(chunks(CHAT_CHOICE), st.booleans(), st.integers(1, 4))
def test_relayed_chunks_stay_as_they_are(sent: list[Any], spaced: bool, together: int) -> None:
    progress = ReplyProgress()
    converter = StreamConverter(stream_format(plan("/v1/chat/completions", None, strip=False), progress), progress)
    for start in range(0, len(sent), together):
        part = b"".join(event(chunk, spaced=spaced) for chunk in sent[start : start + together])
        assert converter.convert(part) == part


BASE = {"id": "1", "choices": [{"index": 0, "text": "a", "finish_reason": None}]}
CHAT = {"id": "chat", "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}


def filled(line_end: bytes = b"\n") -> tuple[ChunkCache, bytes, bytes]:
    cache, first, translated = ChunkCache(), event(BASE).replace(b"\n", line_end), event(CHAT)
    assert cache.translate(first) is None
    cache.store(first, "text", "a", translated, "content")
    return cache, first, translated


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_cache_translates_chunks_that_differ_in_their_texts_alone(line_end: bytes) -> None:
    cache, first, translated = filled(line_end)
    texts = [b'"b"', b'" w\\n"', '"größer"'.encode(), b'"\\u00e9\\\\"']
    assert cache.translate(first.replace(b'"a"', b'" w\\n"')) == translated.replace(b'"a"', b'" w\\n"')
    joined = b"".join(first.replace(b'"a"', text) for text in texts)
    assert cache.translate(joined) == b"".join(translated.replace(b'"a"', text) for text in texts)


@pytest.mark.parametrize(
    "text",
    [b'""', b'"\\""', b'"\\\\\\"', b'"\\"', b'"\\q"', b'"\\u12"', b'"\xff"', b'"\n"', b'"\n\n"', b'"\0"', b"null"],
)
def test_cache_translates_no_chunk_whose_text_is_not_plain(text: bytes) -> None:
    cache, first, _ = filled()
    odd = first.replace(b'"a"', text)
    assert cache.translate(odd) is None
    assert cache.translate(first + odd) is None
    assert cache.translate(odd + first) is None
    assert cache.translate(first + odd + first) is None


def test_cache_translates_no_chunk_that_differs_in_another_field() -> None:
    cache, first, _ = filled()
    for other in (first.replace(b"null", b'"stop"'), first[:-1], first[1:], first + b"\n", b""):
        assert cache.translate(other) is None
        assert cache.translate(first + other) is None or not other
