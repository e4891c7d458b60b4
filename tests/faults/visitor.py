"""A client that selects a fault, behaves in one of several ways, and records its reply."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace

from tests.faults.client import RawClient, chat_request, raw_client
from tests.faults.history import Asked

PATIENCE = 60.0  # seconds for any reply to end
BEHAVIOURS = ("reads", "drips", "stalls", "leaves at once", "leaves in the answer")


@dataclass(frozen=True, slots=True)
class ClientRequest:
    """One request and the behaviour of its client.

    Attributes:
        id: Its X-Request-Id.
        kind: The kind of the model, which is also the model's id.
        fault: The fault that it selects.
        stream: Whether it asks for a stream.
        behaviour: One of BEHAVIOURS.
        include_usage: Whether it asks for the usage of the stream.
        bearer: The API key; empty for none.
    """

    id: str
    kind: str
    fault: str
    stream: bool
    behaviour: str
    include_usage: bool = False
    bearer: str = ""

    @property
    def request(self) -> bytes:
        headers = f"X-Request-Id: {self.id}\r\nConnection: close\r\n"
        if self.bearer:
            headers += f"Authorization: Bearer {self.bearer}\r\n"
        options = {"stream_options": {"include_usage": True}} if self.stream and self.include_usage else {}
        return chat_request(headers=headers, model=self.kind, fault=self.fault, stream=self.stream, **options)


async def visit(url: str, request: ClientRequest) -> Asked:
    """Send the request, behave as it says, and return the record."""
    asked = Asked(request.id, request.kind, request.fault, request.stream, request.include_usage)
    async with raw_client(url) as client:
        await _send(client, request)
        if request.behaviour == "leaves at once":
            await asyncio.sleep(0.005)
            client.vanish()
            return replace(asked, left=True)
        if request.behaviour == "leaves in the answer":
            data = await _until_the_answer(client)
            client.vanish()
            return _recorded(replace(asked, left=True), data)
        if request.behaviour == "stalls":
            await asyncio.sleep(0.05)
        with suppress(TimeoutError):
            return _recorded(asked, await client.reply(PATIENCE))
    return asked


async def _send(client: RawClient, request: ClientRequest) -> None:
    data = request.request
    if request.behaviour != "drips":
        await client.send(data)
        return
    for start in range(0, len(data), 40):
        await client.send(data[start : start + 40])
        await asyncio.sleep(0.001)


async def _until_the_answer(client: RawClient) -> bytes:
    """Return what is received up to the first word, or the whole reply if it has none."""
    data = b""
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(PATIENCE):
            while b'"content":"' not in data and (part := await client.reader.read(512)):
                data += part
    return data


def _recorded(asked: Asked, data: bytes) -> Asked:
    head, _, rest = data.partition(b"\r\n\r\n")
    if not rest and not head:
        return asked
    body, ended = _body(head.lower(), rest)
    return replace(asked, status=int(head.split(b" ", 2)[1]), body=body, ended=ended)


def _body(head: bytes, rest: bytes) -> tuple[bytes, bool]:
    """Return the received part of the body, and whether it is complete."""
    if b"transfer-encoding: chunked" not in head:
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return rest, len(rest) == length
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size or b"0", 16)
        if length == 0:
            return body, rest == b"\r\n"
        body, rest = body + rest[:length], rest[length + 2 :]
    return body, False
