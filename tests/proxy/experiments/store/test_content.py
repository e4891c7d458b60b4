"""Tests of the texts of requests and replies that the store keeps."""

import json

import pytest

from proxy.experiments.store.content import MAX_CONTENT_BYTES, answer_text, storable_reply, storable_text

WORDS = [f"word{number} " for number in range(1_000)]


def event(payload: object) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def chat_stream(end: bytes = b"data: [DONE]\n\n") -> bytes:
    """Return a stream of more than 64 KiB."""
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "google/gemma-3-270m"}
    return b"".join(event({**chunk, "choices": [{"index": 0, "delta": {"content": word}}]}) for word in WORDS) + end


def test_long_stream_is_stored_with_its_whole_text() -> None:
    assert len(chat_stream()) > MAX_CONTENT_BYTES
    assert answer_text(storable_reply(chat_stream()).encode()) == "".join(WORDS)


def test_long_stream_of_the_responses_api_is_stored_as_its_response() -> None:
    text = "".join(WORDS)
    deltas = b"".join(event({"type": "response.output_text.delta", "delta": word, "pad": "x" * 80}) for word in WORDS)
    stored = storable_reply(deltas + event({"type": "response.completed", "response": {"output_text": text}}))
    assert json.loads(stored) == {"output_text": text}


@pytest.mark.parametrize("end", [b"", event({"error": {"message": "no"}})])
def test_long_stream_that_is_not_complete_stays_as_it_is(end: bytes) -> None:
    assert storable_reply(chat_stream(end)) == chat_stream(end)[:MAX_CONTENT_BYTES].decode()


@pytest.mark.parametrize("reply", [b'{"choices": []}', b"data: [DONE]\n\n", b'{"a": "' + b"b" * 99_999, b"", b"no"])
def test_other_replies_stay_as_they_are(reply: bytes) -> None:
    assert storable_reply(reply) == storable_text(reply) == reply[:MAX_CONTENT_BYTES].decode()
