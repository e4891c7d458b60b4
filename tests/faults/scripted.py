"""A scripted backend on raw sockets: a script of the test writes each reply. It serves tests of faults, not of answers.

It answers /v1/models and /tokenize as vLLM does, and every other POST with the script. It stores each request.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
from multidict import CIMultiDict

from proxy.backends.kinds.probe import QUESTIONS

NO_TEMPLATE = (
    "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template"
)


@dataclass(frozen=True, slots=True)
class Received:
    """One request that the backend received."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass(slots=True)
class Reply:
    """The connection that a script writes its reply to. `gone` is set when the proxy disconnects."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    gone: asyncio.Event

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def begin(self, status: str = "200 OK", content_type: str = "text/event-stream", **headers: str) -> None:
        """Send the headers of a chunked reply."""
        lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", "Transfer-Encoding: chunked"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode())

    async def chunk(self, data: bytes) -> None:
        """Send one chunk."""
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.send(b"0\r\n\r\n")

    async def whole(self, payload: object, status: str = "200 OK", **headers: str) -> None:
        """Send a complete JSON reply."""
        body = payload if isinstance(payload, bytes) else orjson.dumps(payload)
        lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode() + body)

    def reset(self) -> None:
        """Close the connection with RST instead of FIN."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Reply, Received], Awaitable[None]]


@dataclass(slots=True)
class ScriptedBackend:
    """A backend with one or two models.

    Attributes:
        script: Answers the requests that generate.
        model: The id of its model.
        kind: The kind of its model that /tokenize shows; "unknown" if the server has no /tokenize.
        context: The max_model_len of its model.
        tokenize_reply: The reply of /tokenize; an integer is a status, None stands for a token count.
        second_model: The id of a second model, whose kind it does not report.
        listing: A script that answers GET /v1/models instead.
        questions: A script that answers the questions that show the kind of a chat model.
        keeps: Whether received requests are stored.
        received: The stored requests.
        connections: The tasks of the open connections.
        aborted: Set when the proxy disconnects before the end of a script.
        url: The root URL.
    """

    script: Script
    model: str = "scripted"
    kind: str = "completion"
    context: int | None = 4096
    tokenize_reply: Any = None
    second_model: str | None = None
    listing: Script | None = None
    questions: Script | None = None
    keeps: bool = True
    received: list[Received] = field(default_factory=list)
    connections: set[asyncio.Task[Any]] = field(default_factory=set)
    aborted: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    @property
    def generating(self) -> list[Received]:
        """The requests for an answer of a model."""
        return [one for one in self.received if one.path.startswith("/v1/") and one.method == "POST"]

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection and serve it in a task that is known at once, unlike the tasks of asyncio.Server."""
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # otherwise a second part may wait for 40 ms
        task = asyncio.create_task(self._serve(connection))
        self.connections.add(task)
        task.add_done_callback(self.connections.discard)

    async def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=connection)
            try:
                await self._exchange(reader, writer)
                writer.close()
            finally:
                if asyncio.current_task().cancelling():
                    writer.transport.abort()
                with suppress(ConnectionError):
                    await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while (request := await _read_request(reader)) is not None:
                if self.keeps and not _is_question(request):
                    self.received.append(request)
                await self._answer(request, Reply(reader, writer, self.aborted))
                if writer.is_closing():
                    break

    async def _answer(self, request: Received, reply: Reply) -> None:
        if request.path == "/v1/models":
            await (self.listing or self._list)(reply, request)
        elif request.path == "/tokenize":
            await self._tokenize(request.json, reply)
        elif _is_question(request):
            await (self.questions or _answer_question)(reply, request)
        else:
            await self._run(request, reply)

    async def _list(self, reply: Reply, request: Received) -> None:
        base = {"object": "model", "created": 1, "owned_by": "test", "max_model_len": self.context}
        names = [self.model] + ([self.second_model] if self.second_model else [])
        await reply.whole({"object": "list", "data": [{"id": name, **base} for name in names]})

    async def _tokenize(self, body: Mapping[str, Any], reply: Reply) -> None:
        """Count one token for each word and one for the beginning."""
        if body.get("model") == self.second_model or self.kind == "unknown":
            await reply.whole({}, "404 Not Found")
        elif "messages" not in body and isinstance(self.tokenize_reply, int):
            await reply.whole({}, f"{self.tokenize_reply} Whatever")
        elif "messages" not in body and self.tokenize_reply is not None:
            await reply.whole(self.tokenize_reply)
        elif "messages" not in body:
            await reply.whole({"count": len(body["prompt"].split()) + 1, "max_model_len": self.context, "tokens": []})
        elif self.kind == "chat":
            await reply.whole({"count": 9, "max_model_len": self.context, "tokens": []})
        else:
            error = {"message": NO_TEMPLATE, "type": "BadRequestError", "param": None, "code": 400}
            await reply.whole({"error": error}, "400 Bad Request")

    async def _run(self, request: Received, reply: Reply) -> None:
        script = asyncio.ensure_future(self.script(reply, request))
        hang_up = asyncio.ensure_future(reply.reader.read(1))
        try:
            await asyncio.wait([script, hang_up], return_when=asyncio.FIRST_COMPLETED)
            if not script.done():
                self.aborted.set()
        finally:
            for task in (script, hang_up):
                task.cancel()
            for outcome in await asyncio.gather(script, hang_up, return_exceptions=True):
                if isinstance(outcome, Exception) and not isinstance(outcome, ConnectionError):
                    raise outcome


def _is_question(request: Received) -> bool:
    return request.path == "/v1/chat/completions" and any(one.encode() in request.body[:500] for one in QUESTIONS)


async def _answer_question(reply: Reply, _: Received) -> None:
    """Answer as a chat model does."""
    message = {"role": "assistant", "content": "Paris."}
    await reply.whole({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


async def _read_request(reader: asyncio.StreamReader) -> Received | None:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode().rstrip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = CIMultiDict(line.split(": ", 1) for line in lines)
    length = int(headers.get("Content-Length", "0"))
    return Received(method, path, headers, await reader.readexactly(length))


@contextmanager
def reserved_port() -> Iterator[int]:
    """Reserve a port during the block: connections to it are refused, until a backend of the test listens on it.

    Otherwise another process could get the port while nobody listens on it.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a second socket may then bind the port
        holder.bind(("127.0.0.1", 0))  # and does not listen
        yield int(holder.getsockname()[1])


@contextmanager
def stopped_backend(script: Script, **settings: Any) -> Iterator[ScriptedBackend]:
    """Return a backend that does not run yet. During the block, `scripted_backend` runs it, always on the same port."""
    with reserved_port() as port:
        yield ScriptedBackend(script, url=f"http://127.0.0.1:{port}", **settings)


@asynccontextmanager
async def scripted_backend(script: Script | ScriptedBackend, **settings: Any) -> AsyncIterator[ScriptedBackend]:
    """Run a backend during the block, on its port if it has one."""
    backend = script if isinstance(script, ScriptedBackend) else ScriptedBackend(script, **settings)
    before = int(backend.url.rpartition(":")[2] or 0)
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", before), backlog=512) as listener:
        host, port = listener.getsockname()
        backend.url = f"http://{host}:{port}"
        loop.add_reader(listener, backend.accept, listener)
        try:
            yield backend
        finally:
            loop.remove_reader(listener)
            await asyncio.sleep(0)  # let each task start, so that it closes its connection
            for connection in backend.connections:
                connection.cancel()
            await asyncio.gather(*backend.connections, return_exceptions=True)


def completion(text: str, finish_reason: str = "stop", **fields: Any) -> dict[str, Any]:
    """Return a completion in the format of vLLM."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason, "stop_reason": None}
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    base = {"id": "cmpl-1", "object": "text_completion", "created": 7, "model": "scripted"}
    return {**base, "choices": [choice], "usage": usage, **fields}


async def say_yes(reply: Reply, request: Received) -> None:
    """Answer a text completion or a chat request with `Yes.`. As a script, it makes a backend that always works."""
    whole = completion("Yes.")
    if request.path != "/v1/completions":
        choice = {"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}
        whole |= {"object": "chat.completion", "choices": [choice]}
    await reply.whole(whole)


def completion_events(pieces: Sequence[str], finish_reason: str = "stop", *, usage: bool = True) -> list[bytes]:
    """Return the events of a streamed completion, one for each piece, in the format of vLLM."""
    base = {"id": "cmpl-1", "object": "text_completion", "created": 7, "model": "scripted"}
    choices = [{"index": 0, "text": piece, "logprobs": None, "finish_reason": None} for piece in pieces]
    choices[-1]["finish_reason"] = finish_reason
    events = [{**base, "choices": [choice]} for choice in choices]
    if usage:
        total = {"prompt_tokens": 5, "completion_tokens": len(pieces), "total_tokens": 5 + len(pieces)}
        events.append({**base, "choices": [], "usage": total})
    return [b"data: " + orjson.dumps(event) + b"\n\n" for event in events] + [b"data: [DONE]\n\n"]
