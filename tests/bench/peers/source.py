"""A fast model server: it streams a given number of chunks at a given pace to every client.

It parses as little as possible. The scripted backends for faults are in tests/faults.

python -m tests.bench.peers.source PORT CHUNKS SECONDS_BETWEEN
"""

import asyncio
import sys
from functools import cache
from typing import Final

import orjson

MODEL: Final = "bench-model"
_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(payload: object) -> bytes:
    """Return one server-sent event, as one HTTP chunk."""
    data = b"data: " + (payload if isinstance(payload, bytes) else orjson.dumps(payload)) + b"\n\n"
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@cache
def chunk(path: str, digit: int, finish: str | None = None) -> bytes:
    """Return a chunk in vLLM's format for the path. It is cached, because the bench does not measure this server."""
    frame = {"id": "cmpl-1", "created": 1700000000, "model": MODEL}
    ending = {"finish_reason": finish, "logprobs": None, "index": 0}
    if path.endswith("/chat/completions"):
        choice = {**ending, "delta": {"content": f" word{digit}"}}
        return event({**frame, "object": "chat.completion.chunk", "choices": [choice]})
    choice = {**ending, "text": f" word{digit}", "stop_reason": None}
    return event({**frame, "object": "text_completion", "choices": [choice], "usage": None})


class Source(asyncio.Protocol):
    """Serves one connection."""

    def __init__(self, chunks: int, pause: float) -> None:
        self._chunks = chunks
        self._pause = pause
        self._held = b""
        self._transport: asyncio.Transport
        self._may_write = asyncio.Event()
        self._may_write.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=16384)
        self._transport = transport

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def data_received(self, data: bytes) -> None:
        self._held += data
        head, found, body = self._held.partition(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        if found and len(body) >= length:
            self._held = b""
            self._answer(head.split(b" ", 2)[1].decode(), body)

    def _answer(self, path: str, body: bytes) -> None:
        if path.endswith("completions"):
            self._streaming = asyncio.ensure_future(self._stream(path))
            return
        reply = {
            "/v1/models": {"object": "list", "data": [{"id": MODEL, "object": "model", "max_model_len": 65536}]},
            "/tokenize": {"count": len(body) // 4, "max_model_len": 65536, "tokens": []},
        }.get(path, {})
        data = orjson.dumps(reply)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        self._transport.write(head.encode() + data)

    async def _stream(self, path: str) -> None:
        self._transport.write(_HEAD)
        loop = asyncio.get_running_loop()
        started = loop.time()
        for number in range(self._chunks):
            if self._pause:
                await asyncio.sleep(started + number * self._pause - loop.time())
            await self._may_write.wait()
            if self._transport.is_closing():
                return
            self._transport.write(chunk(path, number % 10, "stop" if number == self._chunks - 1 else None))
        self._transport.write(event(b"[DONE]") + b"0\r\n\r\n")


async def serve(port: int, chunks: int, pause: float) -> None:
    """Serve until the process is killed."""
    server = await asyncio.get_running_loop().create_server(lambda: Source(chunks, pause), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
