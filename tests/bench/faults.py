"""Measures how soon each fault is answered and how long a body blocks the event loop: docs/benchmarks.md.

    python -m tests.bench.faults            20 measurements of each fault
    python -m tests.bench.faults --runs 50  50 of each

Proxy and client share one process, so each figure is an upper bound. The scripted backend runs in the same process,
too, except in the measurements of how long a body blocks the event loop.
"""

import argparse
import asyncio
import multiprocessing
import multiprocessing.connection
import socket
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter

import orjson

from tests.faults.client import chat_request, raw_client
from tests.faults.scripted import Received, Reply, completion, completion_events, scripted_backend
from tests.proxy.serving import Serving, serving

Measure = Callable[[int], Awaitable[list[float]]]
MAX_BODY = 8 * 1024 * 1024 - 1024  # bytes: just below --max-body-bytes


async def answer(reply: Reply, request: Received) -> None:
    await reply.whole(completion("Yes."))


async def hang(reply: Reply, request: Received) -> None:
    await asyncio.sleep(600)


async def endless(reply: Reply, request: Received) -> None:
    await reply.begin()
    while True:
        await reply.chunk(completion_events(["word ", "end"])[0])
        await asyncio.sleep(0.005)


async def connection_refused(runs: int) -> list[float]:
    """Measure the time until the proxy answers 503 because the only backend refuses the connection."""
    async with scripted_backend(answer) as backend, serving(backend.url, bundles={}) as proxy:
        proxy.gateway.pool.backends[0].url = "http://127.0.0.1:9"
        return [await _until_status(proxy, 503) for _ in range(runs)]


async def connection_reset(runs: int) -> list[float]:
    """Measure the time until the proxy answers 502 because the backend resets a new connection."""

    async def script(reply: Reply, request: Received) -> None:
        reply.reset()

    async with scripted_backend(script) as backend, serving(backend.url, bundles={}) as proxy:
        return [await _until_status(proxy, 502) for _ in range(runs)]


async def black_hole(runs: int) -> list[float]:
    """Measure the time until the proxy answers 504 because the backend never accepts, with `--connect-timeout 0.3`."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        host, port = full.getsockname()
        with socket.create_connection((host, port)):
            async with scripted_backend(answer) as backend:
                async with serving(backend.url, bundles={}, connect_timeout=0.3) as proxy:
                    proxy.gateway.pool.backends[0].url = f"http://{host}:{port}"
                    return [await _until_status(proxy, 504) for _ in range(min(runs, 5))]


async def overloaded(runs: int) -> list[float]:
    """Measure the time until the proxy answers 503 to each request above --max-in-flight, without a queue."""
    async with scripted_backend(hang) as backend:
        async with serving(backend.url, bundles={}, max_in_flight=runs, max_queue=0) as proxy:
            held = [asyncio.create_task(proxy.chat()) for _ in range(runs)]
            while len(backend.generating) < runs:
                await asyncio.sleep(0.01)
            times = await asyncio.gather(*(_until_status(proxy, 503) for _ in range(3 * runs)))
            for task in held:
                task.cancel()
            await asyncio.gather(*held, return_exceptions=True)
            return times


def client_disconnect(*, stream: bool, after: bytes) -> Measure:
    """Return a measure of the time from a client's disconnect until the backend's connection is closed."""

    async def measure(runs: int) -> list[float]:
        times = []
        for _ in range(runs):
            script = endless if after else hang
            async with scripted_backend(script) as backend, serving(backend.url, bundles={}) as proxy:
                async with raw_client(proxy.url) as client:
                    await client.send(chat_request(stream=stream))
                    if after:
                        await client.some(until=after)
                    while not backend.generating:
                        await asyncio.sleep(0.001)
                    start = perf_counter()
                    client.vanish()
                    await backend.aborted.wait()
                    times.append(perf_counter() - start)
        return times

    return measure


def loop_block(body: Callable[[], bytes]) -> Measure:
    """Return a measure of the longest block of the event loop while a request with this body is read and answered."""

    async def measure(runs: int) -> list[float]:
        data, times = body(), []
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        async with _backend_elsewhere() as url, serving(url) as proxy:
            for _ in range(min(runs, 10)):
                async with raw_client(proxy.url) as client, _loop_delays() as gaps:
                    await client.send(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode())
                    for start in range(0, len(data), 65536):
                        await client.send(data[start : start + 65536])
                    await client.reply(60)
                times.append(max(gaps))
        return times

    return measure


def _long_text() -> bytes:
    words = "word " * (MAX_BODY // 5 - 100)
    return orjson.dumps({"model": "scripted", "messages": [{"role": "user", "content": words}]})


def _many_messages() -> bytes:
    messages = [{"role": "user", "content": "hi"}] * (MAX_BODY // 32)
    return orjson.dumps({"model": "scripted", "messages": messages})


def _deep() -> bytes:
    return b'{"model":"scripted","messages":' + b"[" * (MAX_BODY // 2) + b"]" * (MAX_BODY // 2 - 50) + b"}"


def _surrogates() -> bytes:
    return b'{"model":"scripted","messages":[{"role":"user","content":"' + b"\\ud800" * (MAX_BODY // 6 - 100) + b'"}]}'


async def _until_status(proxy: Serving, status: int) -> float:
    start = perf_counter()
    got, _, _ = await proxy.chat()
    assert got == status, got
    return perf_counter() - start


@asynccontextmanager
async def _loop_delays() -> AsyncIterator[list[float]]:
    """Yield a list, to which the delays of many short sleeps are added, in seconds."""
    gaps: list[float] = []

    async def watch() -> None:
        while True:
            start = perf_counter()
            await asyncio.sleep(0.001)
            gaps.append(perf_counter() - start - 0.001)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.01)
    gaps.clear()
    try:
        yield gaps
    finally:
        await asyncio.sleep(0.01)
        watching.cancel()


@asynccontextmanager
async def _backend_elsewhere() -> AsyncIterator[str]:
    """Run a backend in another process, so that its work with large bodies does not block the proxy's loop."""
    receiver, sender = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve_elsewhere, args=(sender,))
    process.start()
    try:
        yield await asyncio.to_thread(receiver.recv)
    finally:
        process.terminate()
        process.join()


def _serve_elsewhere(pipe: "multiprocessing.connection.Connection") -> None:
    async def serve() -> None:
        async with scripted_backend(answer) as backend:
            pipe.send(backend.url)
            await asyncio.Event().wait()

    asyncio.run(serve())


ROWS: dict[str, tuple[str, Measure]] = {
    "connection refused: 503": ("100 ms", connection_refused),
    "reset on a fresh connection: 502": ("100 ms", connection_reset),
    "black hole, connect timeout 300 ms: 504": ("300 ms", black_hole),
    "overload at 4x: 503": ("50 ms", overloaded),
    "client gone before the headers: upstream aborted": ("100 ms", client_disconnect(stream=False, after=b"")),
    "client gone before the first token": ("100 ms", client_disconnect(stream=True, after=b"")),
    "client gone in mid-stream": ("100 ms", client_disconnect(stream=True, after=b"word")),
    "loop stall, 8 MB in one message": ("50 ms", loop_block(_long_text)),
    "loop stall, 8 MB in 260,000 messages": ("50 ms", loop_block(_many_messages)),
    "loop stall, 8 MB of nested lists": ("50 ms", loop_block(_deep)),
    "loop stall, 8 MB of lone surrogates": ("50 ms", loop_block(_surrogates)),
}


async def table(runs: int) -> None:
    """Print each row as soon as it is measured."""
    print("| fault | goal | median | worst |\n| --- | --- | --- | --- |")
    for name, (goal, measure) in ROWS.items():
        times = [1000 * seconds for seconds in await measure(runs)]
        print(f"| {name} | {goal} | {statistics.median(times):.1f} ms | {max(times):.1f} ms |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="measurements of each fault [20]")
    asyncio.run(table(parser.parse_args().runs))


if __name__ == "__main__":
    main()
