"""OpenAI's own package for JavaScript talks to the proxy."""

from pathlib import Path
from typing import Any

import pytest

from tests.clients.answers import check_answer, check_end, check_pieces, check_usage
from tests.clients.conftest import Results

Found = dict[str, Any]


@pytest.fixture(scope="module")
def found(node_folder: Path, results: Results) -> Found:
    return results(["node", str(node_folder / "openai_user.mjs")])


def _check_usage(usage: Found, *, aligned: bool = True) -> None:
    check_usage(usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"], aligned=aligned)


def test_answer_has_its_usage(found: Found) -> None:
    answer = found["chat"]
    check_answer(answer["content"])
    _check_usage(answer["usage"])
    check_end(answer["finishReason"], answer["usage"]["completion_tokens"])
    assert (answer["role"], answer["variant"]) == ("assistant", "aligned")


def test_stream_has_several_chunks_and_usage_only_on_request(found: Found) -> None:
    for way in ("streamed", "streamedWithUsage"):
        text = "".join(found[way]["pieces"])
        check_answer(text)
        check_pieces(found[way]["pieces"], text)
    assert found["streamed"]["usage"] is None
    _check_usage(found["streamedWithUsage"]["usage"])


def test_stream_of_two_choices_gives_two_messages(found: Found) -> None:
    assert [choice["index"] for choice in found["gathered"]] == [0, 1]
    assert all(choice["role"] == "assistant" and choice["content"].strip() for choice in found["gathered"])


def test_responses_api_answers_with_and_without_a_stream(found: Found) -> None:
    answer = found["response"]
    check_answer(answer["text"])
    check_answer(answer["streamed"])
    usage = answer["usage"]
    check_end(answer["status"], usage["output_tokens"], ended="completed", cut="incomplete")
    check_usage(usage["input_tokens"], usage["output_tokens"], usage["total_tokens"], aligned=True)


def test_text_completion_continues_its_prompt(found: Found) -> None:
    assert "France" in found["completed"]["text"]
    _check_usage(found["completed"]["usage"], aligned=False)


def test_models_are_listed_and_found_by_their_suffixed_names(found: Found) -> None:
    name = "google/gemma-3-270m"
    assert found["models"] == [name, f"{name}@aligned", f"{name}@raw"]
    assert found["model"] == f"{name}@raw"


def test_errors_are_the_clients_own(found: Found) -> None:
    model, variant = found["unknownModel"], found["unknownVariant"]
    assert (model["type"], model["status"], model["code"]) == ("NotFoundError", 404, "model_not_found")
    assert (variant["type"], variant["status"]) == ("BadRequestError", 400)
    assert "aligned, raw, raw-matched" in variant["text"]
