"""Tests that the proxy changes only what it must in requests and replies, however the network splits their bytes.

The tests generate many requests. They compute the expected results themselves, without the code under test.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.scripted import Received, Reply, ScriptedBackend, completion, completion_events, scripted_backend
from tests.proxy.serving import Serving, serving
from tests.random_examples import examples

SAMPLING: Final = {"max_tokens": 100, "frequency_penalty": 0.4}  # sampling of the bundle that all these tests serve
CHAT_ALONE: Final = {
    *("messages", "max_completion_tokens", "top_logprobs", "tool_choice", "function_call", "parallel_tool_calls"),
    *("modalities", "add_generation_prompt", "continue_final_message", "chat_template", "chat_template_kwargs"),
}
RENAMED: Final = {"model", "prompt", "max_tokens", "stop", "logprobs", "stream_options"}

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False, width=32)
anything = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)
objects = st.dictionaries(words, anything, max_size=3)
fraction = st.floats(0, 2, width=32)
tool = st.fixed_dictionaries({"type": st.just("function"), "function": st.fixed_dictionaries({"name": words})})
schema = st.fixed_dictionaries({"type": st.just("json_schema"), "json_schema": objects})

FIELDS: Final[Mapping[str, st.SearchStrategy[Any]]] = {
    **dict.fromkeys(("temperature", "top_p", "frequency_penalty", "presence_penalty"), fraction),
    **dict.fromkeys(("min_p", "repetition_penalty", "length_penalty"), fraction),
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "top_logprobs", "n"), st.integers(1, 20)),
    **dict.fromkeys(("seed", "top_k", "priority", "min_tokens"), st.integers(-(2**31), 2**31)),
    **dict.fromkeys(("stream", "logprobs", "store", "ignore_eos", "parallel_tool_calls"), st.booleans()),
    **dict.fromkeys(("skip_special_tokens", "add_generation_prompt", "return_token_ids"), st.booleans()),
    **dict.fromkeys(("user", "service_tier", "reasoning_effort", "cache_salt", "verbosity", "request_id"), words),
    **dict.fromkeys(("logit_bias", "metadata", "chat_template_kwargs", "vllm_xargs", "prediction"), objects),
    "stop": words.filter(bool) | st.lists(words.filter(bool), max_size=4),
    "stop_token_ids": st.lists(st.integers(0, 9), max_size=3),
    "stream_options": st.dictionaries(st.sampled_from(["include_usage", "future"]), st.booleans()),
    "response_format": st.just({"type": "text"}) | st.just({"type": "json_object"}) | schema,
    "structured_outputs": st.fixed_dictionaries({"json": objects}),
    "modalities": st.just(["text"]),
}
TOOLS: Final = {"tools": st.lists(tool, min_size=1, max_size=2), "tool_choice": st.sampled_from(["auto", "none"])}
TAKEN: Final = {
    *FIELDS,
    *TOOLS,
    *CHAT_ALONE,
    "model",
    "prompt",
    "functions",
    "audio",
    "echo",
    "suffix",
    "prompt_embeds",
}
STRUCTURED: Final = {"guided_json", "guided_regex", "guided_choice", "guided_grammar", "grammar", "text"}

content = words | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": words}), min_size=1, max_size=3)
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant"]), "content": content},
    optional={"name": words},
)
conversation = st.lists(message, min_size=1, max_size=4)
unknown = st.dictionaries(words.filter(lambda name: name not in TAKEN | STRUCTURED), anything, max_size=3)


def bodies(**more: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Generate chat requests with any of the known fields, each of which may be null, and with some unknown fields."""
    fields = {name: st.none() | values for name, values in {**FIELDS, **more}.items()}
    known = st.fixed_dictionaries({"messages": conversation}, optional=fields)
    return st.builds(lambda known, unknown: {**unknown, **known, "model": "scripted"}, known, unknown)


async def _answer(reply: Reply, request: Received) -> None:
    if request.json.get("stream"):
        await reply.begin()
        await reply.chunk(b"data: [DONE]\n\n")
        await reply.end()
    else:
        await reply.whole(completion("Yes."))


Posting = Callable[[dict[str, Any]], dict[str, Any]]


@contextmanager
def posting(kind: str) -> Iterator[Posting]:
    """Start a proxy, and a backend with a model of the given kind. Yield a function that posts a chat request.

    The function returns the body that the backend received.
    """

    @asynccontextmanager
    async def both() -> AsyncIterator[tuple[ScriptedBackend, Serving]]:
        async with scripted_backend(_answer, kind=kind, context=None) as backend, serving(backend.url) as proxy:
            yield backend, proxy

    with asyncio.Runner() as runner:
        manager = both()
        backend, proxy = runner.run(manager.__aenter__())

        def post(body: dict[str, Any]) -> dict[str, Any]:
            status, reply = runner.run(_post(proxy, body))
            assert status == 200, reply
            return backend.generating[-1].json

        try:
            yield post
        finally:
            runner.run(manager.__aexit__(None, None, None))


async def _post(proxy: Serving, body: Mapping[str, Any], path: str = "/v1/chat/completions") -> tuple[int, bytes]:
    headers = {"Content-Type": "application/json"}
    async with proxy.session.post(path, data=json.dumps(body), headers=headers) as response:
        return response.status, await response.read()


def with_usage(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body as the proxy must send it: with a request for token counts if the client wants a stream."""
    options = body.get("stream_options") or {}
    if body.get("stream") is not True or options.get("include_usage"):
        return dict(body)
    return {**body, "stream_options": {**options, "include_usage": True}}


def with_sampling(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body with the bundle's sampling for fields that the client left out.

    If the client sets max_tokens or max_completion_tokens, the bundle's max_tokens is not used.
    """
    silent = {name: value for name, value in SAMPLING.items() if body.get(name) is None}
    if body.get("max_completion_tokens") is not None:
        silent.pop("max_tokens", None)
    return {**body, **silent}


REFUSAL: Final = [
    {"role": "user", "content": "How do I hurt someone?"},
    {"role": "assistant", "content": "I can't help with that."},
]
TURNS: Final = ("Query", "Answer", "Instructions")
FEW = examples(30, more=300)


def trying(number: int) -> settings:
    return settings(max_examples=number)


@FEW
def test_raw_chat_request_reaches_a_chat_backend_unchanged(number: int) -> None:
    with posting("chat") as post:

        @trying(number)
        @given(bodies(**TOOLS))
        def check(body: dict[str, Any]) -> None:
            assert post({**body, "model": "scripted@raw"}) == with_usage(body)

        check()


@FEW
def test_injection_changes_only_the_messages_of_a_chat_request(number: int) -> None:
    with posting("chat") as post:

        @trying(number)
        @given(bodies(**TOOLS))
        def check(body: dict[str, Any]) -> None:
            received = post(body)
            assert without(received, "messages") == without(with_usage(with_sampling(body)), "messages")
            opening, rest = _opening(sent_messages(body))
            assert received["messages"][0] == {"role": "system", "content": "\n\n".join(["Answer well.", *opening])}
            shown = received["messages"][1 : len(received["messages"]) - len(rest)]
            assert received["messages"][1 + len(shown) :] == rest
            assert shown[:2] == ([] if asks_for_json(body) and not may_call_tools(body) else REFUSAL)
            assert len(shown) % 2 == 0
            assert len(shown) <= 2 or examples_belong(body)

        check()


@FEW
def test_chat_request_for_a_base_model_keeps_all_fields_of_a_completion(number: int) -> None:
    with posting("completion") as post:

        @trying(number)
        @given(bodies())
        def check(body: dict[str, Any]) -> None:
            received = post(body)
            kept = {name: value for name, value in with_sampling(body).items() if name not in CHAT_ALONE | RENAMED}
            assert without(received, *RENAMED) == without(kept, *empty_form_fields(body))
            assert received["model"] == "scripted"
            assert received["max_tokens"] == (
                body.get("max_completion_tokens") or body.get("max_tokens") or SAMPLING["max_tokens"]
            )
            wanted = body.get("stop") or []
            mine = [wanted] if isinstance(wanted, str) else wanted
            assert set(received["stop"]) <= {*mine, *(f"\n\n# {turn}:\n" for turn in TURNS)}
            assert 3 <= len(received["stop"]) <= 4
            assert received.get("logprobs") == ((body.get("top_logprobs") or 0) if body.get("logprobs") else None)
            assert received.get("stream_options") == (with_usage(body) if body.get("stream") else {}).get(
                "stream_options"
            )

        check()


NONSENSE: Final = (
    0,
    -1,
    True,
    "",
    "x",
    [],
    [1],
    [None],
    [{}],
    {},
    {"type": []},
    {"include_usage": 1},
    {"format": 1},
    1e300,
)
READ: Final = (
    "messages",
    "input",
    "include",
    "instructions",
    "previous_response_id",
    "max_output_tokens",
    "text",
    "audio",
)
SANE: Final = {"role": "user", "content": "hi"}


def odd_requests() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield paths and bodies that have an invalid value in one field, or in one message."""
    sane: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": [SANE]},
        "/v1/completions": {"model": "scripted@aligned", "prompt": "hi"},
        "/v1/responses": {"input": [SANE]},
    }
    for path, body in sane.items():
        for name, value in itertools.product((*FIELDS, *TOOLS, *READ, "model"), NONSENSE):
            yield path, {**body, "stream": name == "stream_options", name: value}
    deep: Any = []
    for _ in range(600):
        deep = [deep]
    for path, body in (*sane.items(), ("/v1/embeddings", {"model": "scripted@raw"})):
        yield path, {**body, "future": deep}
    for wrong in ("abc", [1], {}, -1):
        yield "/v1/chat/completions", {"messages": [SANE], "logprobs": True, "top_logprobs": wrong}
    contents = (*NONSENSE, ["x"], [{"type": "text"}], [{"type": "text", "text": 1}], [{"type": [], "text": "x"}])
    for role, content in itertools.product(("user", "assistant", "system", "tool", None, [], {}), contents):
        odd = {"role": role, "content": content}
        yield "/v1/chat/completions", {"messages": [SANE, odd]}
        yield "/v1/responses", {"input": [odd, SANE]}


@pytest.mark.parametrize("kind", ["chat", "completion"])
async def test_invalid_value_in_any_field_is_a_client_error(kind: str) -> None:
    async with scripted_backend(_answer, kind=kind) as backend, serving(backend.url) as proxy:
        for path, body in odd_requests():
            status, reply = await _post(proxy, {"model": "scripted", **body}, path)
            assert status < 500, (path, body, reply)


def without(body: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in names}


def asks_for_json(body: Mapping[str, Any]) -> bool:
    """Return True if the client asks for a form of the answer that a refusal in prose contradicts."""
    return (body.get("response_format") or {}).get("type", "text") != "text" or bool(body.get("structured_outputs"))


def may_call_tools(body: Mapping[str, Any]) -> bool:
    """Return True if the model may call a tool instead of answering."""
    return bool(body.get("tools")) and body.get("tool_choice") != "none"


def empty_form_fields(body: Mapping[str, Any]) -> list[str]:
    """Return the fields for the form of an answer that ask for no form. Some servers refuse them."""
    plain = (body.get("response_format") or {}).get("type", "text") == "text"
    empty = {"response_format": plain, "structured_outputs": not body.get("structured_outputs")}
    return [name for name, is_empty in empty.items() if is_empty]


def examples_belong(body: Mapping[str, Any]) -> bool:
    """Return True if the proxy may retrieve examples: the client wants a plain answer and gives no beginning of it."""
    messages = sent_messages(body)
    begins_anew = body.get("continue_final_message") is False or body.get("add_generation_prompt") is True
    is_begun = bool(messages) and messages[-1]["role"] == "assistant" and not begins_anew
    return not (asks_for_json(body) or may_call_tools(body) or is_begun)


def sent_messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the messages without empty assistant messages at the end, which count as absent."""
    messages = list(body["messages"])
    while len(messages) > 1 and messages[-1]["role"] == "assistant" and not _is_visible(_text(messages[-1])):
        messages.pop()
    return messages


def _opening(messages: list[dict[str, Any]]) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the texts of the system messages at the beginning, and all messages after these."""
    count = 0
    while count < len(messages) and messages[count]["role"] in ("system", "developer"):
        count += 1
    return [text for text in map(_text, messages[:count]) if text], messages[count:]


def _is_visible(text: str) -> bool:
    return any(character.isprintable() and not character.isspace() for character in text)


def _text(of: Mapping[str, Any]) -> str:
    return of["content"] if isinstance(of["content"], str) else "\n".join(part["text"] for part in of["content"])


CHAT_STREAM: Final = b"".join(
    [
        b": a comment\n\n",
        b'data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n',
        'data: {"id":"c","choices":[{"index":0,"delta":{"content":"größer 🫠"}}]}\r\n\r\n'.encode(),
        b'event: x\ndata: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"future":[null]}\n\n',
        b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}\n\n',
        b"data: [DONE]\n\n",
    ]
)
TEXT_STREAM: Final = b"".join(completion_events(["Be", "cause of 🫠 ", "air."]))


@pytest.mark.parametrize(("kind", "sent"), [("chat", CHAT_STREAM), ("completion", TEXT_STREAM)])
async def test_stream_split_at_any_byte_arrives_unchanged(kind: str, sent: bytes) -> None:
    async def script(reply: Reply, request: Received) -> None:
        at = request.json["seed"]  # the only field that differs between the requests
        await reply.begin()
        for part in (sent[:at], sent[at:]):
            if part:
                await reply.chunk(part)
                await asyncio.sleep(0.001)  # so that the proxy receives the two parts separately
        await reply.end()

    async with scripted_backend(script, kind=kind) as backend, serving(backend.url) as proxy:

        async def streamed(at: int) -> bytes:
            return await proxy.stream(stream_options={"include_usage": True}, seed=at)

        expected = await streamed(len(sent))
        if kind == "chat":
            assert expected == sent
        for some in batched(range(1, len(sent)), 8):  # several at once, because each request spends its time waiting
            assert await asyncio.gather(*map(streamed, some)) == [expected] * len(some), some


def batched(numbers: range, size: int) -> Iterator[range]:
    """Yield the numbers in their order, in batches of `size`."""
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


async def test_whole_reply_split_at_any_byte_arrives_unchanged() -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "größer 🫠"}, "finish_reason": "stop"}
    sent = orjson.dumps({"choices": [choice], "usage": None, "future": [None]})
    at = 0

    async def script(reply: Reply, request: Received) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
        await reply.send(head.encode() + sent[:at])
        await asyncio.sleep(0.001)
        await reply.send(sent[at:])

    body = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}]}
    async with scripted_backend(script, kind="chat") as backend, serving(backend.url) as proxy:
        for at in range(len(sent)):
            assert await _post(proxy, body) == (200, sent), at
