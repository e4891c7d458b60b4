"""Sends load to any gateway: with wrk for whole replies, and with a client of its own for streams."""

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import httptools
import numpy as np
import orjson

from index.bundle.bundle import default_bundle_directory, read_bundle
from tests.bench.peers.gateways import Gateway
from tests.bench.peers.machine import OTHERS_CORE, listens, program, running, usage, write
from tests.bench.peers.source import MODEL
from tests.ports import free_port

HERE: Final = Path(__file__).parent
_PLACEHOLDER: Final = "NEVERSEENQUERY"
_NEW_CHARACTERS: Final = 250  # of new text at each end of a new query; it is more than the proxy embeds
_WARM_UP: Final = 1  # seconds
_CONTEXT: Final = 131_072  # tokens; a request of 100 KB must fit


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of request.

    Attributes:
        name: The heading of the column.
        size: The approximate length of the body in bytes.
        turns: The number of messages.
        fresh: Whether each request has a new query, which begins and ends with random words.
    """

    name: str
    size: int
    turns: int = 1
    fresh: bool = False

    def body(self, model: str) -> bytes:
        """Return the body of the request. If queries must be new, it contains two placeholders for load.lua."""
        each = max(8, (self.size - 100 - 40 * self.turns) // self.turns)
        roles = ("user", "assistant")
        middle = "word " * ((each - 2 * _NEW_CHARACTERS if self.fresh else each) // 5)
        texts = [f"{_PLACEHOLDER} {middle}{_PLACEHOLDER}" if self.fresh else f"question {middle}"] * self.turns
        messages = [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts)]
        return orjson.dumps({"model": model, "messages": messages, "max_tokens": 256})


@dataclass(frozen=True, slots=True)
class Load:
    """The result of a measurement.

    Attributes:
        requests: The number of requests.
        failed: The number of failed requests.
        rate: Requests per second.
        p50: Median latency in seconds.
        p99: 99th percentile of the latency in seconds.
        cpu: CPU seconds of the gateway per request.
        memory: Memory of the gateway in bytes, after the measurement.
    """

    requests: int
    failed: int
    rate: float
    p50: float
    p99: float
    cpu: float
    memory: int


@contextmanager
def nginx(folder: Path) -> Iterator[str]:
    """Run nginx with one worker as a backend with a constant reply, and yield its URL.

    Raises:
        CannotRunError: nginx is not installed or does not start.
    """
    port = free_port()
    usage_ = {"prompt_tokens": 500, "completion_tokens": 60, "total_tokens": 560}
    words = "word " * 60
    base = {"id": "cmpl-1", "created": 1700000000, "model": MODEL, "usage": usage_}
    choice = {"index": 0, "finish_reason": "stop", "logprobs": None}
    message = {"role": "assistant", "content": words}
    replies = {
        "/v1/chat/completions": {**base, "object": "chat.completion", "choices": [{**choice, "message": message}]},
        "/v1/completions": {**base, "object": "text_completion", "choices": [{**choice, "text": words}]},
        "/v1/models": {"object": "list", "data": [{"id": MODEL, "object": "model", "max_model_len": _CONTEXT}]},
        "/tokenize": {"count": 100, "max_model_len": _CONTEXT, "tokens": []},
        "/health": {},
    }
    locations = "".join(
        f"location = {path} {{ return 200 '{json.dumps(reply)}'; }}\n" for path, reply in replies.items()
    )
    text = f"""daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
        events {{ worker_connections 4096; }}
        http {{ access_log off; keepalive_requests 100000000; client_body_temp_path {folder}/body;
            client_max_body_size 16m; client_body_buffer_size 1m; default_type application/json;
            server {{ listen 127.0.0.1:{port}; {locations} }} }}"""
    command = [program("nginx", "nginx-light"), "-c", str(write(folder, "nginx.conf", text))]
    with running(command, OTHERS_CORE, listens(port)):
        yield f"http://127.0.0.1:{port}"


def press(gateway: Gateway, cell: Cell, connections: int, seconds: int, seed: str, folder: Path) -> Load:
    """Measure a gateway with wrk.

    Raises:
        CannotRunError: wrk is not installed.
    """
    body = folder / "body.json"
    body.write_bytes(cell.body(gateway.model))
    headers = "\n".join(f"{name}: {value}" for name, value in gateway.headers.items())
    environment = {**os.environ, "BODY": str(body), "HEADERS": headers, "FRESH": str(int(cell.fresh))}
    environment |= {"WORDS": " ".join(bundle_words()), "LENGTH": str(_NEW_CHARACTERS)}
    command = [program("wrk", "wrk"), "--threads", "1", "--connections", str(connections), "--latency"]
    command += ["--timeout", "20s", "--script", str(HERE / "load.lua")]

    def run(length: int, phase: str) -> dict[str, int]:
        url = f"{gateway.url}/v1/chat/completions"
        output = subprocess.run(
            [*command, "--duration", f"{length}s", url],
            env={**environment, "SEED": f"{seed}{connections} {phase}"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        found: dict[str, int] = json.loads(output.split("RESULT ", 1)[1])
        return found

    run(_WARM_UP, "warm")
    before = usage(gateway.pid) if gateway.pid else None
    counts = run(seconds, "timed")
    after = usage(gateway.pid) if gateway.pid else None
    used = after.seconds - before.seconds if after and before else 0.0
    return Load(
        requests=counts["requests"],
        failed=counts["failed"],
        rate=counts["requests"] / (counts["microseconds"] / 1e6),
        p50=counts["p50"] / 1e6,
        p99=counts["p99"] / 1e6,
        cpu=used / max(1, counts["requests"]),
        memory=after.memory if after else 0,
    )


def bundle_words() -> list[str]:
    """Return the different words of the queries of the default bundle."""
    queries = [example.query for example in read_bundle(default_bundle_directory()).examples]
    return sorted({word for query in queries for word in query.split() if word.isalpha() and word.isascii()})


@dataclass(frozen=True, slots=True)
class Streams:
    """The result of many streams at the same time.

    Attributes:
        gap_p99: 99th percentile of the seconds between two chunks of a stream.
        lost: The number of incomplete streams.
        rate: Chunks per second of all streams.
        cpu: CPU seconds of the gateway per chunk.
        memory: The highest memory of the gateway in bytes.
    """

    gap_p99: float
    lost: int
    rate: float
    cpu: float
    memory: int


async def stream_all(gateway: Gateway, count: int, chunks: int) -> Streams:
    """Read `count` streams, which begin at the same time and have `chunks` chunks each, to their ends."""
    body = orjson.dumps({**orjson.loads(Cell("", 2000).body(gateway.model)), "stream": True})
    host, _, path = gateway.url.removeprefix("http://").partition("/")
    head = [f"POST /{path + '/' if path else ''}v1/chat/completions HTTP/1.1", f"Host: {host}"]
    head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    head += [f"{name}: {value}" for name, value in gateway.headers.items()]
    request = ("\r\n".join(head) + "\r\n\r\n").encode() + body
    before, started = usage(gateway.pid) if gateway.pid else None, perf_counter()
    reading = [asyncio.create_task(_read(host, request)) for _ in range(count)]
    watching = asyncio.create_task(_max_memory(gateway, reading)) if count > 100 else None
    told = await asyncio.gather(*reading)
    seconds = perf_counter() - started
    memory = await watching if watching else 0
    after = usage(gateway.pid) if gateway.pid else None
    gaps = np.concatenate([gap for gap, _ in told])
    total = count * chunks
    return Streams(
        gap_p99=float(np.percentile(gaps, 99)) if len(gaps) else float("nan"),
        lost=sum(events < chunks + 1 for _, events in told),
        rate=total / seconds,
        cpu=(after.seconds - before.seconds) / total if after and before else 0.0,
        memory=memory or (after.memory if after else 0),
    )


async def _max_memory(gateway: Gateway, reading: Sequence["asyncio.Task[Any]"]) -> int:
    """Return the highest memory of the gateway in bytes while the streams are read."""
    most = 0
    while gateway.pid and not all(task.done() for task in reading):
        await asyncio.sleep(0.25)
        most = max(most, usage(gateway.pid).memory)
    return most


class _Body:
    """Extracts the body of a reply from its HTTP chunks. An event can be split over two chunks."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.parts: list[bytes] = []

    def on_body(self, data: bytes) -> None:
        self.parts.append(data)

    def take(self, data: bytes) -> bytes:
        self.parser.feed_data(data)
        body = b"".join(self.parts)
        self.parts.clear()
        return body


async def _read(host: str, request: bytes) -> "tuple[np.ndarray[tuple[int], np.dtype[np.float64]], int]":
    """Return the seconds between events, and the number of events up to [DONE]; 0 if [DONE] is missing."""
    name, _, port = host.partition(":")
    reader, writer = await asyncio.open_connection(name, int(port), limit=2**20)
    writer.write(request)
    times: list[float] = []
    events, tail, body = 0, b"", _Body()
    while data := await reader.read(2**18):
        now = perf_counter()
        data = tail + body.take(data)
        new = data.count(b"data: ")
        times += [now] * new
        events += new
        if b"[DONE]" in data:
            break
        tail = data[-5:]  # shorter than the counted mark
    else:
        events = 0
    writer.close()
    return np.diff(times), events


@contextmanager
def source(chunks: int, pause: float, python: str) -> Iterator[str]:
    """Run a backend that streams (source.py), and yield its URL."""
    port = free_port()
    command = [python, "-m", "tests.bench.peers.source", str(port), str(chunks), str(pause)]
    with running(command, OTHERS_CORE, listens(port)):
        yield f"http://127.0.0.1:{port}"
