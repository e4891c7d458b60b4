"""Guards the Responses API: requests are translated for a base model, and injected into for a chat model."""

import asyncio
from typing import Any

import openai
import orjson
import pytest

from proxy.openai.sse import event_data
from tests.faults.scripted import Received, Reply, completion, completion_events, scripted_backend
from tests.proxy.serving import serving


async def both(reply: Reply, request: Received) -> None:
    """Send the same answer, as a stream or in one piece."""
    if not request.json.get("stream"):
        await reply.whole(completion("Because of air."))
        return
    await reply.begin()
    for event in completion_events(["Because", " of", " air."]):
        await reply.chunk(event)
    await reply.end()


async def test_base_model_answers_responses_requests_of_the_openai_client() -> None:
    async with scripted_backend(both) as backend, serving(backend.url) as proxy:
        async with openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="any", max_retries=0) as client:
            reply = await client.responses.create(
                model="scripted", instructions="Be brief.", input="Why is the sky blue?", max_output_tokens=50
            )
    sent = backend.generating[0].json
    assert sent["prompt"].endswith("# Instructions:\nBe brief.\n\n# Query:\nWhy is the sky blue?\n\n# Answer:\n")
    assert (sent["max_tokens"], "input" in sent, "instructions" in sent) == (50, False, False)
    assert (reply.output_text, reply.status, reply.instructions) == ("Because of air.", "completed", "Be brief.")
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (5, 3)


async def test_streamed_response_is_numbered_and_ends_with_the_complete_response() -> None:
    async with scripted_backend(both) as backend, serving(backend.url) as proxy:
        async with openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="any", max_retries=0) as client:
            stream = await client.responses.create(model="scripted", input="Why is the sky blue?", stream=True)
            events = [event async for event in stream]
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[4:] == ["output_text.delta"] * 3 + [
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last: Any = events[-1]
    assert last.response.output_text == "Because of air."
    assert last.response.usage.output_tokens == 3


async def test_response_that_reached_its_length_limit_is_incomplete() -> None:
    async def script(reply: Reply, request: Received) -> None:
        await reply.whole(completion("Because", "length"))

    async with scripted_backend(script) as backend, serving(backend.url) as proxy:
        _, _, reply = await proxy.post("/v1/responses", {"model": "scripted", "input": "hi"})
    assert (reply["status"], reply["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


async def test_response_stream_that_is_cut_ends_as_a_failed_response() -> None:
    async def script(reply: Reply, request: Received) -> None:
        await reply.begin()
        await reply.chunk(completion_events(["Because", " of"])[0])
        await reply.end()

    async with scripted_backend(script) as backend, serving(backend.url) as proxy:
        stream = await proxy.stream("/v1/responses", input="hi")
    last = stream.rstrip(b"\n").split(b"\n\n")[-1]
    assert last.startswith(b"event: response.failed\n")
    failed = orjson.loads(event_data(last + b"\n\n"))["response"]
    assert (failed["status"], failed["error"]["code"]) == ("failed", "backend_protocol")
    assert failed["output"][0]["content"][0]["text"] == "Because"
    assert b"response.completed" not in stream


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"n": 2}, "n"),
        ({"input": []}, "input"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input"),
        ({"input": "hi", "tools": [{"type": "web_search"}]}, "tools"),
    ],
)
async def test_request_that_a_base_model_cannot_serve_is_400(fields: dict[str, Any], param: str) -> None:
    async with scripted_backend(both) as backend, serving(backend.url) as proxy:
        status, _, reply = await proxy.post("/v1/responses", {"model": "scripted", "input": "hi", **fields})
        assert (status, reply["error"]["param"], backend.generating) == (400, param, [])


ASKED = {"role": "user", "content": [{"type": "input_text", "text": "Why is the sky blue?"}]}
AGAIN = {"role": "user", "content": [{"type": "input_text", "text": "And at night?"}]}


@pytest.mark.parametrize(
    "earlier",
    [
        [{"role": "assistant", "content": [{"type": "output_text", "text": "Air."}], "id": "msg_1"}],
        [{"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
          "content": [{"type": "output_text", "text": "Air.", "annotations": [], "logprobs": []}]}],
        [{"type": "reasoning", "summary": [], "encrypted_content": "gA"}, {"role": "assistant", "content": "Air."}],
        [{"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
         {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "Air."}]}],
    ],
    ids=["vercel", "openai-agents", "encrypted-reasoning", "refusal"],
)  # fmt: skip
async def test_earlier_answer_is_read_in_each_form_that_clients_send(earlier: list[Any]) -> None:
    async with scripted_backend(both) as backend, serving(backend.url) as proxy:
        status, _, reply = await proxy.post("/v1/responses", {"model": "scripted", "input": [ASKED, *earlier, AGAIN]})
        assert (status, reply["store"], reply["previous_response_id"]) == (200, False, None)
        turns = "Why is the sky blue?\n\n# Answer:\nAir.\n\n# Query:\nAnd at night?\n\n# Answer:\n"
        assert backend.generating[0].json["prompt"].endswith(turns)


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({"type": "item_reference", "id": "msg_1"}, "store: false"),
        ({"id": "msg_1"}, "store: false"),
        ({"id": "msg_1", "type": None}, "store: false"),
        ({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}, "'function_call'"),
        ({"type": "function_call_output", "call_id": "c", "output": "x"}, "'function_call_output'"),
        ({"type": "compaction", "encrypted_content": "gA"}, "'compaction'"),
        ({"type": "message", "content": "hi"}, "needs a `role`"),
        ({"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}, "'input_file'"),
        ({"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}, "'input_image'"),
        ({"role": "user", "content": [{"type": "input_text"}]}, "'input_text'"),
        ({"role": "user", "content": 7}, "content must be a string or a list of parts"),
        ({"role": "user", "content": {"type": "input_text", "text": "x"}}, "content must be a string"),
        ({"type": "x" * 1000}, "'xxxx"),
        ("hello", "not a text"),
    ],
)
async def test_item_that_a_base_model_cannot_read_is_named_with_its_remedy(item: object, says: str) -> None:
    body = {"model": "scripted", "instructions": "Be brief.", "input": [ASKED, item, AGAIN]}
    async with scripted_backend(both) as backend, serving(backend.url) as proxy:
        status, _, reply = await proxy.post("/v1/responses", body)
        assert (status, reply["error"]["param"], backend.generating) == (400, "input", [])
        assert reply["error"]["message"].startswith("input[1]")
        assert says in reply["error"]["message"]
        assert len(reply["error"]["message"]) < 400


async def test_chat_model_gets_the_prompt_as_instructions_and_examples_as_input() -> None:
    async with scripted_backend(both, kind="chat") as backend, serving(backend.url) as proxy:
        body = {"model": "scripted", "input": "Why is the sky blue?", "instructions": "Be brief.", "future": 1}
        await proxy.post("/v1/responses", body)
        sent = backend.generating[0].json
        assert sent["instructions"] == "Answer well.\n\nBe brief."
        assert [item["role"] for item in sent["input"]] == ["user", "assistant"] * 3 + ["user"]
        assert (sent["future"], sent["max_output_tokens"]) == (1, 100)
        await proxy.post("/v1/responses", {**body, "model": "scripted@raw"})
        assert backend.generating[1].json == body
        _, headers, _ = await proxy.post("/v1/responses", {**body, "previous_response_id": "resp_1"})
        assert headers["x-drpo-reduced"] == "previous_response"
        await proxy.post("/v1/responses", {"model": "scripted", "prompt": {"id": "stored"}})
        sent = backend.generating[-1].json
        assert (sent["instructions"], sent["prompt"], "input" in sent) == ("Answer well.", {"id": "stored"}, False)


async def test_response_stream_of_a_chat_model_is_relayed_unchanged() -> None:
    events = [
        b'event: response.created\ndata: {"type":"response.created"}\n\n',
        b'event: response.completed\ndata: {"type":"response.completed","response":{}}\n\n',
    ]

    async def script(reply: Reply, request: Received) -> None:
        await reply.begin()
        for event in events:
            await reply.chunk(event)
            await asyncio.sleep(0)
        await reply.end()

    async with scripted_backend(script, kind="chat") as backend, serving(backend.url) as proxy:
        assert await proxy.stream("/v1/responses", input="hi") == b"".join(events)
        assert "stream_options" not in backend.generating[0].json


ODD_FRAMES: list[dict[str, Any]] = [
    {"model": None, "created": None},
    {"model": 5, "created": "yesterday"},
    {"model": "", "created": True},
    {"usage": {"prompt_tokens": None, "completion_tokens": "3", "total_tokens": 1e300}},
    {"usage": {"prompt_tokens": -1, "completion_tokens": 3.5, "prompt_tokens_details": {"cached_tokens": "many"}}},
    {"usage": {"completion_tokens": 3, "prompt_tokens_details": [1]}},
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", ODD_FRAMES, ids=repr)
async def test_response_has_a_model_a_time_and_counts_whatever_the_backend_sends(
    fields: dict[str, Any], *, stream: bool
) -> None:
    """Clients that check the types of a response, such as the AI SDK, refuse the answer if one of them is missing."""

    async def script(reply: Reply, request: Received) -> None:
        if not stream:
            return await reply.whole({**completion("Yes."), **fields})
        await reply.begin()
        for event in completion_events(["Yes", "."])[:-1]:
            await reply.chunk(b"data: " + orjson.dumps({**orjson.loads(event[6:]), **fields}) + b"\n\n")
        return await reply.end()

    async with scripted_backend(script) as backend, serving(backend.url) as proxy:
        if stream:
            events = (await proxy.stream("/v1/responses", input="hi")).split(b"\n\n")[:-1]
            responses = [orjson.loads(event_data(one + b"\n\n")).get("response") for one in events]
        else:
            responses = [(await proxy.post("/v1/responses", {"model": "scripted", "input": "hi"}))[2]]
    for response in filter(None, responses):
        assert (response["model"], type(response["created_at"])) == ("scripted", int)
        if usage := response["usage"]:
            counts = [usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]]
            assert [type(count) for count in (*counts, usage["input_tokens_details"]["cached_tokens"])] == [int] * 4
            assert counts[2] == counts[0] + counts[1]
