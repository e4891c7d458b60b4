"""Task, optimizer and judge model on one scripted server, where better prompts give better answers: for the bookkeeping
of a run, never for quality. What each asks for is written down, and each Idempotency-Key is paid for once.

A prompt is worth the number of its plus signs; an answer tells that number; the judge's scores follow it, less what is
hard about the query. Everything is a function of the request alone.
"""

import asyncio
import hashlib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from aiohttp import web
from aiohttp.test_utils import TestServer

from index.bundle.bundle import BundleDraft, write_bundle
from index.embedders.registry import open_embedder
from index.types import Example, RetrievalPolicy

PROMPT = "Answer well."
CRITERIA = ("helpfulness", "clarity")


def number_of(text: str, most: int) -> int:
    """A number below `most` that is always the same for a text."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % most


def usual_scores(worth: int, query: str) -> Mapping[str, int]:
    """Scores of an answer from a prompt of this worth."""
    return {name: max(1, min(5, 1 + worth - number_of(query + name, 2))) for name in CRITERIA}


@dataclass
class ScriptedModels:
    """The server. latency: seconds for each reply, judge_latency: for the judge's; scores: what the judge says; asked:
    model and prompt of each call, in their order; paid: how often each key was answered."""

    latency: float = 0.0
    judge_latency: float | None = None
    scores: Callable[[int, str], Mapping[str, int] | None] = usual_scores
    asked: list[tuple[str, str]] = field(default_factory=list)
    paid: Counter[str] = field(default_factory=Counter)
    at_once: int = 0
    most_at_once: int = 0

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
        return web.json_response({"count": 1 + len(body["prompt"].split())})

    async def _chat(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        self.asked.append((body["model"], "\n".join(message["content"] for message in body["messages"])))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        judged = body["model"] == "judge" and self.judge_latency is not None
        await asyncio.sleep(self.judge_latency if judged else self.latency)
        self.at_once -= 1
        self.paid[request.headers["Idempotency-Key"]] += 1
        texts = _REPLIES[body["model"]](self, body)
        choices = [
            {"index": place, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            for place, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": 20, "completion_tokens": 10 * len(texts)}
        return web.json_response({"object": "chat.completion", "choices": choices, "usage": usage})

    def answer(self, body: Mapping[str, Any]) -> list[str]:
        """The task model: tells how much its prompt is worth."""
        system = next((message["content"] for message in body["messages"] if message["role"] == "system"), "")
        query = body["messages"][-1]["content"]
        return [f"An answer worth {system.count('+')}, {number_of(system, 10**6)}, to {query}"]

    def rewrite(self, body: Mapping[str, Any]) -> list[str]:
        """The optimizer model: the first rewrite is better, the second worse, the third of the same worth."""
        asked = body["messages"][0]["content"]
        if "\n\nAnswer:\n" in asked:
            return self._better_answers(asked, body["n"])
        current = asked.split("Current system prompt:\n")[1].split("\n\nWhat the model answered")[0]
        variants = [current + "+", current.replace("+", "", 1) + "-", current + "."]
        return [json.dumps({"analysis": "hm", "prompt": text}) for text in variants[: body.get("n", 1)]]

    def _better_answers(self, asked: str, count: int) -> list[str]:
        """Each is worth one more than the answer that it was made from."""
        answer = asked.split("\n\nAnswer:\n")[1].split("\n\nHow it was judged")[0]
        worth = int(re.search(r"worth (\d+)", answer)[1]) + 1  # type: ignore[index]
        better = [f"{re.sub(r'worth [0-9]+', f'worth {worth}', answer)}{'!' * number}" for number in range(count)]
        return [json.dumps({"analysis": "hm", "answer": text}) for text in better]

    def judge(self, body: Mapping[str, Any]) -> list[str]:
        """The judge: chooses always the same criteria, and scores what the answer tells of itself."""
        asked = body["messages"][0]["content"]
        if asked.startswith("You set the standard"):
            return [json.dumps({"reason": "they decide", "criteria": list(CRITERIA), "new": []})]
        if asked.startswith("Two answers"):
            worths = [int(one) for one in re.findall(r"An answer worth (\d+)", asked)]
            return [json.dumps({"reason": "so", "better": "A" if worths[0] > worths[1] else "B"})]
        query = asked.split("Query:\n")[1].split("\n\nAnswer:")[0]
        found = re.search(r"An answer worth (\d+)", asked)
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
    """Serve scripted models; yields them and their base URL."""
    models = ScriptedModels(**settings)
    async with models.server() as server:
        yield models, str(server.make_url("/v1"))


def write_run(folder: Path, base_url: str, *, rows: int = 40, **tables: Mapping[str, Any]) -> Path:
    """A run.toml for scripted models, with data and a starting bundle beside it. tables: keys to set, by table."""
    folder.mkdir(exist_ok=True)
    for part, count in (("train", rows), ("sealed", 12), ("validation", 12)):
        lines = [json.dumps({"query": f"{part} question number {place}"}) for place in range(count)]
        (folder / f"{part}.jsonl").write_text("\n".join(lines))
    if not (folder / "start").exists():
        _write_start(folder / "start")
    told: dict[str, dict[str, Any]] = {
        **{f"models.{role}": {"base_url": base_url, "model": role, "kind": "chat"} for role in _REPLIES},
        "data": {"train": "train.jsonl", "validation": "validation.jsonl", "sealed": "sealed.jsonl"},
        "reward": {"weights": {"judge": 1.0}},
        "search": {"depth": 3, "first": 4, "queries": 16},
        "tune": {"k": [0, 1], "order": []},
        "bundle": {"name": "scripted", "start": "start"},
    }
    for name, values in tables.items():
        told[name.replace("__", ".")] = {**told.get(name.replace("__", "."), {}), **values}
    path = folder / "run.toml"
    path.write_text("\n".join(f"[{name}]\n{_toml(values)}" for name, values in told.items()))
    return path


def _toml(values: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in values.items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(one)}" for key, one in value.items()) + " }"
    return json.dumps(value)


def _write_start(place: Path) -> None:
    examples = [Example(f"e{place}", f"Example question {place}", f"Example answer {place}.") for place in range(3)]
    draft = BundleDraft("start", "task", "query-answer", PROMPT, examples, RetrievalPolicy(k=1), {"max_tokens": 64}, {})
    write_bundle(place, draft, open_embedder("onnx"))
    assert np.load(place / "vectors.npy").shape[0] == len(examples)
