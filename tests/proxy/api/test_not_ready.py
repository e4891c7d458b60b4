"""Guards that a failure that ends by itself is reported as temporary: 503 and Retry-After, not an unknown model."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

from tests.faults.scripted import (
    Received,
    Reply,
    ScriptedBackend,
    completion,
    reserved_port,
    scripted_backend,
    stopped_backend,
)
from tests.proxy.serving import Serving, serving, until

CHAT = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}]}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", CHAT),
    "a stream": ("/v1/chat/completions", {**CHAT, "stream": True}),
    "a variant": ("/v1/chat/completions", {**CHAT, "model": "scripted@raw"}),
    "no model": ("/v1/chat/completions", {"messages": CHAT["messages"]}),
    "a completion": ("/v1/completions", {"model": "scripted", "prompt": "hi"}),
    "a response": ("/v1/responses", {"model": "scripted", "input": "hi", "stream": True}),
    "embeddings": ("/v1/embeddings", {"model": "scripted", "input": "hi"}),
    "tokens": ("/tokenize", {"model": "scripted", "prompt": "hi"}),
}
BOTH = pytest.mark.parametrize(("path", "body"), REQUESTS.values(), ids=REQUESTS)
Script = Callable[[Reply, Received], Awaitable[None]]


async def answer(reply: Reply, request: Received) -> None:
    await reply.whole(completion("Yes."))


def listing(status: str, payload: Any) -> Script:
    async def script(reply: Reply, request: Received) -> None:
        await reply.whole(payload, status)

    return script


LOADING: dict[str, Script] = {
    "503": listing("503 Service Unavailable", {"error": {"message": "Loading model", "code": 503}}),
    "an empty list": listing("200 OK", {"object": "list", "data": []}),
    "no list": listing("200 OK", {"object": "list", "data": None}),
    "a page of a gateway": listing("502 Bad Gateway", b"<html>502</html>"),
}


@asynccontextmanager
async def serving_and_restarting() -> AsyncIterator[tuple[Serving, ScriptedBackend]]:
    """Run a proxy whose backend does not run yet. The test starts it and stops it."""
    with stopped_backend(answer) as backend:
        async with serving(backend.url, health_interval=0.05) as proxy:
            yield proxy, backend


async def _is_temporary(proxy: Serving, path: str, body: dict[str, Any]) -> None:
    status, headers, reply = await proxy.post(path, body)
    assert (status, reply["error"]["code"], headers["Retry-After"]) == (503, "backend_unavailable", "5")
    assert reply["error"]["type"] == "backend_error"
    assert "127.0.0.1" not in reply["error"]["message"]


@BOTH
@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
async def test_request_before_the_backend_is_up_is_503(path: str, body: dict[str, Any], host: str) -> None:
    with reserved_port() as port:
        async with serving(f"http://{host}:{port}", health_interval=60) as proxy:
            await _is_temporary(proxy, path, body)
            for listed in ("/v1/models", "/v1/models/scripted"):
                async with proxy.session.get(listed) as response:
                    assert (response.status, response.headers["Retry-After"]) == (503, "5")


@BOTH
@pytest.mark.parametrize("state", LOADING)
async def test_request_while_the_backend_is_loading_is_503(path: str, body: dict[str, Any], state: str) -> None:
    async with scripted_backend(answer, listing=LOADING[state]) as backend:
        async with serving(backend.url, health_interval=60) as proxy:
            await _is_temporary(proxy, path, body)


@BOTH
async def test_model_that_a_backend_out_of_reach_may_serve_is_503(path: str, body: dict[str, Any]) -> None:
    with reserved_port() as port:
        async with (
            scripted_backend(answer, model="other") as backend,
            serving(backend.url, f"http://127.0.0.1:{port}", health_interval=60) as proxy,
        ):
            if "model" in body:
                await _is_temporary(proxy, path, body)
            assert (await proxy.post("/v1/embeddings", {"model": "other", "input": "hi"}))[0] == 200
            async with proxy.session.get("/v1/models") as response:
                assert (response.status, len((await response.json())["data"])) == (200, 2)


@BOTH
async def test_model_that_no_backend_serves_is_404_when_all_backends_answer(path: str, body: dict[str, Any]) -> None:
    async with scripted_backend(answer) as one, scripted_backend(answer, model="other") as two:
        async with serving(one.url, two.url, health_interval=60) as proxy:
            status, headers, reply = await proxy.post(path, {**body, "model": "nobody"})
            assert (status, reply["error"]["code"]) == (404, "model_not_found")
            assert "Retry-After" not in headers


async def test_backend_that_restarts_is_503_until_it_is_back() -> None:
    async with serving_and_restarting() as (proxy, backend):
        async with scripted_backend(backend):
            await until(lambda: proxy.gateway.pool.models)
            assert (await proxy.chat())[0] == 200
        status, headers, reply = await proxy.chat(stream=True)
        assert (status, reply["error"]["code"], headers["Retry-After"]) == (503, "backend_unavailable", "5")
        async with scripted_backend(backend):
            async with asyncio.timeout(60):
                while (await proxy.chat())[0] != 200:
                    await asyncio.sleep(0.02)


async def test_openai_client_waits_until_the_backend_is_up() -> None:
    async with serving_and_restarting() as (proxy, backend):
        client = openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="any", max_retries=5)
        asking = asyncio.create_task(client.chat.completions.create(model="scripted", messages=CHAT["messages"]))
        await asyncio.sleep(0.1)
        async with scripted_backend(backend):
            reply = await asking
        await client.close()
    assert reply.choices[0].message.content == "Yes."
