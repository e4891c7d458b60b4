"""A client on a raw socket. It can stall, send slowly and disconnect, and it returns replies as raw bytes."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import orjson


def chat_request(*, path: str = "/v1/chat/completions", headers: str = "", **fields: object) -> bytes:
    """Return a valid request. `headers` are further header lines, each with its line break."""
    body = orjson.dumps({"model": "scripted", "messages": [{"role": "user", "content": "hi"}], **fields})
    head = f"POST {path} HTTP/1.1\r\nHost: proxy\r\nContent-Type: application/json\r\n{headers}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@dataclass(slots=True)
class RawClient:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        with suppress(ConnectionError):
            await self.writer.drain()

    async def reply(self, within: float = 60.0) -> bytes:
        """Return everything until the proxy closes the connection."""
        async with asyncio.timeout(within):
            with suppress(ConnectionError):
                return await self.reader.read()
        return b""

    async def some(self, until: bytes, within: float = 60.0) -> bytes:
        """Return what is received up to `until`."""
        async with asyncio.timeout(within):
            return await self.reader.readuntil(until)

    def vanish(self) -> None:
        """Disconnect with RST instead of FIN."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@asynccontextmanager
async def raw_client(url: str, *, receive_buffer: int | None = None) -> AsyncIterator[RawClient]:
    """Open a connection to the proxy. `receive_buffer` is the size of the kernel's buffer in bytes."""
    host, port = url.removeprefix("http://").split(":")
    raw = socket.socket()
    if receive_buffer is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=raw, limit=2**16)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
