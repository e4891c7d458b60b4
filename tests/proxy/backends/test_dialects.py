"""Guards that what a client asks for in vLLM's words is asked of llama.cpp in its own."""

import pytest

from proxy.backends.dialects import llama_request
from proxy.core.errors import BadRequestError

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"prompt": "p", "logprobs": 0}, {"prompt": "p", "logprobs": 1}),
        ({"logprobs": 5}, {"logprobs": 5}),
        ({"logprobs": "abc"}, {"logprobs": "abc"}),
        ({"repetition_penalty": 1.1}, {"repeat_penalty": 1.1}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"json_schema": {"type": "object"}}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
            {"json_schema": SCHEMA},
        ),
        ({"structured_outputs": {"json": SCHEMA}}, {"json_schema": SCHEMA}),
    ],
)
def test_request_is_put_in_llama_cpps_words(request_: dict[str, object], expected: dict[str, object]) -> None:
    assert llama_request(request_) == expected


@pytest.mark.parametrize(
    "request_",
    [
        {"structured_outputs": {"regex": "a"}},
        {"response_format": {"type": "odd"}},
        {"response_format": {"type": "json_schema"}},
        {"response_format": "json"},
        {"structured_outputs": 5},
    ],
)
def test_form_that_it_does_not_know_is_refused_rather_than_ignored(request_: dict[str, object]) -> None:
    with pytest.raises(BadRequestError):
        llama_request(request_)
