"""Scripted task, optimizer and judge models on one server, for tests of how a run works. They do not test quality.

The quality of a prompt is the number of its plus signs. An answer contains that number, and the judge scores it after a
deduction that depends on the query. Every reply depends only on its request. The server records all requests, and
counts the replies to each Idempotency-Key.
"""

import asyncio
import hashlib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson
from aiohttp import web
from aiohttp.test_utils import TestServer

from index.bundle.bundle import write_bundle
from index.bundle.bundle_input import BundleInput
from index.embedders.registry import DEFAULT_EMBEDDER, open_embedder
from index.types import Example, RetrievalPolicy
from optimizer.core.config import read_config
from optimizer.core.journal import Journal
from optimizer.stages.run import Result, run

PROMPT = "Answer well."
CRITERIA = ("helpfulness", "clarity")


def stable_number(text: str, limit: int) -> int:
    """Return a number below `limit` that depends only on the text."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % limit


def default_scores(quality: int, query: str) -> Mapping[str, int]:
    """Return the scores of an answer to a query, from a prompt of this quality."""
    return {name: max(1, min(5, 1 + quality - stable_number(query + name, 2))) for name in CRITERIA}


@dataclass
class ScriptedModels:
    """The server of the scripted models.

    Attributes:
        latency: Seconds before a reply.
        counts_tokens: Whether replies report token counts.
        judge_latency: Seconds before a reply of the judge; None for the same latency.
        scores: Returns the judge's scores by criterion; None for a reply that cannot be read.
        fault: Returns status and body of a reply to send instead of the usual reply; None for the usual reply.
        marks: What the second and the third rewrite add to a prompt. Signs are no content words, so the search drops a
            rewrite that only adds a sign.
        requests: Model and prompt of each request, in order.
        paid: Number of replies by Idempotency-Key.
        bodies: The body of the request by Idempotency-Key.
        concurrent: Number of requests in progress.
        max_concurrent: Highest number of requests in progress.
    """

    latency: float = 0.0
    counts_tokens: bool = True
    judge_latency: float | None = None
    scores: Callable[[int, str], Mapping[str, int] | None] = default_scores
    fault: Callable[[Mapping[str, Any]], tuple[int, bytes] | None] = lambda _body: None
    marks: tuple[str, str] = ("-", ".")
    requests: list[tuple[str, str]] = field(default_factory=list)
    paid: Counter[str] = field(default_factory=Counter)
    bodies: dict[str, bytes] = field(default_factory=dict)
    concurrent: int = 0
    max_concurrent: int = 0

    def server(self) -> TestServer:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_get("/v1/models", self._models)
        return TestServer(app)

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name} for name in ("task", "optimizer", "judge")]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        prompt = body["prompt"]
        return web.json_response({"count": 1 + len(prompt.split()) + sum(not one.isascii() for one in prompt)})

    async def _chat(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        self.requests.append((body["model"], "\n".join(message["content"] for message in body["messages"])))
        self.concurrent += 1
        self.max_concurrent = max(self.max_concurrent, self.concurrent)
        judged = body["model"] == "judge" and self.judge_latency is not None
        await asyncio.sleep(self.judge_latency if judged else self.latency)
        self.concurrent -= 1
        key = request.headers["Idempotency-Key"]
        self.paid[key] += 1
        self.bodies[key] = await request.read()
        if (faulty := self.fault(body)) is not None:
            at_once = {"Retry-After": "0"}  # no test waits for the usual pauses
            return web.Response(status=faulty[0], body=faulty[1], headers=at_once, content_type="application/json")
        texts = _REPLIES[body["model"]](self, body)
        choices = [
            {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            for index, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": 20, "completion_tokens": 10 * len(texts)}
        counts = {"usage": usage} if self.counts_tokens else {}
        return web.json_response({"object": "chat.completion", "choices": choices, **counts})

    def paid_by_call(self, calls: Iterable[str]) -> Counter[str]:
        """Return the number of replies by the key of the call in the journal. The Idempotency-Key depends on it."""
        counts: Counter[str] = Counter()
        for call in calls:
            for key, body in self.bodies.items():
                if hashlib.sha256(call.encode() + body).hexdigest() == key:
                    counts[call] += self.paid[key]
        return counts

    def answer(self, body: Mapping[str, Any]) -> list[str]:
        """Reply as the task model: the answer contains the quality of the prompt."""
        system = next((message["content"] for message in body["messages"] if message["role"] == "system"), "")
        query = body["messages"][-1]["content"]
        return [f"An answer worth {system.count('+')}, {stable_number(system, 10**6)}, to {query}"]

    def rewrite(self, body: Mapping[str, Any]) -> list[str]:
        """Reply as the writer model: the first rewrite is better, the second worse, the third equal."""
        prompt = body["messages"][0]["content"]
        if "new questions of the same kind" in prompt:
            return [json.dumps({"questions": [f"New question {stable_number(prompt, 10**6)}/{n}?" for n in range(6)]})]
        if "\n\nAnswer:\n" in prompt:
            return self._better_answers(prompt, body.get("n", 1))
        current = prompt.split("Current system prompt:\n")[1].split("\n\nWhat the model answered")[0]
        variants = [current + "+", current.replace("+", "", 1) + self.marks[0], current + self.marks[1]]
        return [json.dumps({"analysis": "hm", "prompt": text}) for text in variants[: body.get("n", 1)]]

    def _better_answers(self, prompt: str, count: int) -> list[str]:
        """Return rewrites of an answer whose quality is higher by one."""
        answer = prompt.split("\n\nAnswer:\n")[1].split("\n\nHow it was judged")[0]
        found = re.search(r"worth (\d+)", answer)
        quality = int(found[1]) + 1 if found else 1
        better = [f"{re.sub(r'worth [0-9]+', f'worth {quality}', answer)}{'!' * number}" for number in range(count)]
        return [json.dumps({"analysis": "hm", "answer": text}) for text in better]

    def judge(self, body: Mapping[str, Any]) -> list[str]:
        """Reply as the judge: always the same criteria, and scores that follow the quality in the answer."""
        prompt = body["messages"][0]["content"]
        if prompt.startswith("You set the standard"):
            return [json.dumps({"reason": "they decide", "criteria": list(CRITERIA), "new": []})]
        if prompt.startswith("Two answers"):
            qualities = [int(one) for one in re.findall(r"An answer worth (\d+)", prompt)]
            return [json.dumps({"reason": "so", "better": "A" if qualities[0] > qualities[1] else "B"})]
        query = prompt.split("Query:\n")[1].split("\n\nAnswer:")[0]
        found = re.search(r"An answer worth (\d+)", prompt)
        scores = self.scores(int(found[1]) if found else 0, query)
        if scores is None:
            return ["I would rather not."]
        return [json.dumps({name: {"rationale": "so", "score": score} for name, score in scores.items()})]


_REPLIES: Mapping[str, Callable[[ScriptedModels, Mapping[str, Any]], list[str]]] = {
    "task": ScriptedModels.answer,
    "optimizer": ScriptedModels.rewrite,
    "judge": ScriptedModels.judge,
}


@asynccontextmanager
async def open_scripted_models(**settings: Any) -> AsyncIterator[tuple[ScriptedModels, str]]:
    """Serve scripted models; yields the models and their base URL."""
    models = ScriptedModels(**settings)
    async with models.server() as server:
        yield models, str(server.make_url("/v1"))


async def run_config(config: Path, out: Path) -> Result:
    """Begin or resume a run."""
    with Journal(out) as journal:
        return await run(read_config(config), out, journal, print)


def write_run(folder: Path, base_url: str, *, rows: int = 40, **tables: Mapping[str, Any] | None) -> Path:
    """Write a run.toml for scripted models, with data and a starting bundle in the same folder.

    Args:
        folder: The folder of run.toml.
        base_url: The base URL of the scripted models.
        rows: Number of training rows.
        tables: Keys to set, by table. Two underscores stand for the dot in the name of a table. None leaves out the
            table or the key. The judge is not checked, because it does not read answers: tests of the check set
            `trust` of [reward].
    """
    folder.mkdir(exist_ok=True)
    for part, count in (("train", rows), ("sealed", 12), ("validation", 12)):
        lines = [json.dumps({"query": f"{part} question number {number}"}) for number in range(count)]
        (folder / f"{part}.jsonl").write_text("\n".join(lines))
    if not (folder / "start").exists():
        _write_starting_bundle(folder / "start", str((tables.get("bundle") or {}).get("embedder", DEFAULT_EMBEDDER)))
    settings: dict[str, dict[str, Any]] = {
        **{f"models.{role}": {"base_url": base_url, "model": role, "kind": "chat"} for role in _REPLIES},
        "data": {"train": "train.jsonl", "validation": "validation.jsonl", "sealed": "sealed.jsonl"},
        "reward": {"weights": {"judge": 1.0}, "trust": 0},
        "search": {"depth": 3, "first": 4, "queries": 16},
        "tune": {"k": [0, 1], "order": []},
        "bundle": {"name": "scripted", "start": "start"},
    }
    if tables.get("models__optimizer", {}) is not None:
        settings["search"]["propose"] = ["writer"]  # most tests are about what the scripted writer model proposes
    for name, values in tables.items():
        table = name.replace("__", ".")
        if values is None:
            del settings[table]
        else:
            settings[table] = {**settings.get(table, {}), **values}
    path = folder / "run.toml"
    path.write_text("\n".join(f"[{table}]\n{_toml_lines(values)}" for table, values in settings.items()))
    return path


def _toml_lines(values: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {_toml_value(value)}\n" for key, value in values.items() if value is not None)


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml_value(one)}" for key, one in value.items()) + " }"
    return json.dumps(value)


def _write_starting_bundle(directory: Path, embedder: str) -> None:
    directory.mkdir()
    for name, content in _starting_bundle(embedder).items():
        (directory / name).write_bytes(content)


@cache
def _starting_bundle(embedder: str) -> Mapping[str, bytes]:
    """Return the content of each file of the bundle."""
    examples = [Example(f"e{one}", f"Example question {one}", f"Example answer {one}.") for one in range(3)]
    draft = BundleInput("start", "task", "query-answer", PROMPT, examples, RetrievalPolicy(k=1), {"max_tokens": 64}, {})
    with TemporaryDirectory() as folder:
        directory = Path(folder, "start")
        write_bundle(directory, draft, open_embedder(embedder))
        assert np.load(directory / "vectors.npy").shape[0] == len(examples)
        return {path.name: path.read_bytes() for path in directory.iterdir()}
