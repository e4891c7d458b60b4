"""Guards the stop strings that the backend does not get: they never reach the client, and no other text is lost."""

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from proxy.openai.stop_strings import StopCutter, cut_completion, split_stop_strings
from tests.faults.scripted import Received, Reply, scripted_backend
from tests.proxy.serving import serving

LAYOUT = ["\n\n# Query:", "\n# Query:", "\n\n# Answer:", "\n# Answer:"]
TEXTS = st.lists(st.sampled_from(["a", "b", "ab", "\n", "# ", "Query:", "END", "EN", "D"]), max_size=30).map("".join)
STOPS = st.lists(st.sampled_from(["ab", "END", "\n# Query:", "\n\n", "b# "]), min_size=1, max_size=4)


def expected(text: str, stops: list[str]) -> tuple[str, str]:
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], "stop") if places else (text, "length")


@given(TEXTS, STOPS, st.data())
def test_stream_is_cut_at_the_same_position_as_a_complete_reply(text: str, stops: list[str], data: Any) -> None:
    whole = cut_completion({"choices": [{"index": 0, "text": text, "finish_reason": "length"}]}, stops)["choices"][0]
    assert (whole["text"], whole["finish_reason"]) == expected(text, stops)
    places = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]
    cutter = StopCutter(stops)
    shown = [
        choice
        for number, piece in enumerate(pieces)
        for choice in cutter.cut({"choices": [_choice(piece, last=number == len(pieces) - 1)]})["choices"]
    ]
    assert "".join(choice["text"] for choice in shown) == whole["text"]
    assert [choice["finish_reason"] for choice in shown if choice["finish_reason"]] == [whole["finish_reason"]]


def _choice(text: str, *, last: bool) -> dict[str, Any]:
    return {"index": 0, "text": text, "finish_reason": "length" if last else None}


def test_each_choice_and_its_logprobs_are_cut_separately() -> None:
    logprobs = {"tokens": ["a", "b", "EN", "D!"], "token_logprobs": [-1.0, -2.0, -3.0, -4.0], "top_logprobs": None}
    choices = [
        {"index": 0, "text": "abEND!", "logprobs": logprobs, "finish_reason": "length", "stop_reason": None},
        {"index": 1, "text": "other", "logprobs": None, "finish_reason": "length", "stop_reason": None},
    ]
    first, second = cut_completion({"choices": choices}, ["END"])["choices"]
    assert (first["text"], first["finish_reason"], first["stop_reason"]) == ("ab", "stop", "END")
    assert first["logprobs"] == {"tokens": ["a", "b"], "token_logprobs": [-1.0, -2.0], "top_logprobs": None}
    assert second == choices[1]


@given(st.lists(st.text(min_size=1), max_size=8))
def test_backend_gets_stop_strings_up_to_its_limit_and_the_proxy_the_rest(client: list[str]) -> None:
    backends, proxys = split_stop_strings(LAYOUT, client, 4)
    assert sorted([*backends, *proxys]) == sorted([*LAYOUT, *client])
    assert len(backends) <= 4 or len(client) > 4
    assert backends[:2] == LAYOUT[:2], "the stop strings for the next question come first"
    assert split_stop_strings(LAYOUT, client, None) == ([*LAYOUT, *client], ())


async def ramble(reply: Reply, request: Received) -> None:
    """Send an answer that continues after the client's fourth stop string, which the backend did not get."""
    frame: dict[str, Any] = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "scripted"}
    usage = {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14}
    pieces = ["One, ", "two", ", FO", "UR five ", "six"]
    if not request.json.get("stream"):
        choice = {"index": 0, "text": "".join(pieces), "logprobs": None, "finish_reason": "length"}
        await reply.whole({**frame, "choices": [choice], "usage": usage})
        return
    await reply.begin()
    for number, text in enumerate(pieces):
        reason = "length" if number == len(pieces) - 1 else None
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
        await reply.chunk(_event({**frame, "choices": [choice]}))
    await reply.chunk(_event({**frame, "choices": [], "usage": usage}) + b"data: [DONE]\n\n")
    await reply.end()


def _event(payload: object) -> bytes:
    return b"data: " + orjson.dumps(payload) + b"\n\n"


async def test_four_stop_strings_of_a_client_work_besides_those_of_the_layout() -> None:
    fields = {"stop": ["W", "X", "Y", "FOUR"]}
    async with scripted_backend(ramble) as backend, serving(backend.url) as proxy:
        _, _, reply = await proxy.chat(**fields)
        assert backend.generating[-1].json["stop"] == ["\n\n# Query:", "\n# Query:", "W", "X"]
        assert reply["choices"][0]["message"]["content"] == "One, two, "
        assert reply["choices"][0]["finish_reason"] == "stop"
        assert reply["usage"]["completion_tokens"] == 9, "the usage does not include the generated tokens"
        events = (await proxy.stream(**fields, stream_options={"include_usage": True})).split(b"\n\n")
        chunks = [orjson.loads(event.removeprefix(b"data: ")) for event in events[:-2]]
        texts = [choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]]
        reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
        assert "".join(texts) == "One, two, "
        assert reasons == [None] * (len(reasons) - 1) + ["stop"]
        assert chunks[-1]["usage"]["completion_tokens"] == 9
        assert events[-2:] == [b"data: [DONE]", b""]


async def test_completion_with_a_variant_is_cut_at_stop_strings() -> None:
    fields = {"model": "scripted@aligned", "prompt": "Count.", "stop": ["W", "X", "Y", "FOUR"]}
    async with scripted_backend(ramble) as backend, serving(backend.url) as proxy:
        _, _, reply = await proxy.post("/v1/completions", fields)
        assert (reply["choices"][0]["text"], reply["choices"][0]["finish_reason"]) == ("One, two, ", "stop")
        stream = await proxy.stream("/v1/completions", **fields)
        assert b"UR" not in stream
        assert b"two" in stream
        assert b'"usage"' not in stream
