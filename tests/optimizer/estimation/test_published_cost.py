"""Tests the estimate for `recipe = "drpo"` against what DRPO's authors say: about an hour, and up to 10 dollars.

The judge and the writer model cost what GPT-4-turbo (gpt-4-0125-preview) cost in 2024: 10 dollars for a million prompt
tokens, 30 dollars for a million completion tokens. A scripted server writes replies of the usual length, and counts one
token for four characters.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Final

from aiohttp import web
from aiohttp.test_utils import TestServer

from optimizer.core.config import read_config
from optimizer.core.journal import Journal
from optimizer.data.split import read_split
from optimizer.estimation.call_costs import Costs, measure_call_costs
from optimizer.estimation.estimate import Estimate, estimate_from
from optimizer.estimation.observation import NOTHING_SEEN, Observation
from optimizer.estimation.simulation import simulate
from optimizer.stages.run_context import open_run_context
from tests.optimizer.scripted_models import write_run
from tests.optimizer.stages.test_published_requests import LEFT_TO_THE_PRESET, kind_of

PRICES: Final = {"price_prompt": 10.0, "price_completion": 30.0}
DOLLARS, MINUTES = 10.0, 60.0
SEEDS: Final = 16
ROWS: Final = 60
GPT_4_TURBO_SPEED: Final = 25.0
"""Completion tokens in a second."""
TASK_SPEED: Final = 40.0
SECONDS_TO_FIRST_TOKEN: Final = 1.0
RATIONALE, ANSWER, PROMPT = 25, 330, 230
"""Numbers of words. The 16 published answers have 160 to 429 words, and the recorded prompts up to 350."""


def words(count: int) -> str:
    return "plain words " * (count // 2)


def reply_texts(path: str, body: Mapping[str, Any]) -> list[str]:
    """Return replies of the usual length, one for each choice."""
    kind, criteria = kind_of(path, body), ("clarity", "depth", "safety", "helpfulness", "empathy")
    if kind == "answer":
        return [words(200)]
    if kind.startswith("choice"):
        analysis = dict.fromkeys(("topic", "intent", "ambiguities", "response_format", "challenges"), words(25))
        return [
            json.dumps({"analysis": analysis, "criteria": [{"name": one, "reason": words(20)} for one in criteria]})
        ]
    if kind.startswith("verdict"):
        return [json.dumps({one: {"rationale": words(RATIONALE), "score": 4} for one in criteria})]
    if kind == "rewrite of an answer":
        return [json.dumps({"analysis": words(60), "answer": words(ANSWER)})]
    prompt = {"analysis": words(60), "thought": words(60), "new_system_prompt": words(PROMPT)}
    return [json.dumps(prompt)] * int(body["n"])


async def reply(request: web.Request) -> web.Response:
    body, path = await request.json(), request.path.removeprefix("/v1/")
    sent = body.get("prompt") or "".join(message["content"] for message in body["messages"])
    texts = reply_texts(path, body)
    usage = {"prompt_tokens": len(sent) // 4, "completion_tokens": sum(map(len, texts)) // 4}
    choices = [
        {"text": text, "message": {"content": text}, "finish_reason": "stop", "index": index}
        for index, text in enumerate(texts)
    ]
    return web.json_response({"choices": choices, "usage": usage})


async def estimated(folder: Path) -> Estimate:
    """Return the estimate for the preset, with the time that the tokens of each call would take."""
    app = web.Application()
    app.router.add_post("/v1/completions", reply)
    app.router.add_post("/v1/chat/completions", reply)
    seeds = [json.dumps({"query": f"seed {one} {words(12)}", "reference": words(200)}) for one in range(SEEDS)]
    (folder / "seeds.jsonl").write_text("\n".join(seeds))
    async with TestServer(app) as server:
        tables: dict[str, Mapping[str, Any]] = {
            **LEFT_TO_THE_PRESET,
            "reward": {"weights": None, "trust": None},
            "models__task": {"kind": "completion"},
            **{f"models__{role}": PRICES for role in ("judge", "optimizer")},
        }
        config = read_config(write_run(folder, str(server.make_url("/v1")), rows=ROWS, **tables))
        with Journal(folder / "estimate") as journal:
            async with open_run_context(config, journal, print) as context:
                costs, observation = await measure_call_costs(context)
    data = read_split(config.data, config.search.seed)
    return await estimate_from(config, data, with_times(costs), observation=observation)


def with_times(costs: Costs) -> Costs:
    """Return the costs with the times of a real server. The choices of a reply are written at the same time."""
    timed = {}
    for call, cost in costs.items():
        choices = 3 if (call.stage, call.role) == ("search", "optimizer") else 1
        speed = choices * (TASK_SPEED if call.role == "task" else GPT_4_TURBO_SPEED)
        timed[call] = replace(cost, seconds=SECONDS_TO_FIRST_TOKEN + cost.completion / speed)
    return timed


async def test_run_is_cheaper_if_the_judge_is_satisfied(tmp_path: Path) -> None:
    """In a real run with such a judge (docs/benchmarks/optimizer.md), the estimate said 131 calls instead of 81."""
    tables: dict[str, Mapping[str, Any]] = {
        **LEFT_TO_THE_PRESET,
        "data": {"seeds": "seeds.jsonl", "sealed": None},
        "search": {**LEFT_TO_THE_PRESET["search"], "depth": 6, "deeper": 4},
        "examples": {"queries": 4},
        "reward": {"weights": None, "trust": None},
    }
    (tmp_path / "seeds.jsonl").write_text(
        "\n".join(json.dumps({"query": f"s {n}", "reference": "A."}) for n in range(4))
    )
    config = read_config(write_run(tmp_path, "http://127.0.0.1:9/v1", rows=28, **tables))
    data, medians = read_split(config.data, 42), []
    for observation in (
        NOTHING_SEEN,
        Observation((1.0, 1.0, 0.94), is_full=True),
        Observation((0.5,) * 3, is_full=False),
    ):
        runs = [(await simulate(config, data, seed, observation=observation)).total() for seed in range(40)]
        medians.append(median(runs))
    unseen, content, critical = medians
    assert 70 <= content <= 95
    assert content < 0.75 * unseen
    assert content < 0.75 * critical


async def test_estimate_is_within_a_factor_of_two_of_what_the_authors_say(tmp_path: Path) -> None:
    found = await estimated(tmp_path)
    assert DOLLARS / 2 <= found.money.median <= 2 * DOLLARS
    assert MINUTES / 2 <= found.seconds.median / 60 <= 2 * MINUTES
