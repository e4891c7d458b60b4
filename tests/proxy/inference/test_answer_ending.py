"""Tests of empty messages, of messages without words, and of where the model begins to write."""

from typing import Any

import pytest

from tests.faults.scripted import Received, Reply, completion, scripted_backend
from tests.proxy.serving import serving

USER = {"role": "user", "content": "Why is the sky blue?"}
OPENED = "# Query:\nWhy is the sky blue?\n\n# Answer:\n"
EMPTY: tuple[dict[str, Any], ...] = (
    {"content": ""},
    {"content": " \n"},
    {"content": "\u200b"},
    {"content": None},
    {},
    {"content": []},
    {"content": [{"type": "text", "text": ""}]},
    {"content": None, "refusal": None, "tool_calls": []},
)


async def answer(reply: Reply, request: Received) -> None:
    await reply.whole(completion("Because of air."))


async def asked(kind: str, path: str = "/v1/chat/completions", **fields: Any) -> tuple[int, Any, Any]:
    """Return the status, the headers, and the body that the backend received (or the reply if it received none)."""
    async with scripted_backend(answer, kind=kind) as backend, serving(backend.url) as proxy:
        status, headers, reply = await proxy.post(path, {"model": "scripted", **fields})
        return status, headers, backend.generating[-1].json if backend.generating else reply


@pytest.mark.parametrize("empty", EMPTY)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", ["completion", "chat"])
async def test_empty_assistant_message_at_the_end_counts_as_absent(
    kind: str, count: int, empty: dict[str, Any]
) -> None:
    messages = [USER, *[{"role": "assistant", **empty}] * count]
    _, usual, expected = await asked(kind, messages=[USER])
    status, headers, sent = await asked(kind, messages=messages)
    assert (status, sent) == (200, expected)
    assert headers["x-drpo-examples"] == usual["x-drpo-examples"] != "refuse"
    assert "x-drpo-reduced" not in headers


@pytest.mark.parametrize("content", ["", [{"type": "output_text", "text": ""}], None, "\n"])
@pytest.mark.parametrize("kind", ["completion", "chat"])
async def test_empty_assistant_item_of_the_responses_api_counts_as_absent(kind: str, content: Any) -> None:
    items = [USER, {"type": "message", "role": "assistant", "content": content}]
    _, usual, expected = await asked(kind, "/v1/responses", input=[USER])
    status, headers, sent = await asked(kind, "/v1/responses", input=items)
    assert (status, sent) == (200, expected)
    assert headers["x-drpo-examples"] == usual["x-drpo-examples"]


async def test_raw_text_does_not_end_with_an_empty_message() -> None:
    _, _, sent = await asked("completion", model="scripted@raw", messages=[USER, {"role": "assistant", "content": ""}])
    assert sent["prompt"] == "Why is the sky blue?"


async def test_empty_answer_in_the_middle_is_no_example_of_an_answer() -> None:
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": ""}, USER]
    _, _, sent = await asked("completion", messages=messages)
    assert sent["prompt"].endswith("# Query:\nhello\n\n" + OPENED)
    _, _, sent = await asked("chat", messages=messages)
    assert sent["messages"][-3:] == messages


async def test_conversation_of_one_empty_message_is_answered() -> None:
    for kind in ("completion", "chat"):
        status, headers, _ = await asked(kind, messages=[{"role": "assistant", "content": ""}])
        assert (status, headers["x-drpo-examples"], headers["x-drpo-reduced"]) == (200, "refuse", "no_query")


@pytest.mark.parametrize(
    "unread",
    [
        {"content": "", "reasoning_content": "The user asks why."},
        {"content": None, "reasoning": "The user asks why."},
        {"content": " ", "audio": {"id": "audio_1"}},
        {"content": [], "reasoning": "The user asks why.", "refusal": ""},
    ],
)
async def test_message_without_text_that_a_base_model_reads_counts_as_absent(unread: dict[str, Any]) -> None:
    message = {"role": "assistant", **unread}
    _, usual, expected = await asked("completion", messages=[USER])
    _, headers, sent = await asked("completion", messages=[USER, message])
    assert (sent, headers["x-drpo-examples"]) == (expected, usual["x-drpo-examples"])
    _, _, sent = await asked("completion", messages=[{"role": "user", "content": "hello"}, message, USER])
    assert sent["prompt"].endswith("# Query:\nhello\n\n" + OPENED)
    _, headers, _ = await asked("chat", messages=[USER, message])
    assert headers["x-drpo-reduced"] == "prefill", "the chat template may write the reasoning"


@pytest.mark.parametrize("empty", EMPTY)
async def test_base_model_begins_the_answer_that_it_must_continue_if_it_is_empty(empty: dict[str, Any]) -> None:
    fields = {"continue_final_message": True, "add_generation_prompt": False}
    _, headers, sent = await asked("completion", messages=[USER, {"role": "assistant", **empty}], **fields)
    assert sent["prompt"].endswith(OPENED)
    assert headers["x-drpo-examples"].endswith("sky")


@pytest.mark.parametrize("content", [{}, 0, False, 5, True, {"text": "x"}])
async def test_content_that_is_no_text_is_400_on_a_base_model(content: Any) -> None:
    status, _, reply = await asked("completion", messages=[{"role": "user", "content": content}])
    assert (status, reply["error"]["message"]) == (400, "messages[0].content must be a string or a list of parts.")


async def test_chat_model_keeps_an_empty_message_that_it_must_continue() -> None:
    messages = [USER, {"role": "assistant", "content": ""}]
    fields = {"continue_final_message": True, "add_generation_prompt": False}
    _, headers, sent = await asked("chat", messages=messages, **fields)
    assert sent["messages"][-2:] == messages
    assert headers["x-drpo-examples"].endswith("sky")


async def test_refusal_in_the_history_is_text() -> None:
    refusal = {"role": "assistant", "content": None, "refusal": "I can't help with that."}
    _, _, sent = await asked("completion", messages=[USER, refusal, USER])
    assert sent["prompt"].endswith(OPENED + "I can't help with that.\n\n" + OPENED)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Translate to French: good morning"}],
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": " \n"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": "\u200b"}],
        [{"role": "user", "content": "?!"}],
        [{"role": "user", "content": "---"}, {"role": "assistant", "content": "Hi."}, {"role": "user", "content": ""}],
        [{"role": "user", "content": [{"type": "text", "text": ""}]}],
    ],
)
@pytest.mark.parametrize("kind", ["completion", "chat"])
async def test_nothing_is_retrieved_for_a_conversation_without_words(kind: str, messages: list[Any]) -> None:
    status, headers, _ = await asked(kind, messages=messages)
    assert (status, headers["x-drpo-examples"], headers["x-drpo-reduced"]) == (200, "refuse", "no_query")


async def test_nothing_is_retrieved_for_an_image_alone() -> None:
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}
    _, headers, _ = await asked("chat", messages=[image])
    assert (headers["x-drpo-examples"], headers["x-drpo-reduced"]) == ("refuse", "no_query")


@pytest.mark.parametrize("first", ["", "?", "\u200b", "..."])
async def test_first_user_message_with_words_is_the_query(first: str) -> None:
    messages = [{"role": "user", "content": first}, {"role": "assistant", "content": "Yes?"}, USER]
    _, headers, _ = await asked("completion", messages=messages)
    assert headers["x-drpo-examples"].endswith("sky")


async def test_empty_prompt_of_a_text_completion_has_no_query() -> None:
    _, headers, _ = await asked("completion", "/v1/completions", model="scripted@aligned", prompt=" ")
    assert (headers["x-drpo-examples"], headers["x-drpo-reduced"]) == ("refuse", "no_query")


PREFILL = {"role": "assistant", "content": "Because"}


@pytest.mark.parametrize(
    ("fields", "last", "end", "reduced"),
    [
        ({}, PREFILL, OPENED + "Because", "prefill"),
        ({"add_generation_prompt": False}, PREFILL, OPENED + "Because", "prefill"),
        ({"continue_final_message": True}, PREFILL, OPENED + "Because", "prefill"),
        ({"continue_final_message": True, "add_generation_prompt": False}, PREFILL, OPENED + "Because", "prefill"),
        ({"continue_final_message": None, "add_generation_prompt": None}, PREFILL, OPENED + "Because", "prefill"),
        ({"continue_final_message": False}, PREFILL, OPENED + "Because\n\n# Answer:\n", None),
        ({"add_generation_prompt": True}, PREFILL, OPENED + "Because\n\n# Answer:\n", None),
        (
            {"continue_final_message": False, "add_generation_prompt": True},
            PREFILL,
            OPENED + "Because\n\n# Answer:\n",
            None,
        ),
        ({"continue_final_message": False, "add_generation_prompt": False}, PREFILL, OPENED + "Because\n\n", None),
        ({"continue_final_message": False}, None, OPENED, None),
        ({"add_generation_prompt": False}, None, OPENED.removesuffix("# Answer:\n"), None),
        ({"continue_final_message": True}, None, OPENED.removesuffix("\n\n# Answer:\n"), "prefill"),
    ],
)
async def test_model_begins_to_write_where_the_client_says(
    fields: dict[str, Any], last: Any, end: str, reduced: str | None
) -> None:
    messages = [USER, *([last] if last else [])]
    status, headers, sent = await asked("completion", messages=messages, **fields)
    assert (status, headers.get("x-drpo-reduced")) == (200, reduced)
    assert sent["prompt"].endswith(end)
    _, headers, sent = await asked("chat", messages=messages, **fields)
    assert {name: sent[name] for name in fields} == fields, "a chat model's server decides itself"
    assert headers.get("x-drpo-reduced") == reduced


async def test_two_fields_that_contradict_each_other_are_400() -> None:
    fields = {"continue_final_message": True, "add_generation_prompt": True}
    status, _, reply = await asked("completion", messages=[USER, PREFILL], **fields)
    assert (status, reply["error"]["param"]) == (400, "continue_final_message")
    assert "Cannot set both" in reply["error"]["message"]


@pytest.mark.parametrize("name", ["continue_final_message", "add_generation_prompt"])
async def test_raw_text_has_a_new_paragraph_for_a_new_answer(name: str) -> None:
    fields = {name: name == "add_generation_prompt"}
    _, _, sent = await asked("completion", model="scripted@raw", messages=[USER, PREFILL], **fields)
    assert sent["prompt"] == "Why is the sky blue?\n\nBecause\n\n"
