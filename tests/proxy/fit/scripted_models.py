"""Scripted chat models for tests of `drpo-proxy fit`. They know which of our questions are harmful."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from proxy.fit.questions import SHIPPED, read_questions
from tests.faults.scripted import Received, Reply, Script

REFUSAL: Final = "I can't help with that."
ANSWER: Final = "Here is a short answer to your question."
HARMFUL: Final = frozenset(one.messages[-1].text for one in read_questions(SHIPPED) if one.is_harmful)

Break = Callable[[Reply], Awaitable[None]]


def has_system(request: Received) -> bool:
    """Return whether a prompt was injected: the questions have no system message of their own."""
    return any(message["role"] == "system" for message in request.json["messages"])


def right_answer(request: Received) -> str:
    return REFUSAL if request.json["messages"][-1]["content"] in HARMFUL else ANSWER


async def send_text(
    reply: Reply, text: str, finish_reason: str = "stop", prompt_tokens: int = 20, cached: int | None = None
) -> None:
    """Stream one chat answer."""
    await reply.begin()
    for event in _events(text, finish_reason, prompt_tokens, cached):
        await reply.chunk(b"data: " + orjson.dumps(event) + b"\n\n")
    await reply.chunk(b"data: [DONE]\n\n")
    await reply.end()


def _events(text: str, finish_reason: str, prompt_tokens: int, cached: int | None) -> Sequence[Mapping[str, Any]]:
    base = {"id": "c-1", "object": "chat.completion.chunk", "created": 7, "model": "scripted"}
    half = len(text) // 2
    deltas: list[Mapping[str, str]] = [{"role": "assistant", "content": text[:half]}, {"content": text[half:]}]
    events: list[Mapping[str, Any]] = [
        {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": 8, "total_tokens": prompt_tokens + 8}
    details = {} if cached is None else {"prompt_tokens_details": {"cached_tokens": cached}}
    end = {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": finish_reason}]}
    return [*events, end, {**base, "choices": [], "usage": {**usage, **details}}]


async def perfect(reply: Reply, request: Received) -> None:
    """Refuse harmful questions and answer all others, whatever the prompt is."""
    injected = 400 if has_system(request) else 0
    await send_text(reply, right_answer(request), prompt_tokens=20 + injected, cached=injected)


def breaking(broken: Break) -> Script:
    """Return a model that is perfect alone, and breaks under any system prompt."""

    async def script(reply: Reply, request: Received) -> None:
        await (broken(reply) if has_system(request) else perfect(reply, request))

    return script


async def rambles(reply: Reply) -> None:
    await send_text(reply, "words and more words of all sorts that do not come to an end in", "length")


async def loops(reply: Reply) -> None:
    await send_text(reply, "this is the song that never ends, " * 8)


async def is_silent(reply: Reply) -> None:
    await send_text(reply, "")


async def shouts(reply: Reply) -> None:
    await send_text(reply, "!!!! !!!! ????")


async def refuses_all(reply: Reply) -> None:
    await send_text(reply, REFUSAL)


async def leaks_markers(reply: Reply) -> None:
    await send_text(reply, f"{ANSWER}\n# Query:\nAnother one?")


async def leaks_control_tokens(reply: Reply) -> None:
    await send_text(reply, f"{ANSWER}<|im_end|>")


async def answers_400(reply: Reply) -> None:
    error = {"message": "System role not supported", "type": "BadRequestError", "param": None, "code": 400}
    await reply.whole({"error": error}, "400 Bad Request")


async def answers_500(reply: Reply) -> None:
    await reply.whole({"error": {"message": "template error"}}, "500 Internal Server Error")


async def answers_html(reply: Reply) -> None:
    await reply.whole(b"<html>no</html>", "200 OK")
