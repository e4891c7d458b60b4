"""Guards that the chunk cache translates a chunk as the parser does, or not at all."""

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from proxy.inference.plan import Plan
from proxy.inference.reply import stream_rules
from proxy.inference.reply_progress import ReplyProgress
from proxy.inference.variants import Choice
from proxy.openai.chat_completion import ChatChunks, ChatShape
from proxy.openai.chunk_cache import ChunkCache

ODD = st.sampled_from(['"', "\\", '\\"', '"text":"', "", " ", "\u2028", "\0"])
TEXT = st.text(st.characters(codec="utf-8"), max_size=8) | ODD
CHOICE = st.fixed_dictionaries(
    {"index": st.integers(0, 1), "text": TEXT},
    optional={
        "logprobs": st.sampled_from([None, {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [None]}]),
        "finish_reason": st.sampled_from([None, None, None, "stop"]),
        "note": TEXT,
    },
)
CHUNK = st.fixed_dictionaries(
    {
        "id": st.just("cmpl-1"),
        "object": st.just("text_completion"),
        "choices": st.lists(CHOICE, min_size=1, max_size=2),
    },
    optional={"usage": st.none() | st.just({"total_tokens": 3}), "note": TEXT},
)


def event(chunk: Any, *, spaced: bool = False) -> bytes:
    encoded = str(chunk).encode("utf-8", "replace") if isinstance(chunk, str) else orjson.dumps(chunk)
    return b"data: " + (encoded.replace(b'":', b'": ') if spaced else encoded) + b"\n\n"


@given(st.lists(CHUNK, max_size=12), st.booleans(), st.booleans(), st.booleans())
def test_cached_translation_equals_the_parsed_translation(
    chunks: list[Any], trim: bool, strip: bool, spaced: bool
) -> None:
    shape = ChatShape(trim)
    plan = Plan(Choice("m", "aligned", explicit=False), "/v1/completions", b"", None, True, shape, strip)
    transform, parsing = stream_rules(plan, ReplyProgress()).transform, ChatChunks(shape)
    for chunk in chunks:
        sent = event(chunk, spaced=spaced)
        parsed = orjson.loads(sent[6:])
        if strip:
            parsed.pop("usage", None)
        expected = [event(translated) for translated in parsing.translate(parsed)]
        assert [one + b"\n\n" for one in transform(sent).split(b"\n\n")[:-1]] == expected


def test_cache_translates_chunks_that_differ_in_their_text_alone() -> None:
    cache, base = ChunkCache(), {"id": "1", "choices": [{"index": 0, "text": "a", "finish_reason": None}]}
    first = event(base)
    assert cache.translate(first) is None
    chat = {"id": "chat", "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
    cache.store(first, "a", chat)
    assert cache.translate(first.replace(b'"a"', b'" w\\n"')) == event(chat).replace(b'"a"', b'" w\\n"')
    for other in (b'""', b'"\\""', b'"\\\\"', b"null"):
        assert cache.translate(first.replace(b'"a"', other)) is None
    assert cache.translate(first.replace(b"null", b'"stop"')) is None
