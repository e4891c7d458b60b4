"""Tests of requests in experiments: their arm, their headers, their exposures and their feedback."""

import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from index.bundle.bundle import default_bundle_directory
from index.types import ExampleSet
from proxy.api.auth import new_key
from proxy.core.log import log_lines
from proxy.experiments.records import NO_EXPERIMENT, Allocation
from proxy.experiments.store.dsn import dsn_of
from proxy.experiments.store.export import export
from proxy.experiments.store.store import Store
from proxy.experiments.store.stored_outcomes import StoredOutcomes
from proxy.server.reload import reload
from tests.faults.scripted import Received, Reply, completion, scripted_backend
from tests.proxy.serving import Serving, make_settings, served_bundle, serving, until

ARMS = """
metrics = ["thumbs_up"]
control = "plain"
[[arms]]
name = "plain"
variant = "raw-matched"
weight = {plain}
[[arms]]
name = "new"
variant = "aligned"
weight = {new}
"""


MODELS = {"one": "another", "two": "scripted"}


@dataclass(frozen=True, slots=True)
class RunningExperiment:
    """A proxy with an experiment. After the `async with` block, the rows of the store can be read."""

    proxy: Serving
    folder: Path

    def rows(self, name: str = "one", kind: str = "exposure") -> list[dict[str, Any]]:
        return [row for row in export(dsn_of(f"sqlite:{self.folder}/s.sqlite3"), name) if row["type"] == kind]


def write(folder: Path, *, plain: float = 1, new: float = 1, more: str = "", name: str = "one") -> str:
    path = folder / f"{name}.toml"
    path.write_text(f'name = "{name}"\n{more}\n{ARMS.format(plain=plain, new=new)}', encoding="utf-8")
    return str(path)


async def answer(reply: Reply, request: Received) -> None:
    if request.json.get("stream"):
        await reply.begin()
        await reply.chunk(b'data: {"id":"cmpl-s","choices":[{"index":0,"text":"Air.","finish_reason":null}]}\n\n')
        await reply.chunk(b'data: {"id":"cmpl-s","choices":[{"index":0,"text":"","finish_reason":"stop"}]}\n\n')
        await reply.chunk(b"data: [DONE]\n\n")
        await reply.end()
    else:
        await reply.whole(completion("Because of air."))


@asynccontextmanager
async def running_experiment(
    folder: Path, paths: Sequence[str], script: Any = answer, **settings: Any
) -> AsyncIterator[RunningExperiment]:
    experiment_settings = {"experiment": tuple(paths), "store": f"sqlite:{folder}/s.sqlite3", **settings}
    async with scripted_backend(script) as backend, serving(backend.url, **experiment_settings) as proxy:
        yield RunningExperiment(proxy, folder)


async def test_unit_always_gets_its_arm_and_the_reply_names_it(tmp_path: Path) -> None:
    async with running_experiment(tmp_path, [write(tmp_path)]) as one:
        served: dict[str, set[tuple[str, str]]] = {}
        for number in range(60):
            unit = f"user-{number % 20}"
            named = {"headers": {"x-drpo-unit": unit}} if number < 40 else {"user": unit}
            _, headers, _ = await one.proxy.chat(f"question {number}", **named)
            served.setdefault(unit, set()).add((headers["x-drpo-experiment"], headers["x-drpo-variant"]))
    assert all(len(seen) == 1 for seen in served.values())
    assert set.union(*served.values()) == {("one=plain", "raw-matched"), ("one=new", "aligned")}
    rows = one.rows()
    assert (len(rows), len({row["unit"] for row in rows})) == (60, 20), "header and `user` name the same unit"


async def test_conversation_is_the_unit_of_a_request_without_a_name(tmp_path: Path) -> None:
    first = [{"role": "user", "content": "Hello"}]
    later = [*first, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "More"}]
    async with running_experiment(tmp_path, [write(tmp_path)]) as one:
        for messages in (first, later, [{"role": "user", "content": "Other"}]):
            await one.proxy.chat(messages=messages)
        await one.proxy.chat(messages=first, headers={"Authorization": "Bearer someone"})
    units = [row["unit"] for row in one.rows()]
    assert units[0] == units[1]
    assert len(set(units)) == 3
    stored = (
        (tmp_path / "s.sqlite3").read_bytes() + (tmp_path / "s.sqlite3-wal").read_bytes()
        if (tmp_path / "s.sqlite3-wal").exists()
        else (tmp_path / "s.sqlite3").read_bytes()
    )
    assert b"Hello" not in stored
    assert b"someone" not in stored


async def test_variant_named_by_the_client_is_an_override(tmp_path: Path) -> None:
    async with running_experiment(tmp_path, [write(tmp_path)]) as one:
        for named in ({"headers": {"x-drpo-variant": "raw"}}, {"model": "scripted@aligned"}):
            status, headers, _ = await one.proxy.chat(**named)
            assert status == 200
            assert "x-drpo-experiment" not in headers
    assert [(row["override"], row["variant"]) for row in one.rows()] == [(True, "raw"), (True, "aligned")]


async def test_exposure_records_what_happened_to_the_request(tmp_path: Path) -> None:
    async def script(reply: Reply, request: Received) -> None:
        text = request.json["prompt"]
        if "fail" in text:
            await reply.whole(b'{"error": {"message": "no"}}', "400 Bad Request")
        elif "long" in text:
            await reply.whole(completion("and so on", finish_reason="length"))
        elif "report" in text:
            await reply.begin()
            await reply.chunk(b'data: {"error": {"message": "out of memory"}}\n\ndata: [DONE]\n\n')
            await reply.end()
        elif "cut" in text:
            await reply.begin()
            await reply.chunk(b'data: {"id":"cmpl-s","choices":[{"index":0,"text":"Air.","finish_reason":null}]}\n\n')
            await reply.end()
        else:
            await answer(reply, request)

    async with running_experiment(tmp_path, [write(tmp_path, new=0)], script) as one:
        for content in ("well", "long", "fail"):
            await one.proxy.chat(content)
        for content in ("flow", "cut", "report"):
            await one.proxy.stream(messages=[{"role": "user", "content": content}])
        await one.proxy.post("/v1/responses", {"model": "scripted", "input": "hi"})
    well, long, fail, flow, cut, report, response = one.rows()
    names = ("ended_by_itself", "truncated", "error", "client_gone")
    assert [well[name] for name in names] == [True, False, False, False]
    assert [long[name] for name in names] == [False, False, False, False]
    assert [fail[name] for name in names] == [None, False, True, False]
    assert [flow[name] for name in names] == [True, False, False, False]
    assert [cut[name] for name in names] == [None, True, False, False]
    assert [report[name] for name in names] == [None, False, True, False]
    assert well["latency"] > 0
    assert well["time_to_first_token"] is None
    assert 0 < flow["time_to_first_token"] <= flow["latency"]
    assert fail["latency"] is cut["latency"] is None
    assert (well["prompt_tokens"], well["completion_tokens"], well["completion_id"]) == (5, 3, "chatcmpl-1")
    assert flow["completion_id"] == "chatcmpl-s"
    assert response["completion_id"].startswith("resp_")
    assert response["ended_by_itself"]
    assert well["propensity"] == 1.0


async def test_text_completions_and_other_models_are_in_no_experiment(tmp_path: Path) -> None:
    paths = [write(tmp_path, more=f'models = ["{model}"]', name=name) for name, model in MODELS.items()]
    async with running_experiment(tmp_path, paths) as one:
        _, headers, _ = await one.proxy.post("/v1/completions", {"model": "scripted", "prompt": "hi"})
        assert "x-drpo-experiment" not in headers
        _, headers, _ = await one.proxy.chat()
        assert headers["x-drpo-experiment"].startswith("two=")


async def test_experiment_before_its_start_records_and_changes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, plain=1, new=0, more="start = 2100-01-01")
    async with running_experiment(tmp_path, [path]) as one:
        _, headers, _ = await one.proxy.chat()
        assert (headers["x-drpo-variant"], headers.get("x-drpo-experiment")) == ("aligned", None)
    assert [(row["arm"], row["variant"]) for row in one.rows()] == [("", "aligned")]


async def test_experiment_after_its_end_records_nothing(tmp_path: Path) -> None:
    async with running_experiment(tmp_path, [write(tmp_path, plain=1, new=0, more="end = 2001-01-01")]) as one:
        _, headers, _ = await one.proxy.chat()
        assert headers["x-drpo-variant"] == "aligned"
    assert not one.rows()


async def test_stopped_experiment_gives_all_units_the_control(tmp_path: Path) -> None:
    dsn = dsn_of(f"sqlite:{tmp_path}/s.sqlite3")
    with Store(dsn) as store:
        store.set_allocation(Allocation("one", "too many errors", None, 1.0))
    async with running_experiment(tmp_path, [write(tmp_path, plain=0, new=1)]) as one:
        await until(lambda: "one" in one.proxy.gateway.experiments.recorder.allocations)  # type: ignore[union-attr]
        _, headers, _ = await one.proxy.chat()
        assert (headers["x-drpo-variant"], headers.get("x-drpo-experiment")) == ("raw-matched", None)
    assert not one.rows()


async def test_decided_weights_replace_those_of_the_file(tmp_path: Path) -> None:
    with Store(dsn_of(f"sqlite:{tmp_path}/s.sqlite3")) as store:
        store.set_allocation(Allocation("one", "", {"plain": 0.2, "new": 0.8}, 1.0))
    async with running_experiment(tmp_path, [write(tmp_path)]) as one:
        await until(lambda: "one" in one.proxy.gateway.experiments.recorder.allocations)  # type: ignore[union-attr]
        for number in range(20):
            await one.proxy.chat(user=str(number))
    assert {(row["arm"], row["propensity"]) for row in one.rows()} == {("plain", 0.2), ("new", 0.8)}


async def test_arm_serves_its_own_bundle_and_an_arm_without_its_model_is_not_served(tmp_path: Path) -> None:
    shutil.copytree(default_bundle_directory(), tmp_path / "bundle")
    arms = (
        'metrics = ["m"]\ncontrol = "a"\n[[arms]]\nname = "a"\nweight = {}\n{}\n[[arms]]\nname = "b"\nweight = {}\n{}'
    )
    path = tmp_path / "one.toml"
    path.write_text('name = "one"\n' + arms.format(0, "", 1, 'bundle = "bundle"'), encoding="utf-8")
    async with running_experiment(tmp_path, [str(path)]) as one:
        _, headers, _ = await one.proxy.chat()
        assert headers["x-drpo-experiment"] == "one=b"
        assert headers["x-drpo-bundle"] != "b" * 12
        path.write_text('name = "one"\n' + arms.format(0, "", 1, 'model = "nowhere"'), encoding="utf-8")
        await reload(make_settings(experiment=(str(path),)), one.proxy.gateway, one.proxy.shared)
        status, headers, _ = await one.proxy.chat()
        assert (status, headers.get("x-drpo-experiment")) == (200, None)
        assert b'drpo_experiment_requests_total{arm="unavailable",experiment="one"} 1.0' in (
            one.proxy.gateway.metrics.exposition()
        )


async def test_feedback_is_stored_and_invalid_feedback_is_refused(tmp_path: Path) -> None:
    async with running_experiment(tmp_path, [write(tmp_path)]) as one:
        _, headers, reply = await one.proxy.chat()
        mine = {"request_id": headers["x-request-id"], "metric": "thumbs_up"}
        for body in ({**mine, "value": True}, {**mine, "value": True}, {**mine, "metric": "why", "value": "a\0b"}):
            assert (await one.proxy.post("/v1/feedback", body))[0] == 200
        assert (await one.proxy.post("/v1/feedback", {"completion_id": reply["id"], "metric": "s", "value": 3}))[
            0
        ] == 200
        for invalid in (
            {**mine},
            {**mine, "value": None},
            {**mine, "value": [1]},
            {**mine, "value": "x" * 10_001},
            {**mine, "value": 1, "completion_id": "c"},
            {**mine, "value": 1, "request_id": "x" * 201},
            {**mine, "value": 1, "metric": "a b"},
            {**mine, "value": 1, "metric": "latency"},
            {**mine, "value": 1, "unit": "u"},
        ):
            assert (await one.proxy.post("/v1/feedback", invalid))[0] == 400, invalid
    found = [(row["metric"], row["value"], row["comment"]) for row in one.rows(kind="feedback")]
    assert sorted(found) == [("s", 3.0, None), ("thumbs_up", 1.0, None), ("why", None, "a\ufffdb")]


async def test_exposure_names_the_example_set_of_the_request(tmp_path: Path) -> None:
    sets = (ExampleSet("air", ("sky",), ("sky", "sum", "tea")),)
    bundles = {"scripted": served_bundle(sets=sets, policy="set")}
    async with running_experiment(tmp_path, [write(tmp_path, plain=0)], bundles=bundles) as one:
        await one.proxy.chat("Why is the sky blue?")
        await one.proxy.chat("Why is the sky blue?", model="scripted@raw")
    assert [row["example_set"] for row in one.rows()] == ["air", None]


async def test_feedback_needs_a_store_and_a_required_key(tmp_path: Path) -> None:
    body = {"request_id": "r", "metric": "m", "value": 1}
    key, line = new_key("alice")
    (tmp_path / "keys").write_text(line, encoding="utf-8")
    async with running_experiment(tmp_path, [write(tmp_path)], api_keys_file=str(tmp_path / "keys")) as one:
        assert (await one.proxy.post("/v1/feedback", body))[0] == 401
        assert (await one.proxy.post("/v1/feedback", body, {"Authorization": f"Bearer {key}"}))[0] == 200
    async with scripted_backend(answer) as backend, serving(backend.url) as proxy:
        status, _, reply = await proxy.post("/v1/feedback", body)
        assert status == 404
        assert "Start it with --experiment FILE or --store PLACE." in reply["error"]["message"]


async def test_texts_are_stored_without_being_logged_and_logged_without_being_stored(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file, log_lines("json", file):
        async with running_experiment(tmp_path, [write(tmp_path)], store_content=True) as one:
            await one.proxy.chat("Why is the sky blue?")
            await one.proxy.stream()
    assert "sky" not in (tmp_path / "log").read_text(encoding="utf-8")
    async with running_experiment(tmp_path, [write(tmp_path, name="two")], log_content=True) as one:
        await one.proxy.chat("Why is the grass green?")
    with_it, streamed = one.rows()
    (without,) = one.rows("two")
    assert "Air." in streamed["answered_text"]
    assert "asked_text" not in without
    assert "Why is the sky blue?" in with_it["asked_text"]
    assert "Because of air." in with_it["answered_text"]


def no_experiment(folder: Path) -> list[dict[str, Any]]:
    """Return the recorded requests that were in no experiment."""
    return [row for row in export(dsn_of(f"sqlite:{folder}/s.sqlite3"), NO_EXPERIMENT) if row["type"] == "exposure"]


async def test_with_stored_texts_a_request_in_no_experiment_is_recorded_too(tmp_path: Path) -> None:
    other = write(tmp_path, more='models = ["another"]')
    for experiments in ([], [other]):
        async with running_experiment(tmp_path, experiments, store_content=True) as one:
            _, headers, reply = await one.proxy.chat("Why is the sky blue?", user="u")
            assert "x-drpo-experiment" not in headers
            vote = {"completion_id": reply["id"], "metric": "thumbs_up", "value": True}
            assert (await one.proxy.post("/v1/feedback", vote))[0] == 200
            await one.proxy.chat("Why is the sky blue?", model="scripted@raw")
            await one.proxy.post("/v1/completions", {"model": "scripted", "prompt": "The sky"})
    rows = no_experiment(tmp_path)
    assert [(row["arm"], row["propensity"], row["variant"]) for row in rows] == [("", 1.0, "aligned")] * 2
    assert all("sky blue" in row["asked_text"] and "Because of air." in row["answered_text"] for row in rows)
    assert one.rows() == []


async def test_requests_in_no_experiment_beyond_the_limit_are_deleted(tmp_path: Path) -> None:
    kept = {"store_content": True, "max_stored_requests": 2}
    async with running_experiment(tmp_path, [], **kept) as one:
        for number in range(4):
            await one.proxy.chat(f"Question {number}?")
    async with running_experiment(tmp_path, [], **kept):
        await until(lambda: len(no_experiment(tmp_path)) == 2)
    assert ["Question 2" in row["asked_text"] for row in no_experiment(tmp_path)] == [True, False]


@pytest.mark.parametrize("settings", [{}, {"log_content": True}, {"store_content": True, "max_stored_requests": 0}])
async def test_request_in_no_experiment_is_not_recorded_unless_its_texts_are_kept(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    async with running_experiment(tmp_path, [], **settings) as one:
        await one.proxy.chat("Why is the sky blue?", user="u")
    assert no_experiment(tmp_path) == []


async def test_regenerated_answers_are_those_of_one_person(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Yes?"}]
    conversation = [*turns, {"role": "user", "content": "Why is the sky blue?"}]
    async with running_experiment(tmp_path, [write(tmp_path)]) as one:
        for _ in range(2):
            await one.proxy.chat("hi")  # two people, or one person twice: nobody knows
            await one.proxy.chat("hi", user="u")
            await one.proxy.chat(messages=conversation)
    units = StoredOutcomes(dsn_of(f"sqlite:{tmp_path}/s.sqlite3")).units("one")
    assert sorted(unit.metrics.get("regenerated", (0, 0)) for unit in units) == [(1.0, 2), (1.0, 2)]
