"""Tests every request of `recipe = "drpo"`, field by field, as it arrives at a server.

tests/data/published_requests.json holds the requests. If a change of a request is intended, run this module as a
program: `python -m tests.optimizer.stages.test_published_requests` writes the file anew, and its diff shows the change.
"""

import asyncio
import json
import re
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from index.bundle.bundle import load_bundle
from index.embedders.registry import DEFAULT_EMBEDDER, open_embedder
from optimizer.core.journal import read_journal
from optimizer.report.html_report import write_report
from optimizer.report.run_summary import summarize_run
from optimizer.stages.run import Result
from tests.optimizer.scripted_models import run_config, stable_number, write_run

GOLDEN: Final = Path(__file__).parents[2] / "data" / "published_requests.json"
SEEDS: Final = (("How do magnets work?", "<START>\nThey attract.\n<END>"), ("How do I pick a lock?", "I will not say."))
PROMPT: Final = "You are a helpful assistant."
LEFT_TO_THE_PRESET: Final[Mapping[str, Mapping[str, Any]]] = {
    "data": {"sealed": None, "validation": None, "seeds": "seeds.jsonl"},
    "reward": {"weights": None},
    "search": {"recipe": "drpo", "depth": None, "first": None, "queries": None},
    "tune": {"k": None, "order": None},
}
"""Tables of run.toml that leave to the preset what `write_run` would set."""
SHORT: Final = {**LEFT_TO_THE_PRESET["search"], "depth": 2, "deeper": 0}
REASONS: Final = {"clarity": "the topic is abstract", "depth": "the user is curious", "safety": "it may do harm"}


@dataclass
class PublishedModels:
    """Models that reply as the published method asks for.

    Attributes:
        unreadable: Numbers of the verdicts on answers of the task model that cannot be read, from 0.
        same_rewrites: Whether the writer model writes the same prompt in each choice and each reply.
        score: The score of every criterion of an answer of the task model.
        requests: Path and body of each request, in order.
        verdicts: The number of verdicts on answers of the task model.
    """

    unreadable: frozenset[int] = frozenset()
    same_rewrites: bool = False
    score: int = 3
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    verdicts: int = 0

    async def complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append((request.path.removeprefix("/v1/"), body))
        system = body["prompt"].partition("# Query:")[0]
        text = f"\nAn answer under prompt {stable_number(system, 1000)}.\n"
        return web.json_response({"choices": [{"text": text, "finish_reason": "stop"}], "usage": _USAGE})

    async def chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append((request.path.removeprefix("/v1/"), body))
        texts = self._write(body) if body["model"] == "optimizer" else [self._judge(body["messages"][0]["content"])]
        choices = [{"message": {"content": text}, "finish_reason": "stop"} for text in texts]
        return web.json_response({"choices": choices, "usage": _USAGE})

    def _write(self, body: Mapping[str, Any]) -> list[str]:
        if "The answer so far:" in body["messages"][0]["content"]:
            return [json.dumps({"analysis": "a", "answer": "A better answer."})]
        calls = sum(one["model"] == "optimizer" and one["n"] > 1 for _, one in self.requests if "n" in one)
        names = [f"Prompt {calls}.{choice}." for choice in range(body["n"])]
        prompts = ["The same prompt."] * body["n"] if self.same_rewrites else names
        return [json.dumps({"analysis": "a", "thought": "t", "new_system_prompt": prompt}) for prompt in prompts]

    def _judge(self, prompt: str) -> str:
        if prompt.startswith("You set the standard"):
            chosen = [{"name": name, "reason": reason} for name, reason in REASONS.items()]
            return json.dumps({"analysis": {"topic": "t"}, "criteria": chosen})
        names = re.findall(r"^- ([\w-]+): ", prompt.partition("\nCriteria:\n")[2], re.MULTILINE)
        score = 5 if "A better answer." in prompt else 3
        if "\nAn answer under prompt" in prompt:
            self.verdicts += 1
            score = self.score
            if self.verdicts - 1 in self.unreadable:
                return "I would rather not."
        return json.dumps({name: {"rationale": "because", "score": score} for name in names})

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the bodies of the requests of a kind, in order."""
        return [body for path, body in self.requests if kind_of(path, body) == kind]


_USAGE: Final = {"prompt_tokens": 20, "completion_tokens": 10}


def kind_of(path: str, body: Mapping[str, Any]) -> str:
    if path == "completions":
        return "answer"
    text = body["messages"][0]["content"]
    if body["model"] == "optimizer":
        return "rewrite of an answer" if "The answer so far:" in text else "rewrite of a prompt"
    if text.startswith("You set the standard"):
        return "choice for examples" if "the 3 to 6 criteria" in text else "choice"
    return "verdict on an example" if "merciless critic" in text else "verdict"


@asynccontextmanager
async def open_published_models(**settings: Any) -> AsyncIterator[tuple[PublishedModels, str]]:
    models = PublishedModels(**settings)
    app = web.Application()
    app.router.add_post("/v1/completions", models.complete)
    app.router.add_post("/v1/chat/completions", models.chat)
    async with TestServer(app) as server:
        yield models, str(server.make_url("/v1"))


def write_published_run(folder: Path, url: str, **tables: Mapping[str, Any]) -> Path:
    """Write a run.toml with the recipe drpo, two seeds and no sealed rows."""
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"query": query, "reference": answer}) for query, answer in SEEDS]
    (folder / "seeds.jsonl").write_text("\n".join(lines))
    settings = {
        **LEFT_TO_THE_PRESET,
        "models__task": {"kind": "completion"},
        "search": SHORT,
        "bundle": {"name": "published"},
    }
    return write_run(folder, url, rows=6, **{**settings, **tables})


async def run_published(folder: Path, url: str, **tables: Mapping[str, Any]) -> Result:
    return await run_config(write_published_run(folder, url, **tables), folder / "out")


async def first_of_each_kind(folder: Path) -> dict[str, dict[str, Any]]:
    async with open_published_models() as (models, url):
        await run_published(folder, url)
    return {kind_of(path, body): body for path, body in reversed(models.requests)}


async def test_requests_are_the_recorded_ones(tmp_path: Path) -> None:
    assert await first_of_each_kind(tmp_path) == json.loads(GOLDEN.read_text(encoding="utf-8"))


async def test_request_for_an_answer_has_the_published_layout_sampling_and_stop_strings(tmp_path: Path) -> None:
    body = (await first_of_each_kind(tmp_path))["answer"]
    assert body["prompt"].startswith(f"# instructions\n\n{PROMPT}\n\n# Query:\n")
    assert body["prompt"].count("#Answer:\n<START>\nA better answer.\n<END>\n\n") == 2, "the 2 nearest examples"
    assert body["prompt"].endswith("# Answer:\n<START>")
    assert body["stop"] == ["<END>", "<END", "<|eot_id|>"]
    assert (body["temperature"], body["max_tokens"]) == (0.0, 2048)


async def test_requests_have_the_published_numbers(tmp_path: Path) -> None:
    found = await first_of_each_kind(tmp_path)
    prompt, answer = found["rewrite of a prompt"], found["rewrite of an answer"]
    assert (prompt["n"], prompt["temperature"], prompt["top_p"]) == (3, 0.2, 0.95)
    assert (answer.get("n", 1), answer["temperature"], answer["top_p"]) == (1, 0.0, 1.0)
    for kind in ("choice", "choice for examples", "verdict", "verdict on an example"):
        assert found[kind]["temperature"] == 0.0
        assert "logprobs" not in found[kind], "scores are integers, not expectations"
    schema = found["verdict"]["response_format"]["json_schema"]["schema"]["properties"]["clarity"]["properties"]
    assert schema["score"] == {"type": "integer", "minimum": 1, "maximum": 5}


async def test_judge_analyses_the_query_and_sees_its_reasons(tmp_path: Path) -> None:
    found = await first_of_each_kind(tmp_path)
    for kind, counts in (("choice", "2 to 5"), ("choice for examples", "3 to 6")):
        text = found[kind]["messages"][0]["content"]
        assert f"the {counts} criteria" in text
        assert all(f"- {one}: " in text for one in ("topic", "intent", "ambiguities", "response_format", "challenges"))
        assert text.count("- over-refusal:") == 0
        schema = found[kind]["response_format"]["json_schema"]["schema"]
        assert list(schema["properties"])[:2] == ["analysis", "criteria"]
        assert ("new" in schema["properties"]) == (kind == "choice for examples")
    for kind in ("verdict", "verdict on an example"):
        text = found[kind]["messages"][0]["content"]
        assert all(reason in text for reason in REASONS.values())


async def test_writer_sees_prompt_query_answer_evaluation_and_the_last_five_prompts(tmp_path: Path) -> None:
    async with open_published_models() as (models, url):
        await run_published(tmp_path, url, search={**SHORT, "depth": 7, "beam": 1})
    text = models.of("rewrite of a prompt")[-1]["messages"][0]["content"]
    shown = text.partition("oldest first. The last one is the current one:\n")[2].partition("\n\nWhat the new")[0]
    prompts = shown.split("\n\n")
    assert [one.partition(". ")[0] for one in prompts] == ["1", "2", "3", "4", "5"]
    current = prompts[-1].removeprefix("5. ")
    assert f"Current system prompt:\n{current}\n" in text
    assert "\nQuery:\ntrain question number" in text
    assert "\nAnswer of the assistant:\nAn answer under prompt" in text
    assert "- clarity: 3: because\n" in text


async def test_published_instructions_work_with_the_raced_algorithm(tmp_path: Path) -> None:
    """The algorithm `raced` lets the first prompt answer its first queries before it is rewritten."""
    async with open_published_models() as (models, url):
        await run_published(tmp_path, url, search={**SHORT, "algorithm": "raced"})
    requests = [body["messages"][0]["content"] for body in models.of("rewrite of a prompt")]
    assert len(requests) > 1
    assert all("\nQuery:\ntrain question number" in text for text in requests)


async def test_stage_one_begins_with_the_given_answers_and_keeps_all(tmp_path: Path) -> None:
    async with open_published_models() as (models, url):
        result = await run_published(tmp_path, url)
    first = [body["messages"][0]["content"] for body in models.of("verdict on an example")]
    assert any("\nAnswer:\nThey attract.\n" in text for text in first)
    assert len(models.of("rewrite of an answer")) == 2, "the rewrites have full marks"
    assert not any("How do magnets" in body["prompt"].rpartition("# Query:")[2] for body in models.of("answer"))
    bundle = load_bundle(result.bundle, open_embedder(DEFAULT_EMBEDDER))
    assert {one.query: one.response for one in bundle.examples} == dict.fromkeys(dict(SEEDS), "A better answer.")
    assert not any(one.pinned for one in bundle.examples)


async def test_bundle_is_written_without_tuning_and_gate_and_serves_three_nearest_first(tmp_path: Path) -> None:
    async with open_published_models() as (_, url):
        result = await run_published(tmp_path, url)
    assert (result.sealed, result.is_found) == (None, True)
    manifest = load_bundle(result.bundle, open_embedder(DEFAULT_EMBEDDER)).manifest
    retrieval = manifest.retrieval
    assert (manifest.layout, retrieval.policy, retrieval.k, retrieval.order) == ("drpo", "nearest", 3, "similar_first")
    assert manifest.sampling == {"temperature": 0.0, "max_tokens": 2048}
    notes = [event for event in read_journal(tmp_path / "out") if "note" in event]
    assert not [event for event in notes if event["note"] == "trial"]
    prompt = (result.bundle / "prompt.txt").read_text(encoding="utf-8").strip()
    assert prompt.startswith("Prompt ")


async def test_report_shows_the_prompt_that_was_found_and_counts_unreadable_verdicts(tmp_path: Path) -> None:
    async with open_published_models(unreadable=frozenset((1, 2))) as (_, url):
        result = await run_published(tmp_path, url)
    found = load_bundle(result.bundle, open_embedder(DEFAULT_EMBEDDER)).prompt
    summary = summarize_run(read_journal(tmp_path / "out"))
    assert summary.nodes[str(summary.result)].prompt == found
    assert summary.usage["judge"].unreadable == 2
    page = write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert page.count('<span class="mark">chosen</span>') == 1
    assert f'<div class="inside text" dir="auto">{found}</div>' in page


@pytest.mark.parametrize("unreadable", [{0}, {1}, {1, 2, 3}])
async def test_unreadable_verdict_is_asked_for_once_counts_as_zero_and_keeps_the_prompt(
    unreadable: set[int], tmp_path: Path
) -> None:
    async with open_published_models(unreadable=frozenset(unreadable)) as (models, url):
        await run_published(tmp_path, url)
    scores = [event for event in read_journal(tmp_path / "out") if event.get("note") == "score"]
    assert [event["score"] for event in scores if not event["score"]] == [0.0] * len(unreadable)
    reminders = [one for one in models.of("verdict") if "could not be read" in one["messages"][0]["content"]]
    assert not reminders
    assert len(models.of("rewrite of a prompt")) == (0 if 0 in unreadable else 1)


@pytest.mark.parametrize(("resample", "calls"), [(True, 3), (False, 2)])
async def test_equal_rewrites_are_sampled_anew(resample: bool, calls: int, tmp_path: Path) -> None:
    """On the second level, both paths have the same prompt, answer and evaluation, unless equal rewrites are one."""
    async with open_published_models(same_rewrites=True) as (models, url):
        await run_published(tmp_path, url, search={**SHORT, "depth": 3, "resample": resample})
    rewrites = models.of("rewrite of a prompt")
    assert len(rewrites) == calls
    assert len({json.dumps(body) for body in rewrites}) == 2


async def test_baseline_is_compared_but_decides_nothing_if_there_are_sealed_rows(tmp_path: Path) -> None:
    async with open_published_models() as (_, url):
        data = {**LEFT_TO_THE_PRESET["data"], "sealed": "sealed.jsonl"}
        result = await run_published(tmp_path, url, data=data)
    assert result.sealed is not None
    assert not result.sealed.improved
    assert result.is_found
    assert (result.bundle / "prompt.txt").read_text(encoding="utf-8").startswith("Prompt ")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(first_of_each_kind(Path(folder)))
    GOLDEN.write_text(json.dumps(dict(sorted(found.items())), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
