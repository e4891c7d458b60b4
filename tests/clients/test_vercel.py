"""The Vercel AI SDK talks to the proxy, with @ai-sdk/openai-compatible and with @ai-sdk/openai."""

from pathlib import Path
from typing import Any

import pytest

from tests.clients.answers import check_answer, check_city, check_end, check_pieces, check_usage
from tests.clients.conftest import Results

Found = dict[str, Any]


@pytest.fixture(scope="module")
def found(node_folder: Path, results: Results) -> Found:
    return results(["node", str(node_folder / "vercel_user.mjs")])


def _check_usage(answer: Found, *, aligned: bool = True) -> None:
    usage = answer["usage"]
    check_usage(usage["inputTokens"], usage["outputTokens"], usage["totalTokens"], aligned=aligned)
    assert answer["variant"] == ("aligned" if aligned else "raw")


@pytest.mark.parametrize("way", ["generated", "responses", "openaiChat"])
def test_answer_has_its_usage(found: Found, way: str) -> None:
    answer = found[way]
    check_answer(answer["text"])
    _check_usage(answer)
    check_end(answer["finishReason"], answer["usage"]["outputTokens"])
    assert answer["model"] == "google/gemma-3-270m"


@pytest.mark.parametrize("way", ["streamed", "responsesStreamed"])
def test_chunks_of_a_stream_join_to_the_answer(found: Found, way: str) -> None:
    answer = found[way]
    check_answer(answer["text"])
    check_pieces(answer["pieces"], answer["text"])
    _check_usage(answer)
    check_end(answer["finishReason"], answer["usage"]["outputTokens"])


def test_conversation_with_a_system_message_is_continued(found: Found) -> None:
    assert "France" in found["conversation"]["text"]
    _check_usage(found["conversation"])


def test_answer_follows_a_schema_and_is_parsed(found: Found) -> None:
    check_city(found["structured"])


@pytest.mark.parametrize("way", ["raw", "rawByHeader"])
def test_raw_variant_injects_nothing(found: Found, way: str) -> None:
    _check_usage(found[way], aligned=False)
    assert found[way]["text"] != found["generated"]["text"]


def test_text_completion_continues_its_prompt(found: Found) -> None:
    assert "France" in found["completed"]["text"]
    _check_usage(found["completed"], aligned=False)


@pytest.mark.parametrize("way", ["unknownModel", "unknownModelStreamed"])
def test_unknown_model_raises_the_clients_error(found: Found, way: str) -> None:
    error = found[way]
    assert (error["known"], error["status"], error["retryable"]) == (True, 404, False)
    assert "no-such-model" in error["text"], "the SDK took the message from the body"
