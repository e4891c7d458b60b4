"""Guards that answers end at stop strings that the backend did not cut at, and that no other text is lost."""

import json
import re
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.layouts import LAYOUTS, stop_strings
from proxy.openai.stop_strings import StopCutter, StopRules, cut_completion, split_stop_strings
from tests.faults.scripted import Received, Reply, Script, scripted_backend
from tests.proxy.serving import serving

LAYOUT = ["\n\n# Query:\n", "\n\n# Answer:\n", "\n\n# Instructions:\n"]
TEXTS = st.lists(st.sampled_from(["a", "b", "ab", "\n", "# ", "Query:", "END", "EN", "D"]), max_size=30).map("".join)
STOPS = st.lists(st.sampled_from(["ab", "END", "\n# Query:", "\n\n", "b# "]), min_size=1, max_size=4)


def expected(text: str, stops: list[str]) -> tuple[str, str]:
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], "stop") if places else (text, "length")


CARRIAGE_RETURNS = ["a", "\r", "\n", "\r\n", "\n\n", "#", "# Query:", "\u200b", "\u200b Query:", " Query", " Answer:"]


@given(st.lists(st.sampled_from(CARRIAGE_RETURNS), max_size=20).map("".join), st.data())
def test_stream_with_carriage_returns_and_escapes_is_that_of_a_complete_reply(text: str, data: Any) -> None:
    rules = StopRules(tuple(LAYOUT), (), before="\n")
    whole = _whole(text, rules)
    assert _streamed(_pieces(text, data), rules) == whole["text"]
    assert "\u200b\u200b" in text or not re.search("\u200b(?= (Query|Answer):)", whole["text"])
    assert not re.search("(\r?\n){2}# (Query|Answer):\r?\n", text) or len(whole["text"]) < len(text)


FENCED = ["a", "\n", "\r\n", "\n```\n", "```", "`", "\n```py\n", "\n```\n\n# Query:\n", "\n\n", "# Answer:\n"]


@given(st.lists(st.sampled_from(FENCED), max_size=12).map("".join), st.data())
def test_stream_of_a_layout_with_a_fence_is_that_of_a_complete_reply(text: str, data: Any) -> None:
    rules = StopRules(stop_strings(LAYOUTS["urial"]), (), before="\n\n")
    whole = _whole(text, rules)
    assert _streamed(_pieces(text, data), rules) == whole["text"]
    fences = f"\n{text}".count("\n```")
    if re.search("\n```\\Z", f"\n{text}") and fences % 2 and "# " not in text:
        assert len(whole["text"]) < len(text)
        assert f"\n{whole['text']}".count("\n```") == fences - 1


@given(TEXTS, STOPS, st.data())
def test_stream_is_cut_at_the_same_position_as_a_complete_reply(text: str, stops: list[str], data: Any) -> None:
    rules = StopRules((), tuple(stops))
    whole = _whole(text, rules)
    assert (whole["text"], whole["finish_reason"]) == expected(text, stops)
    pieces = _pieces(text, data)
    cutter = StopCutter(rules)
    shown = [
        choice
        for number, piece in enumerate(pieces)
        for choice in cutter.cut({"choices": [_choice(piece, last=number == len(pieces) - 1)]})["choices"]
    ]
    assert "".join(choice["text"] for choice in shown) == whole["text"]
    assert [choice["finish_reason"] for choice in shown if choice["finish_reason"]] == [whole["finish_reason"]]


def _whole(text: str, rules: StopRules) -> dict[str, Any]:
    """Return the choice of a complete reply with this text."""
    choice: dict[str, Any]
    (choice,) = cut_completion({"choices": [_choice(text, last=True)]}, rules)["choices"]
    return choice


def _pieces(text: str, data: Any) -> list[str]:
    """Return the text in up to nine pieces, which may be empty."""
    places = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


def _streamed(pieces: Sequence[str], rules: StopRules) -> str:
    """Return the text of a stream that has these pieces. As in the proxy, an event that passes is not parsed."""
    cutter, shown = StopCutter(rules), ""
    for number, piece in enumerate(pieces, start=1):
        choices = [_choice(piece, last=number == len(pieces))]
        if cutter.passes(_event(choices[0])) and cutter.has_begun(choices):
            shown += piece
        else:
            shown += "".join(choice["text"] for choice in cutter.cut({"choices": choices})["choices"])
    return shown


def _choice(text: str, *, last: bool) -> dict[str, Any]:
    return {"index": 0, "text": text, "finish_reason": "length" if last else None}


def test_each_choice_and_its_logprobs_are_cut_separately() -> None:
    logprobs = {"tokens": ["a", "b", "EN", "D!"], "token_logprobs": [-1.0, -2.0, -3.0, -4.0], "top_logprobs": None}
    choices = [
        {"index": 0, "text": "abEND!", "logprobs": logprobs, "finish_reason": "length", "stop_reason": None},
        {"index": 1, "text": "other", "logprobs": None, "finish_reason": "length", "stop_reason": None},
    ]
    first, second = cut_completion({"choices": choices}, StopRules((), ("END",)))["choices"]
    assert (first["text"], first["finish_reason"], first["stop_reason"]) == ("ab", "stop", "END")
    assert first["logprobs"] == {"tokens": ["a", "b"], "token_logprobs": [-1.0, -2.0], "top_logprobs": None}
    assert second == choices[1]


@given(st.lists(st.text(min_size=1), max_size=8))
def test_backend_gets_stop_strings_up_to_its_limit_and_the_proxy_the_rest(client: list[str]) -> None:
    backends, proxys = split_stop_strings(LAYOUT, client, 4)
    assert {*backends, *proxys, *LAYOUT} == {*LAYOUT, *client}
    assert len(backends) <= 4 or len(client) > 4
    assert backends[0] == LAYOUT[0], "the stop string for the next question comes first"
    assert split_stop_strings(LAYOUT, client, None) == ([*LAYOUT, *client], ())


@given(TEXTS, st.lists(st.sampled_from(['"', "\\", "\n\n", "ü", "a", "END"]), min_size=1, max_size=3))
def test_event_that_passes_contains_no_beginning_of_a_stop_string(text: str, stops: list[str]) -> None:
    cutter = StopCutter(StopRules(tuple(LAYOUT), tuple(stops)))
    for event in (_event(_choice(text, last=False)), json.dumps(_choice(text, last=False)).encode()):
        if cutter.passes(event):
            assert not any(stop[0] in text for stop in (*LAYOUT, *stops))


FRAME: dict[str, Any] = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "scripted"}


async def ramble(reply: Reply, request: Received) -> None:
    """Send an answer that continues after the client's fourth stop string, which the backend did not get."""
    usage = {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14}
    pieces = ["One, ", "two", ", FO", "UR five ", "six"]
    if not request.json.get("stream"):
        choice = {"index": 0, "text": "".join(pieces), "logprobs": None, "finish_reason": "length"}
        await reply.whole({**FRAME, "choices": [choice], "usage": usage})
        return
    await reply.begin()
    for number, text in enumerate(pieces):
        reason = "length" if number == len(pieces) - 1 else None
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
        await reply.chunk(_event({**FRAME, "choices": [choice]}))
    await reply.chunk(_event({**FRAME, "choices": [], "usage": usage}) + b"data: [DONE]\n\n")
    await reply.end()


def _event(payload: object) -> bytes:
    return b"data: " + orjson.dumps(payload) + b"\n\n"


async def test_four_stop_strings_of_a_client_work_besides_those_of_the_layout() -> None:
    fields = {"stop": ["W", "X", "Y", "FOUR"]}
    async with scripted_backend(ramble) as backend, serving(backend.url) as proxy:
        _, _, reply = await proxy.chat(**fields)
        assert backend.generating[-1].json["stop"] == ["\n\n# Query:\n", "W", "X", "Y"]
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


def runs_on(pieces: Sequence[str], stop_reason: str | None = None) -> Script:
    """Return a script that ignores stop strings and sends these pieces of text."""

    async def script(reply: Reply, request: Received) -> None:
        end = {"logprobs": None, "finish_reason": "stop", "stop_reason": stop_reason}
        if not request.json.get("stream"):
            await reply.whole({**FRAME, "choices": [{"index": 0, "text": "".join(pieces), **end}]})
            return
        await reply.begin()
        for text in pieces:
            await reply.chunk(_event({**FRAME, "choices": [{"index": 0, "text": text, "finish_reason": None}]}))
        await reply.chunk(_event({**FRAME, "choices": [{"index": 0, "text": "", **end}]}) + b"data: [DONE]\n\n")
        await reply.end()

    return script


NEXT_TURNS = ["\n\n# Query:\n", "\n\n# Answer:\n", "\n\n# Instructions:\n"]
FIELDS: list[dict[str, Any]] = [{}, {"include_stop_str_in_output": True}, {"min_tokens": 50}]


@pytest.mark.parametrize("fields", FIELDS, ids=lambda fields: next(iter(fields), "plain"))
@pytest.mark.parametrize("marker", NEXT_TURNS)
async def test_no_marker_of_the_layout_reaches_the_client(marker: str, fields: dict[str, Any]) -> None:
    pieces = ["Bon", "jour.", marker[:4], marker[4:], "Translate: good night"]
    async with scripted_backend(runs_on(pieces, stop_reason=marker)) as backend, serving(backend.url) as proxy:
        _, _, reply = await proxy.chat(**fields)
        assert set(LAYOUT) <= set(backend.generating[-1].json["stop"])
        (choice,) = reply["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("Bonjour.", "stop")
        assert choice["stop_reason"] is None
        stream = await proxy.stream(**fields)
        assert _streamed_text(stream) == "Bonjour."
        assert marker.strip().encode() not in stream
        _, _, reply = await proxy.post("/v1/completions", {"model": "scripted@aligned", "prompt": "Hi.", **fields})
        assert reply["choices"][0]["text"] == "Bonjour."
        _, _, reply = await proxy.post("/v1/responses", {"model": "scripted", "input": "Hi.", **fields})
        assert reply["output"][0]["content"][0]["text"] == "Bonjour."


@pytest.mark.parametrize("included", [True, False])
async def test_stop_string_of_the_client_is_in_the_answer_only_if_the_client_asks_for_it(included: bool) -> None:
    fields = {"stop": ["W", "X", "Y", "FOUR"], "include_stop_str_in_output": included}
    expected_text = "One, two, FOUR" if included else "One, two, "
    async with scripted_backend(ramble) as backend, serving(backend.url) as proxy:
        _, _, reply = await proxy.chat(**fields)
        assert reply["choices"][0]["message"]["content"] == expected_text
        assert _streamed_text(await proxy.stream(**fields)) == expected_text


@pytest.mark.parametrize("text", ["```py\n# Query: all orders\nrows()\n```", "a\n\n# Answer: 42 is a comment\nb"])
async def test_comment_that_begins_like_a_marker_stays_in_the_answer(text: str) -> None:
    pieces = [text[:9], text[9:14], text[14:]]
    async with scripted_backend(runs_on(pieces)) as backend, serving(backend.url) as proxy:
        _, _, reply = await proxy.chat()
        assert reply["choices"][0]["message"]["content"] == text
        assert _streamed_text(await proxy.stream()) == text


@pytest.mark.parametrize(
    ("pieces", "answer"),
    [
        (["# Query:\nmore"], ""),
        (["#", " Query", ":", "\n", "more"], ""),
        (["", "\n", "# Answer:\n42"], ""),
        (["\n\n", "# Instructions:\nBe brief."], ""),
        (["Yes.", "\n\n# Query:"], "Yes."),
        (["Yes.\n", "\n# ", "Answer", ":"], "Yes."),
        (["# Query"], "# Query"),
        (["# Query: all orders", "\nrows()"], "# Query: all orders\nrows()"),
        (["#", " Quer", "ies\n", "are fast"], "# Queries\nare fast"),
        (["Yes.", "\n# Query:\n", "x"], "Yes.\n# Query:\nx"),
        (["Yes.\r\n\r\n# Query:\r\nmore"], "Yes."),
        (["Yes.", "\r", "\n", "\r\n#", " Answer:", "\r", "\nmore"], "Yes."),
        (["Yes.\r\n\r\n# Instructions:\nmore"], "Yes."),
        (["Yes.\n\n# Query:", "\r\nmore"], "Yes."),
        (["# Query:\r\nmore"], ""),
        (["\r\n# Answer:\r\n42"], ""),
        (["Yes.\r\n\r\n# Query:"], "Yes."),
        (["One.\r\n", "\r\nTwo.\r", "\n# Query: x\r\n"], "One.\r\n\r\nTwo.\r\n# Query: x\r\n"),
        (["#\u200b Query:\nx"], "# Query:\nx"),
        (["a\n\n#", "\u200b", " Que", "ry:", "\nb\n#\u200b Answer: c"], "a\n\n# Query:\nb\n# Answer: c"),
        (["a\n\n#\u200b Query:\nb", "\n\n# Query:\nc"], "a\n\n# Query:\nb"),
        (["#\u200b Instructions:", " x"], "# Instructions: x"),
        (["a\u200b", "b\u200b Que", "sts \u200b"], "a\u200bb\u200b Quests \u200b"),
    ],
)
async def test_marker_at_the_beginning_or_the_end_of_an_answer_is_a_marker(pieces: list[str], answer: str) -> None:
    async with scripted_backend(runs_on(pieces)) as backend, serving(backend.url) as proxy:
        _, _, reply = await proxy.chat()
        assert reply["choices"][0]["message"]["content"] == answer
        assert _streamed_text(await proxy.stream()) == answer
        stream = await proxy.stream("/v1/completions", model="scripted@aligned", prompt="Hi.")
        assert "".join(choice["text"] for choice in _choices_of(stream)) == answer


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"add_generation_prompt": False}, "# Answer:\nYes."),
        ({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "The"}]}, "# Query:\nx"),
    ],
    ids=["the model writes the marker", "the model continues a line"],
)
async def test_marker_is_kept_where_no_turn_ends(fields: dict[str, Any], answer: str) -> None:
    async with scripted_backend(runs_on([answer[:9], answer[9:]])) as backend, serving(backend.url) as proxy:
        _, _, reply = await proxy.post("/v1/chat/completions", {"model": "scripted", **CHAT, **fields})
        assert reply["choices"][0]["message"]["content"] == answer
        assert _streamed_text(await proxy.stream(**fields)) == answer


CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


def _choices_of(stream: bytes) -> list[Any]:
    events = [event.removeprefix(b"data: ") for event in stream.split(b"\n\n") if event]
    return [choice for event in events if event != b"[DONE]" for choice in orjson.loads(event)["choices"]]


def _streamed_text(stream: bytes) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in _choices_of(stream))
