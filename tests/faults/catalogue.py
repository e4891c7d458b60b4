"""The faults of a backend, by name. A request selects its fault with the field `fault` of its body.

The proxy forwards that field because it does not know it, so one backend can serve a mixture of faults. The text of an
answer is derived from the id of the request, so that a test can check it without the backend.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson

from tests.faults.scripted import Received, Reply, completion, completion_events

Body = Callable[[Reply, Received], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        play: The script of the fault.
        statuses: The statuses that a waiting client may get.
        whole: Whether a reply with status 200 is complete; otherwise it ends in an error.
        repeatable: Whether the request may be retried, because the backend cannot have generated anything.
        lingers: Whether it may be retried if the backend is stopped before its first byte.
    """

    play: Body
    statuses: frozenset[int]
    whole: bool = False
    repeatable: bool = False
    lingers: bool = False


def words(request_id: str) -> list[str]:
    """Return the tokens of the answer to a request."""
    digest = sha256(request_id.encode()).hexdigest()
    return [f"{digest[n : n + 4]} " for n in range(0, 40, 4)]


def events(request_id: str, kind: str) -> list[bytes]:
    """Return the events of the streamed answer, with the usage and [DONE] at the end."""
    if kind == "completion":
        return completion_events(words(request_id))
    base = {"id": "chat-1", "object": "chat.completion.chunk", "created": 7, "model": "scripted"}
    deltas: list[Mapping[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": word} for word in words(request_id)]
    chunks = [{**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    chunks.append({**base, "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 10, "total_tokens": 15}})
    return [b"data: " + orjson.dumps(event) + b"\n\n" for event in chunks] + [b"data: [DONE]\n\n"]


def whole(request_id: str, kind: str) -> dict[str, Any]:
    """Return the answer as one JSON object."""
    text = "".join(words(request_id))
    if kind == "completion":
        return completion(text)
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {**completion(text), "object": "chat.completion", "choices": [choice]}


def _kind(request: Received) -> str:
    return "completion" if request.path == "/v1/completions" else "chat"


def _events(request: Received) -> list[bytes]:
    return events(request.headers["X-Request-Id"], _kind(request))


async def _answer(reply: Reply, request: Received, pause: float = 0.0, cut: int | None = None) -> None:
    if not request.json.get("stream"):
        await asyncio.sleep(pause)
        await reply.whole(whole(request.headers["X-Request-Id"], _kind(request)))
        return
    await reply.begin()
    for event in _events(request)[:cut]:
        await asyncio.sleep(pause)
        await reply.chunk(event)
    if cut is None:
        await reply.end()


async def well(reply: Reply, request: Received) -> None:
    await _answer(reply, request)


async def slow(reply: Reply, request: Received) -> None:
    await _answer(reply, request, pause=0.01)


async def crumbs(reply: Reply, request: Received) -> None:
    """Stream in chunks of 7 bytes."""
    if not request.json.get("stream"):
        return await well(reply, request)
    data = b"".join(_events(request))
    await reply.begin()
    for start in range(0, len(data), 7):
        await reply.chunk(data[start : start + 7])
    await reply.end()
    return None


async def reset(reply: Reply, request: Received) -> None:
    reply.reset()


async def close(reply: Reply, request: Received) -> None:
    reply.writer.close()


async def silent(reply: Reply, request: Received) -> None:
    await asyncio.sleep(60)


async def half_a_header(reply: Reply, request: Received) -> None:
    await reply.send(b"HTTP/1.1 200 OK\r\nContent-Ty")
    await asyncio.sleep(60)


def raw(*parts: bytes) -> Body:
    async def play(reply: Reply, request: Received) -> None:
        for part in parts:
            await reply.send(part)
        reply.writer.close()

    return play


def cut(how: str) -> Body:
    """Send a few events, or a part of a complete reply, and then end the reply in one of several ways."""

    async def play(reply: Reply, request: Received) -> None:
        if request.json.get("stream"):
            await _answer(reply, request, cut=4)
        else:
            body = orjson.dumps(whole(request.headers["X-Request-Id"], _kind(request)))
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            await reply.send(head.encode() + body[:40])
        if how == "reset":
            reply.reset()
        elif how == "stall":
            await asyncio.sleep(60)
        elif how == "no done" and request.json.get("stream"):
            await reply.end()
        elif how == "mid-event" and request.json.get("stream"):
            await reply.send(b'20\r\ndata: {"choices": [{"ind')
        reply.writer.close()

    return play


def status(code: int) -> Body:
    async def play(reply: Reply, request: Received) -> None:
        await reply.whole({"error": {"message": "in its own words", "code": code}}, f"{code} Whatever", Retry_After="1")

    return play


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
OK, BAD, LATE = frozenset({200}), frozenset({502}), frozenset({504})

FAULTS: Mapping[str, Fault] = {
    "none": Fault(well, OK, whole=True),
    "slow": Fault(slow, OK, whole=True, lingers=True),
    "crumbs": Fault(crumbs, OK, whole=True),
    "reset before headers": Fault(reset, BAD, repeatable=True),
    "closed before headers": Fault(close, BAD, repeatable=True),
    "silent": Fault(silent, LATE, lingers=True),
    "half a header, then silent": Fault(half_a_header, LATE, lingers=True),
    "not HTTP": Fault(raw(b"SSH-2.0-OpenSSH_9.6\r\n"), BAD),
    "two lengths": Fault(raw(HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), BAD),
    "header of 20 KB": Fault(raw(HEAD + b"X-Long: " + b"x" * 20_000 + b"\r\n\r\n"), BAD),
    "compressed": Fault(raw(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd"), BAD),
    "redirect": Fault(raw(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"), BAD),
    "cut by a reset": Fault(cut("reset"), OK | BAD),
    "cut in an event": Fault(cut("mid-event"), OK | BAD),
    "without [DONE]": Fault(cut("no done"), OK | BAD),
    "stalled in the answer": Fault(cut("stall"), OK | LATE),
    "429": Fault(status(429), frozenset({429})),
    "500": Fault(status(500), frozenset({500})),
    "503": Fault(status(503), frozenset({503}), repeatable=True),
}


async def play(reply: Reply, request: Received) -> None:
    """Play the fault that the request selects."""
    await FAULTS[request.json.get("fault", "none")].play(reply, request)


def text_of(stream: bytes) -> str:
    """Return the text of a stream of chat or completion events."""
    return "".join(_text(payload) for payload in payloads(stream))


def payloads(stream: bytes) -> Sequence[Any]:
    """Return the JSON of each event except [DONE]. Raises ValueError for a partial event."""
    *whole_events, rest = stream.split(b"\n\n")
    if rest:
        raise ValueError(f"the stream ends in the middle of an event: {rest[:60]!r}")
    return [orjson.loads(event.removeprefix(b"data: ")) for event in whole_events if event != b"data: [DONE]"]


def _text(payload: Any) -> str:
    choices = payload.get("choices") or []
    return "".join(choice.get("text") or (choice.get("delta") or {}).get("content") or "" for choice in choices)
