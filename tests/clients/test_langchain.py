"""LangChain (langchain-openai) talks to the proxy: chat, streams, schemas, logprobs, responses, completions."""

from typing import Any

import pytest

from tests.clients.answers import LIMIT, check_answer, check_city, check_pieces, check_usage
from tests.clients.conftest import PROGRAMS, Results
from tests.clients.environments import python_of
from tools.steps import Say

Found = dict[str, Any]


@pytest.fixture(scope="module")
def found(results: Results, say: Say) -> Found:
    return results([str(python_of("langchain", say)), str(PROGRAMS / "langchain_user.py")])


def _check_usage(answer: Found, *, aligned: bool = True) -> None:
    usage = answer["usage"]
    check_usage(usage["input_tokens"], usage["output_tokens"], usage["total_tokens"], aligned=aligned)


@pytest.mark.parametrize("way", ["invoked", "responses"])
def test_answer_has_its_usage(found: Found, way: str) -> None:
    answer = found[way]
    check_answer(answer["text"])
    _check_usage(answer)
    assert answer["type"] == "AIMessage"
    assert answer["metadata"]["model_name"] == "google/gemma-3-270m"
    ended = {"stop", "completed"} if answer["usage"]["output_tokens"] < LIMIT else {"length", "incomplete"}
    assert ended & {value for value in answer["metadata"].values() if isinstance(value, str)}


@pytest.mark.parametrize("way", ["streamed", "responses_streamed"])
def test_chunks_of_a_stream_join_to_the_answer(found: Found, way: str) -> None:
    answer = found[way]
    check_answer(answer["text"])
    check_pieces(answer["pieces"], answer["text"])
    _check_usage(answer)


def test_conversation_with_a_system_message_is_continued(found: Found) -> None:
    assert "France" in found["conversation"]["text"]
    _check_usage(found["conversation"])


def test_answer_follows_a_schema_and_is_parsed(found: Found) -> None:
    assert found["structured"].pop("type") == "City"
    check_city(found["structured"])


def test_logprobs_have_the_alternatives_that_were_asked_for(found: Found) -> None:
    tokens = found["logprobs"]
    check_answer("".join(token["token"] for token in tokens))
    assert all(len(token["top_logprobs"]) == 2 for token in tokens)
    assert all(bytes(token["bytes"]).decode() == token["token"] for token in tokens)


@pytest.mark.parametrize("way", ["raw", "raw_by_header"])
def test_raw_variant_injects_nothing(found: Found, way: str) -> None:
    _check_usage(found[way], aligned=False)
    assert found[way]["text"] != found["invoked"]["text"]


def test_text_completion_continues_its_prompt(found: Found) -> None:
    assert "France" in found["completed"]
    check_pieces(found["completed_pieces"], found["completed"])


def test_unknown_model_raises_the_clients_not_found_error(found: Found) -> None:
    error = found["unknown_model"]
    assert "NotFoundError" in error["kinds"]
    assert (error["status"], error["code"]) == (404, "model_not_found")
    assert "no-such-model" in error["text"]


def test_tools_on_a_base_model_are_the_clients_own_bad_request_error(found: Found) -> None:
    assert "BadRequestError" in found["tools"]["kinds"]
    assert "Use a chat model" in found["tools"]["text"]
