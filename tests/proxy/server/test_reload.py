"""Tests that keys are required where they must be, and that a reload replaces everything or nothing."""

import asyncio
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from index.bundle.bundle import default_bundle_directory
from index.errors import BundleError
from proxy.api.auth import new_key
from proxy.core.errors import StartupError
from proxy.inference.injection import served_bundles as live
from proxy.inference.injection.model_bundles import load_bundles
from proxy.server.reload import reload
from tests.faults.scripted import Received, Reply, completion, scripted_backend
from tests.proxy.serving import make_settings, serving, until


async def answer(reply: Reply, request: Received) -> None:
    await reply.whole(completion("Yes."))


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


async def test_keys_are_required_except_for_health_and_metrics(keys_file: Path) -> None:
    key, line = new_key("alice")
    keys_file.write_text(line, encoding="utf-8")
    async with scripted_backend(answer) as backend, serving(backend.url, api_keys_file=str(keys_file)) as proxy:
        asked = len(backend.received)
        for headers in ({}, bearer("wrong"), {"X-Api-Key": key}):
            status, sent, reply = await proxy.chat(headers=headers)
            assert (status, reply["error"]["code"], sent["WWW-Authenticate"]) == (401, "invalid_api_key", "Bearer")
            for path in ("/v1/models", "/v1/models/scripted"):
                async with proxy.session.get(path, headers=headers) as response:
                    assert response.status == 401
        assert len(backend.received) == asked
        for path in ("/health/live", "/health/ready", "/metrics", "/openapi.json"):
            async with proxy.session.get(path) as response:
                assert response.status == 200
        assert (await proxy.chat(headers=bearer(key)))[0] == 200
        async with proxy.session.get("/v1/models", headers=bearer(key)) as response:
            assert response.status == 200
        assert key not in str([one.headers for one in backend.received]), "our key is not the backend's to see"


async def test_requests_over_the_limit_of_a_key_get_429_and_do_not_reach_the_backend(keys_file: Path) -> None:
    key, line = new_key("alice")
    keys_file.write_text(f"{line} requests_per_minute=2", encoding="utf-8")
    async with scripted_backend(answer) as backend, serving(backend.url, api_keys_file=str(keys_file)) as proxy:
        began = time.monotonic()
        replies = [await proxy.chat(headers=bearer(key)) for _ in range(3)]
        assert [status for status, _, _ in replies] == [200, 200, 429]
        passed = time.monotonic() - began
        assert 30 - passed <= int(replies[2][1]["Retry-After"]) <= 30
        assert len(backend.generating) == 2


async def test_tokens_of_a_key_are_charged_by_usage_and_returned_if_nothing_was_answered(keys_file: Path) -> None:
    key, line = new_key("alice")
    keys_file.write_text(f"{line} tokens_per_minute=1000", encoding="utf-8")
    refused = asyncio.Event()

    async def held(reply: Reply, request: Received) -> None:
        if request.json.get("held"):
            await refused.wait()
        await answer(reply, request)

    async with scripted_backend(held) as backend:
        async with serving(backend.url, bundles={}, api_keys_file=str(keys_file)) as proxy:
            for _ in range(5):  # each request reserves about 550 tokens and uses 8
                assert (await proxy.chat(headers=bearer(key), max_tokens=500))[0] == 200
            first = asyncio.create_task(proxy.chat(headers=bearer(key), max_tokens=500, held=True))
            await until(lambda: backend.generating[-1].json.get("held"))
            assert (await proxy.chat(headers=bearer(key), max_tokens=500))[0] == 429
            refused.set()
            assert (await first)[0] == 200
            proxy.gateway.pool.backends[0].url = "http://127.0.0.1:9"
            for _ in range(3):
                assert (await proxy.chat(headers=bearer(key), max_tokens=500))[0] == 503


def default_copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(default_bundle_directory(), tmp_path / "bundle"))


async def test_reload_serves_the_new_bundle_and_refuses_a_broken_one(tmp_path: Path, keys_file: Path) -> None:
    first, line = new_key("alice")
    keys_file.write_text(line, encoding="utf-8")
    copy = default_copy(tmp_path)
    told: dict[str, Any] = {"bundle": (f"scripted={copy}",), "api_keys_file": str(keys_file)}
    bundles = load_bundles(told["bundle"], ())
    async with scripted_backend(answer) as backend, serving(backend.url, bundles=bundles, **told) as proxy:
        before = (await proxy.chat(headers=bearer(first)))[1]["x-drpo-bundle"]
        (copy / "prompt.txt").write_text("tampered with", encoding="utf-8")
        second, line = new_key("bob")
        keys_file.write_text(line, encoding="utf-8")
        with pytest.raises(BundleError, match=r"prompt\.txt"):
            await reload(make_settings(**told), proxy.gateway, proxy.shared)
        status, headers, _ = await proxy.chat(headers=bearer(first))
        assert (status, headers["x-drpo-bundle"]) == (200, before), "all or nothing: the old keys too"
        shutil.rmtree(copy)
        default_copy(tmp_path)
        await reload(make_settings(**told), proxy.gateway, proxy.shared)
        assert (await proxy.chat(headers=bearer(first)))[0] == 401
        assert (await proxy.chat(headers=bearer(second)))[0] == 200
        keys_file.write_text("nonsense", encoding="utf-8")
        with pytest.raises(StartupError, match="line 1"):
            await reload(make_settings(**told), proxy.gateway, proxy.shared)
        assert (await proxy.chat(headers=bearer(second)))[0] == 200


async def test_reload_does_not_open_the_default_embedder_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {"bundle": (f"scripted={default_copy(tmp_path)}",)}
    bundles = load_bundles(told["bundle"], ())
    async with scripted_backend(answer) as backend, serving(backend.url, bundles=bundles, **told) as proxy:
        monkeypatch.setattr(live, "open_embedder", None)
        await reload(make_settings(**told), proxy.gateway, proxy.shared)
        assert proxy.gateway.bundles["scripted"] is not bundles.named["scripted"]
        assert proxy.gateway.bundles["scripted"].search.embedder is bundles.named["scripted"].search.embedder
        assert (await proxy.chat())[0] == 200


async def test_reload_under_load_gives_each_request_exactly_one_bundle(tmp_path: Path) -> None:
    told: dict[str, Any] = {"bundle": (f"scripted={default_copy(tmp_path)}",)}
    bundles = load_bundles(told["bundle"], ())
    async with scripted_backend(answer) as backend, serving(backend.url, bundles=bundles, **told) as proxy:
        done = asyncio.Event()

        async def ask() -> set[tuple[int, str, int]]:
            seen = set()
            while not done.is_set():
                status, headers, _ = await proxy.chat()
                seen.add((status, headers["x-drpo-bundle"], len(headers["x-drpo-examples"].split(","))))
            return seen

        asking = [asyncio.create_task(ask()) for _ in range(4)]
        for _ in range(3):
            await reload(make_settings(**told), proxy.gateway, proxy.shared)
        done.set()
        seen = set().union(*[await task for task in asking])
    assert {(status, bundle) for status, bundle, _ in seen} == {(200, bundles.named["scripted"].id)}


def test_forwarding_authorization_with_a_keys_file_is_refused(keys_file: Path) -> None:
    keys_file.write_text(new_key("alice")[1], encoding="utf-8")
    with pytest.raises(StartupError, match="forward-authorization"):
        make_settings(api_keys_file=str(keys_file), forward_authorization=True)
