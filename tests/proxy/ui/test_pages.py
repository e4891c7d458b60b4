"""Tests the routes of the operator page: what they return, to whom, and that they bypass no check."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import orjson
import pytest
from aiohttp.test_utils import TestServer

from index.types import ExampleSet
from proxy.api.admin import AddPage, Controls, Reloaded, create_admin_app
from proxy.core.settings import ExperimentSettings
from proxy.experiments.dashboard import Dashboard
from proxy.ui.pages import add_files, add_page, project_to_plane
from tests.faults.scripted import Received, Reply, completion, scripted_backend
from tests.proxy.serving import Serving, served_bundle, serving

ASKED = {"model": "scripted@aligned", "messages": [{"role": "user", "content": "Why is the sky blue?"}]}


async def answer(reply: Reply, _: Received) -> None:
    whole = completion("Because of air.")
    await reply.whole({**whole, "usage": {**whole["usage"], "prompt_tokens_details": {"cached_tokens": 3}}})


async def no_reload() -> Reloaded:
    raise AssertionError("nobody asked for it")


@asynccontextmanager
async def admin(page: AddPage) -> AsyncIterator[aiohttp.ClientSession]:
    """Yield a session of the admin listener's application."""
    app = create_admin_app(Controls(no_reload, Dashboard(ExperimentSettings()), page))
    async with TestServer(app) as server, aiohttp.ClientSession(server.make_url("/")) as session:
        yield session


@asynccontextmanager
async def operated(**settings: Any) -> AsyncIterator[tuple[Serving, aiohttp.ClientSession, Any]]:
    async with (
        scripted_backend(answer) as backend,
        serving(backend.url, **settings) as proxy,
        admin(partial(add_page, gateway=proxy.gateway)) as session,
    ):
        yield proxy, session, backend


async def told(session: aiohttp.ClientSession, path: str, body: Mapping[str, Any] | None = None) -> Any:
    method = "GET" if body is None else "POST"
    async with session.request(method, path, json=body) as reply:
        return reply.status, await reply.json(content_type=None)


async def test_page_files_have_a_content_security_policy_without_other_origins() -> None:
    async with admin(add_files) as session:
        for path in ("/ui", "/ui/app.js", "/ui/style.css", "/ui/playground.js"):
            async with session.get(path) as reply:
                assert reply.status == 200
                policy = reply.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert reply.headers["X-Content-Type-Options"] == "nosniff"
        async with session.get("/", allow_redirects=False) as reply:
            assert (reply.status, reply.headers["Location"]) == (302, "/ui")


@pytest.mark.parametrize(
    "path", ["/ui/..%2Fpage.py", "/ui/page.py", "/ui/%2Fetc%2Fpasswd", "/ui/none.js", "/ui/ui", f"/ui/{'a' * 300}.js"]
)
async def test_page_serves_only_its_own_files(path: str) -> None:
    async with admin(add_files) as session, session.get(path) as reply:
        assert reply.status == 404


async def test_page_of_another_origin_is_refused() -> None:
    async with operated() as (_, session, backend):
        for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
            async with session.post("/ui/api/chat", json=ASKED, headers=headers) as reply:
                assert reply.status == 403
        assert not backend.generating


async def test_chat_is_handled_like_a_client_request_without_a_key() -> None:
    async with operated() as (proxy, session, backend):
        status, reply = await told(session, "/ui/api/chat", ASKED)
        assert (status, reply["choices"][0]["message"]["content"]) == (200, "Because of air.")
        await proxy.post("/v1/chat/completions", ASKED)
        ours, clients = (request.json for request in backend.generating)
        assert ours == clients


async def test_explained_plan_equals_what_is_sent() -> None:
    async with operated() as (_, session, backend):
        status, plan = await told(session, "/ui/api/explain", ASKED)
        assert status == 200
        assert not backend.generating
        await told(session, "/ui/api/chat", ASKED)
        assert plan["text"] == backend.generating[0].json["prompt"]
        assert plan["examples"][0]["id"] == "refuse"
        by_id = {one["id"]: one["similarity"] for one in plan["examples"]}
        assert by_id["sky"] == pytest.approx(1.0, abs=1e-3)
        assert by_id["refuse"] < 1.0
        assert plan["tokens"] > 0


@pytest.mark.parametrize(("own", "prompt"), [(None, "Answer well."), ("Explain.", "Explain.")])
async def test_explained_plan_has_the_prompt_that_is_sent(own: str | None, prompt: str) -> None:
    sets = (ExampleSet("air", ("sky",), ("sky", "sum", "tea"), prompt=own),)
    served = served_bundle(sets=sets, policy="set")
    async with operated(bundles={"scripted": served}) as (_, session, _backend):
        _, plan = await told(session, "/ui/api/explain", ASKED)
    assert (plan["prompt"], plan["set"]) == (prompt, "air")
    assert plan["text"].startswith(f"{prompt}\n\n")


async def test_explained_raw_plan_has_no_examples() -> None:
    async with operated() as (_, session, _backend):
        _, plan = await told(session, "/ui/api/explain", {**ASKED, "model": "scripted@raw"})
        assert (plan["text"], "examples" in plan) == ("Why is the sky blue?", False)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/ui/api/explain", {**ASKED, "model": "nobody"}, 404),
        ("/ui/api/explain", {**ASKED, "messages": []}, 400),
        ("/ui/api/search", {"model": "scripted", "query": " "}, 400),
        ("/ui/api/search", {"model": "nobody", "query": "tea"}, 404),
        ("/ui/api/bundle?model=nobody", None, 404),
    ],
)
async def test_wrong_request_of_the_page_is_an_error_with_its_reason(path: str, body: Any, status: int) -> None:
    async with operated() as (_, session, _backend):
        found, reply = await told(session, path, body)
        assert found == status
        assert reply["error"]["message"]


async def test_bundle_has_a_map_position_for_each_example() -> None:
    async with operated() as (_, session, _backend):
        _, bundle = await told(session, "/ui/api/bundle?model=scripted")
        assert [one["id"] for one in bundle["examples"]] == ["refuse", "sky", "sum", "tea"]
        assert len(bundle["map"]) == 4
        assert bundle["prompt"] == "Answer well."
        assert bundle["reason"] == "--bundle names it for this model"
        _, state = await told(session, "/ui/api/state")
        assert state["models"][0]["bundle"].endswith(", because --bundle names it for this model")


async def test_bundle_describes_its_sets_with_the_keys_of_sets_json() -> None:
    served = served_bundle()
    food = ExampleSet("food", ("tea",), ("tea", "sum"))
    sets = (food, replace(food, name="air", members=(), prompt="Explain."))
    served = replace(served, bundle=replace(served.bundle, sets=sets))
    async with operated(bundles={"scripted": served}) as (_, session, _backend):
        _, bundle = await told(session, "/ui/api/bundle?model=scripted")
    record = {"name": "food", "shown": ["tea"], "voters": ["tea", "sum"], "kind": "other", "weight": 1.0}
    record["minimum_similarity"] = -1.0
    assert bundle["sets"] == [record, {**record, "name": "air", "voters": [], "prompt": "Explain."}]
    assert {one["id"]: one["votes_for"] for one in bundle["examples"]}["sum"] == "food"


async def test_changes_of_the_bundle_of_an_arm_are_those_of_the_command_diff(tmp_path: Path) -> None:
    arm = '[[arms]]\nname = "{}"\nweight = 1\nvariant = "aligned"\n{}'
    arms = arm.format("old", "") + arm.format("new", 'bundle = "default"\n')
    (tmp_path / "one.toml").write_text(f'name = "one"\nmetrics = ["m"]\ncontrol = "old"\n{arms}', encoding="utf-8")
    store = {"experiment": (str(tmp_path / "one.toml"),), "store": f"sqlite:{tmp_path}/s.sqlite3"}
    async with operated(**store) as (_, session, _backend):
        status, (change,) = await told(session, "/ui/api/changes?experiment=one")
        assert await told(session, "/ui/api/changes?experiment=none") == (200, [])
    assert (status, change["arm"], change["control"], change["before"]) == (200, "new", "old", "small")
    assert change["lines"][:2] == ["prompt", "  - Answer well."]
    assert any(line.startswith("  - sky: Why is the sky blue?") for line in change["lines"])


async def test_feedback_of_an_unknown_experiment_is_not_found() -> None:
    async with admin(add_files) as session:
        status, reply = await told(session, "/experiments/none/feedback")
        assert status == 404
        assert "no experiment with this name" in reply["error"]["message"]


async def test_search_returns_nearest_and_shown_examples() -> None:
    async with operated() as (_, session, _backend):
        _, found = await told(session, "/ui/api/search", {"model": "scripted", "query": "How do I make tea?"})
        assert found["nearest"][0]["id"] == "tea"
        assert found["nearest"][0]["similarity"] == pytest.approx(1.0, abs=1e-3)
        assert found["shown"][0] == "tea"


async def test_live_returns_metrics_without_text_of_users() -> None:
    async with operated() as (proxy, session, _backend):
        await proxy.chat("Why is the sky blue?")
        status, live = await told(session, "/ui/api/live")
        assert status == 200
        served = [one for one in live["samples"] if one["name"] == "drpo_requests_total"]
        assert sum(one["value"] for one in served) == 1
        cached = [one for one in live["samples"] if one["labels"].get("type") == "cached" and "total" in one["name"]]
        assert [one["value"] for one in cached] == [3]
        assert "sky" not in orjson.dumps(live).decode()
        assert live["backends"][0]["trouble"] is None


def test_map_separates_clusters_and_keeps_its_signs() -> None:
    vectors = np.eye(6, dtype=np.float32)[[0, 0, 1, 1, 2, 2]]
    places = project_to_plane(vectors)
    assert np.abs(places).max() == pytest.approx(1.0)
    assert np.allclose(places[0], places[1], atol=1e-6)
    assert np.linalg.norm(places[0] - places[2]) > 0.5
    assert np.array_equal(places, project_to_plane(vectors))
    assert np.array_equal(project_to_plane(vectors[:1]), np.zeros((1, 2), np.float32))
