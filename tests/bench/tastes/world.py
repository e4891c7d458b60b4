"""The real parts of the simulation: the model with the shared cache of answers, drpo-proxy, and requests to it."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp

from proxy.backends.embedded.model_file import MODEL_NAME
from proxy.backends.embedded.weights import GEMMA
from proxy.backends.opening import open_backends
from proxy.core.settings import Settings
from tests.bench.embedders import say
from tests.bench.policies.answer_cache import AnswerCache, caching
from tests.bench.tastes.population import Ask

CONCURRENCY: Final = 4
_START_TIMEOUT: Final = 120.0  # seconds
_PROGRESS: Final = 200


@dataclass(frozen=True, slots=True)
class Model:
    """The model server: the embedded model behind the cache of answers.

    Attributes:
        url: The root URL.
        key: The key that the embedded model wants.
        cache: The cache, which counts the generated answers.
    """

    url: str
    key: str = field(repr=False)
    cache: AnswerCache = field(repr=False)


@asynccontextmanager
async def open_model() -> AsyncIterator[Model]:
    """Start the embedded model, with the cache of answers in front of it."""
    with closing(AnswerCache()) as cache:
        async with open_backends(Settings().backends, say) as (backend,), caching(backend, cache, GEMMA.sha256) as kept:
            yield Model(kept.url, kept.api_key or "", cache)


@dataclass(frozen=True, slots=True)
class Answered:
    """A reply of the proxy.

    Attributes:
        ask: The request.
        request_id: The id by which the answer is rated.
        answer: The text.
    """

    ask: Ask
    request_id: str
    answer: str = field(repr=False)


@asynccontextmanager
async def open_proxy(model: Model, bundle: Path, experiment: Path, store: str) -> AsyncIterator[str]:
    """Start drpo-proxy with one experiment in a process of its own. Yield its root URL."""
    place = store.removeprefix("sqlite:")
    key_file, log = Path(f"{place}.key"), Path(f"{place}.log")
    key_file.write_text(model.key, encoding="utf-8")
    command = [
        *(sys.executable, "-m", "proxy", "--port", "0", "--backend", model.url, "--retrieval-timeout", "30"),
        *(
            "--backend-api-key-file",
            str(key_file),
            "--kind",
            f"{MODEL_NAME}=completion",
            "--bundle",
            f"{MODEL_NAME}={bundle}",
            "--no-warm-cache",
        ),
        *("--experiment", str(experiment), "--store", store, "--store-content", "--max-in-flight", "64"),
    ]
    with log.open("wb") as file:  # noqa: ASYNC230 - a small local file
        server = await asyncio.create_subprocess_exec(*command, stdout=file, stderr=file, env=dict(os.environ))
    try:
        yield await _url_of(server, log)
    finally:
        if server.returncode is None:
            server.send_signal(signal.SIGTERM)
        await server.wait()


async def _url_of(server: asyncio.subprocess.Process, log: Path) -> str:
    """Return the URL that a proxy prints when it is ready."""
    async with asyncio.timeout(_START_TIMEOUT):
        while server.returncode is None:
            await asyncio.sleep(0.3)
            text = log.read_text(encoding="utf-8", errors="replace")
            if found := re.search(r"(http://127\.0\.0\.1:\d+)/v1", text):
                async with aiohttp.ClientSession() as session:
                    await _until_ready(session, found[1])
                return found[1]
    raise SystemExit(f"the proxy did not start: see {log}")


async def _until_ready(session: aiohttp.ClientSession, url: str) -> None:
    while True:
        async with session.get(f"{url}/health/ready") as response:
            if response.status == 200:
                return
        await asyncio.sleep(0.3)


async def ask_all(
    url: str, asks: Sequence[Ask], questions: Sequence[str], journal: Path, rate: Callable[[Answered], float] | None
) -> Sequence[Answered]:
    """Send requests to a proxy, and rate the answers. A request whose answer is in the journal is not sent again.

    Args:
        url: The root URL of the proxy.
        asks: The requests.
        questions: The questions by number.
        journal: The JSONL file to which each answer is added after it was rated.
        rate: Returns the rating of an answer. None if nobody rates.
    """
    known = {one.ask.key: one for one in read_answers(journal)}
    left = [one for one in asks if one.key not in known]
    turns = asyncio.Semaphore(CONCURRENCY)
    done = len(known)

    async def one(ask: Ask) -> Answered:
        nonlocal done
        async with turns:
            found = await _ask(session, url, ask, questions[ask.question])
            if rate is not None:
                await _rate(session, url, found, rate(found))
            _append(journal, found)
        done += 1
        if done % _PROGRESS == 0:
            say(f"  {done} of {len(asks)} requests")
        return found

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        new = await _gather([one(ask) for ask in left])
    return [*known.values(), *new]


async def _gather(work: Sequence[Awaitable[Answered]]) -> Sequence[Answered]:
    return list(await asyncio.gather(*work))


async def _ask(session: aiohttp.ClientSession, url: str, ask: Ask, question: str) -> Answered:
    body: dict[str, Any] = {"model": MODEL_NAME, "messages": [{"role": "user", "content": question}]}
    if ask.draw:  # without a seed, the optimizer sends the same request, whose answer is in the cache
        body["seed"] = ask.draw
    headers = {"x-drpo-unit": ask.user}
    async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response:
        response.raise_for_status()
        reply = await response.json()
        return Answered(ask, response.headers["x-request-id"], reply["choices"][0]["message"]["content"])


async def _rate(session: aiohttp.ClientSession, url: str, found: Answered, value: float) -> None:
    body = {"request_id": found.request_id, "metric": "thumbs_up", "value": value}
    async with session.post(f"{url}/v1/feedback", json=body) as response:
        response.raise_for_status()


def read_answers(journal: Path) -> Sequence[Answered]:
    """Return the answers of a journal. A last line that is not whole is left out."""
    if not journal.exists():
        return []
    lines = journal.read_bytes().split(b"\n")[:-1]
    return [_parsed(json.loads(line)) for line in lines]


def _parsed(fields: dict[str, Any]) -> Answered:
    return Answered(Ask(fields["user"], fields["question"], fields["draw"]), fields["id"], fields["answer"])


def _append(journal: Path, found: Answered) -> None:
    ask = found.ask
    fields = {"user": ask.user, "question": ask.question, "draw": ask.draw, "id": found.request_id}
    with journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**fields, "answer": found.answer}) + "\n")
