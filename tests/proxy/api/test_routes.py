"""Tests of every served path, of requests that are refused before they reach a backend, and of CORS."""

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from index.types import EmbedderSpec
from proxy.api.app import create_app
from tests.faults.scripted import Received, Reply, completion, scripted_backend
from tests.proxy.serving import served_bundle, serving, until


async def answer(reply: Reply, request: Received) -> None:
    await reply.whole(completion("Yes."))


async def test_models_are_listed_with_their_variants() -> None:
    async with scripted_backend(answer) as backend, serving(backend.url) as proxy:
        async with proxy.session.get("/v1/models") as response:
            names = [card["id"] for card in (await response.json())["data"]]
        assert names == ["scripted", "scripted@aligned", "scripted@raw"]
        async with proxy.session.get("/v1/models/scripted@raw") as response:
            assert (await response.json())["max_model_len"] == 4096
        async with proxy.session.get("/v1/models/nobody") as response:
            assert (response.status, (await response.json())["error"]["code"]) == (404, "model_not_found")


async def test_request_without_a_model_gets_the_first_listed_model_if_backends_agree() -> None:
    message = {"messages": [{"role": "user", "content": "hi"}]}
    async with scripted_backend(answer) as one, scripted_backend(answer, model="other") as two:
        async with serving(one.url, one.url) as proxy:
            for body in (message, {**message, "model": None}, {**message, "model": ""}):
                status, headers, _ = await proxy.post("/v1/chat/completions", body)
                assert (status, headers["x-drpo-variant"]) == (200, "aligned")
            assert (await proxy.post("/v1/embeddings", {"input": "hi"}))[0] == 200
            assert one.generating[-1].json == {"input": "hi", "model": "scripted"}
        async with serving(one.url, two.url) as proxy:
            status, _, reply = await proxy.post("/v1/chat/completions", message)
            assert (status, reply["error"]["param"]) == (400, "model")
            assert "Available: other, scripted." in reply["error"]["message"]


async def test_openapi_document_lists_exactly_the_routes_and_models() -> None:
    async with scripted_backend(answer) as backend, serving(backend.url) as proxy:
        async with proxy.session.get("/openapi.json") as response:
            document = await response.json()
        routes = create_app(proxy.gateway).router.routes()
    served = {(route.resource.canonical, route.method) for route in routes if route.resource and route.method != "HEAD"}
    described = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    assert described == served
    asked = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert asked["properties"]["model"]["enum"] == ["scripted", None]


@pytest.mark.parametrize(
    ("method", "path", "allowed"), [("GET", "/v1/chat/completions", "POST"), ("POST", "/v1/models", "GET, HEAD")]
)
async def test_unsupported_method_is_405_with_the_allowed_method(method: str, path: str, allowed: str) -> None:
    async with scripted_backend(answer) as backend, serving(backend.url) as proxy:
        async with proxy.session.request(method, path) as response:
            assert (response.status, response.headers["Allow"]) == (405, allowed)
            assert (await response.json())["error"]["message"] == f"This path takes {allowed}."


async def test_model_without_a_bundle_is_served_raw_and_not_listed_as_aligned() -> None:
    async with scripted_backend(answer) as backend, serving(backend.url, bundles={}) as proxy:
        async with proxy.session.get("/v1/models") as response:
            assert [card["id"] for card in (await response.json())["data"]] == ["scripted", "scripted@raw"]
        _, headers, _ = await proxy.chat()
        assert headers["x-drpo-variant"] == "raw"


async def test_readiness_requires_a_backend_and_the_model_of_a_bundle() -> None:
    async with scripted_backend(answer) as backend:
        async with serving(backend.url) as proxy, proxy.session.get("/health/ready") as response:
            assert response.status == 200
        bundles = {"other": served_bundle()}
        async with serving(backend.url, bundles=bundles) as proxy, proxy.session.get("/health/ready") as response:
            assert response.status == 503
    async with serving("http://127.0.0.1:9") as proxy:
        async with proxy.session.get("/health/ready") as response:
            assert (response.status, (await response.json())["reasons"]) == (503, ["no backend answers"])
        async with proxy.session.get("/health/live") as response:
            assert response.status == 200


async def test_backend_that_starts_later_is_found() -> None:
    async with scripted_backend(answer) as backend:
        url, backend_models = backend.url, "/v1/models"
        async with serving(url, health_interval=0.05) as proxy:
            proxy.gateway.pool.backends[0].healthy = False
            proxy.gateway.pool.backends[0].models = {}
            await until(lambda: proxy.gateway.pool.models)
            assert [one.path for one in backend.received].count(backend_models) >= 2
            assert (await proxy.chat())[0] == 200


async def test_dead_backend_is_503_and_the_next_one_is_tried_first() -> None:
    async with scripted_backend(answer) as backend, serving(backend.url) as proxy:
        pool = proxy.gateway.pool
        pool.backends[0].url = "http://127.0.0.1:9"
        status, headers, reply = await proxy.chat()
        assert (status, reply["error"]["code"], headers["Retry-After"]) == (503, "backend_unavailable", "5")
        assert not pool.backends[0].healthy


async def test_request_is_not_repeated_after_a_new_connection_closed() -> None:
    async def script(reply: Reply, request: Received) -> None:
        if len(backend.generating) == 1:
            await reply.whole(completion("Yes."), Connection="close")
            reply.writer.close()
        else:
            reply.reset()

    # Without a bundle, the proxy sends no requests that count tokens. So it has only one connection to the backend, and
    # the first reply closes it.
    async with scripted_backend(script) as backend, serving(backend.url, bundles={}, health_interval=60) as proxy:
        assert (await proxy.chat())[0] == 200
        status, _, reply = await proxy.chat()
        assert (status, reply["error"]["code"]) == (502, "backend_unavailable")
        assert len(backend.generating) == 2


async def test_request_is_repeated_once_after_a_reused_connection_closed() -> None:
    async def script(reply: Reply, request: Received) -> None:
        if len(backend.generating) == 2:
            reply.reset()
        else:
            await reply.whole(completion("Yes."))

    async with scripted_backend(script) as backend, serving(backend.url, health_interval=60) as proxy:
        assert [(await proxy.chat())[0], (await proxy.chat())[0]] == [200, 200]
        assert len(backend.generating) == 3


async def test_completions_are_relayed_raw_unless_a_variant_is_named() -> None:
    async with scripted_backend(answer) as backend, serving(backend.url) as proxy:
        body = {"model": "scripted", "prompt": ["a", "b"], "echo": True, "max_tokens": 3}
        _, headers, reply = await proxy.post("/v1/completions", body)
        assert (backend.generating[-1].json, headers["x-drpo-variant"]) == (body, "raw")
        assert reply["object"] == "text_completion"
        _, _, reply = await proxy.post(
            "/v1/completions", {"model": "scripted@aligned", "prompt": "Why is the sky blue?"}
        )
        assert backend.generating[-1].json["prompt"].endswith("# Query:\nWhy is the sky blue?\n\n# Answer:\n")
        assert reply["object"] == "text_completion"


@pytest.mark.parametrize("fields", [{"prompt": [1, 2]}, {"prompt": "a", "echo": True}, {"prompt": "a", "suffix": "b"}])
async def test_completion_that_excludes_injection_is_refused(fields: dict[str, Any]) -> None:
    async with scripted_backend(answer) as backend, serving(backend.url) as proxy:
        status, _, _ = await proxy.post("/v1/completions", {"model": "scripted@aligned", **fields})
        assert (status, backend.generating) == (400, [])


async def test_relayed_request_loses_only_the_variant_suffix() -> None:
    async with scripted_backend(answer) as backend, serving(backend.url) as proxy:
        await proxy.post("/v1/embeddings", {"model": "scripted@raw", "input": "text", "x": 1})
        assert (backend.generating[-1].path, backend.generating[-1].json) == (
            "/v1/embeddings",
            {"model": "scripted", "input": "text", "x": 1},
        )


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/load_lora_adapter", 404),
        ("GET", "/v1/../metrics/", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("GET", "/", 404),
    ],
)
async def test_unknown_path_is_refused_with_an_openai_error(method: str, path: str, status: int) -> None:
    async with scripted_backend(answer) as backend, serving(backend.url) as proxy:
        async with proxy.session.request(method, path, json={"model": "scripted"}) as response:
            assert (response.status, "message" in (await response.json())["error"]) == (status, True)
        assert backend.generating == []


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("data", "headers", "status"),
    [
        (b"{", JSON, 400),
        (b"[]", JSON, 400),
        (b"", JSON, 400),
        (b'{"model": NaN}', JSON, 400),
        (b'{"model": "\\ud800"}', JSON, 404),  # half of a surrogate pair is read as U+FFFD: no model has this name
        (b'{"a":' * 5000, JSON, 400),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"{}", {**JSON, "Content-Encoding": "gzip"}, 415),
        (b'{"model": "' + b"x" * 2000 + b'"}', JSON, 413),
        (b'{"model": "nobody", "messages": []}', JSON, 404),
    ],
)
async def test_invalid_body_is_refused_with_its_status(data: bytes, headers: dict[str, str], status: int) -> None:
    limit = {413: 1024}.get(status, 100_000)
    async with scripted_backend(answer) as backend, serving(backend.url, max_body_bytes=limit) as proxy:
        async with proxy.session.post(
            "/v1/chat/completions", data=data, headers=headers, skip_auto_headers=[]
        ) as response:
            assert response.status == status
            assert (await response.json())["error"]["message"]
        assert backend.generating == []


async def test_slow_body_is_408() -> None:
    async def drip() -> Any:
        yield b'{"model":'
        await asyncio.sleep(30)

    async with scripted_backend(answer) as backend, serving(backend.url, read_timeout=0.1) as proxy:
        async with proxy.session.post("/v1/chat/completions", data=drip(), headers=JSON) as response:
            assert response.status == 408


async def test_more_requests_than_allowed_get_503_and_retry_after() -> None:
    async def never(reply: Reply, request: Received) -> None:
        await asyncio.sleep(60)

    async with scripted_backend(never) as backend, serving(backend.url, max_in_flight=1, max_queue=0) as proxy:
        first = asyncio.create_task(proxy.chat())
        await until(lambda: backend.generating)
        status, headers, reply = await proxy.chat()
        assert (status, headers["Retry-After"], reply["error"]["code"]) == (503, "1", "overloaded")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


class BrokenEmbedder:
    """An embedder that raises an exception, returns NaN, or waits until the answer, as `fault` says."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.answered = threading.Event()
        self.spec = EmbedderSpec("broken", "1", 64)

    def embed(self, texts: list[str]) -> Any:
        if self.fault == "raises":
            raise MemoryError
        if self.fault == "slow":
            self.answered.wait(60)
        return np.full((len(texts), 64), np.nan, dtype=np.float32)


@pytest.mark.parametrize(("fault", "word"), [("raises", "embedder"), ("nan", "embedder"), ("slow", "timeout")])
async def test_broken_embedder_removes_the_examples_but_not_the_answer(fault: str, word: str) -> None:
    embedder = BrokenEmbedder(fault)
    bundles = {"scripted": served_bundle(embedder=embedder)}
    async with (
        scripted_backend(answer) as backend,
        serving(backend.url, bundles=bundles, retrieval_timeout=0.05 if fault == "slow" else 60.0) as proxy,
    ):
        status, headers, _ = await proxy.chat("Why is the sky blue?")
        embedder.answered.set()
        assert (status, headers["x-drpo-reduced"], headers["x-drpo-examples"]) == (200, word, "refuse")
        page = await (await proxy.session.get("/metrics")).text()
    assert f'drpo_injection_reduced_total{{reason="{word}"}}' in page


async def test_cors_is_off_unless_the_origin_is_allowed() -> None:
    async with scripted_backend(answer) as backend, serving(backend.url, cors=["https://app.test"]) as proxy:
        for origin, allowed in (("https://app.test", "https://app.test"), ("https://evil.test", None)):
            _, headers, _ = await proxy.chat(headers={"Origin": origin})
            assert headers.get("Access-Control-Allow-Origin") == allowed
        preflight = {"Origin": "https://app.test", "Access-Control-Request-Headers": "authorization,x-stainless-lang"}
        async with proxy.session.options("/v1/chat/completions", headers=preflight) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Headers"] == "authorization,x-stainless-lang"


@pytest.mark.parametrize("origins", [["https://app.test"], ["*"]])
async def test_page_of_an_allowed_origin_may_call_a_server_in_a_private_network(origins: list[str]) -> None:
    async with scripted_backend(answer) as backend, serving(backend.url, cors=origins) as proxy:
        asks = {"Access-Control-Request-Private-Network": "true", "Access-Control-Request-Method": "POST"}
        for origin, fields, permission in (
            ("https://app.test", asks, "true"),
            ("https://app.test", {}, None),
            ("https://evil.test", asks, "true" if origins == ["*"] else None),
        ):
            async with proxy.session.options("/v1/models", headers={"Origin": origin, **fields}) as response:
                assert response.headers.get("Access-Control-Allow-Private-Network") == permission


async def test_any_origin_is_allowed_by_an_asterisk_and_without_credentials() -> None:
    async with scripted_backend(answer) as backend, serving(backend.url, cors=["*"]) as proxy:
        for origin in ("https://app.test", "null", "http://localhost:3000"):
            for path, body in (("/v1/chat/completions", {"messages": []}), ("/v1/v1/models", {})):
                _, headers, _ = await proxy.post(path, body, headers={"Origin": origin})
                assert headers["Access-Control-Allow-Origin"] == "*"
                assert "Access-Control-Allow-Credentials" not in headers
            preflight = {"Origin": origin, "Access-Control-Request-Headers": "authorization"}
            async with proxy.session.options("/v1/chat/completions", headers=preflight) as response:
                assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (204, "*")
                assert response.headers["Access-Control-Allow-Headers"] == "authorization"
        async with proxy.session.options("/v1/chat/completions") as response:
            assert response.status == 405


async def test_page_of_another_origin_may_read_all_headers_of_the_proxy() -> None:
    messages = [{"role": "user", "content": "word " * 970}]
    async with scripted_backend(answer, context=1000) as backend, serving(backend.url, cors=["*"]) as proxy:
        _, headers, _ = await proxy.chat(messages=messages, max_tokens=25, headers={"Origin": "https://app.test"})
    exposed = headers["Access-Control-Expose-Headers"].lower().split(", ")
    added = {name.lower() for name in headers if name.lower().startswith("x-drpo-")}
    assert {"x-drpo-reduced", "x-drpo-refusal"} <= added <= {*exposed}
    assert "x-drpo-max-tokens" in exposed


async def test_request_id_is_passed_on_or_generated() -> None:
    async with scripted_backend(answer) as backend, serving(backend.url) as proxy:
        _, headers, _ = await proxy.chat(headers={"X-Request-Id": "mine-1"})
        assert (headers["X-Request-Id"], backend.generating[-1].headers["X-Request-Id"]) == ("mine-1", "mine-1")
        _, headers, _ = await proxy.chat()
        assert headers["X-Request-Id"] == backend.generating[-1].headers["X-Request-Id"] != "mine-1"


async def test_openai_client_raises_its_own_exceptions() -> None:
    import openai

    async with scripted_backend(answer) as backend, serving(backend.url) as proxy:
        client = openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="any", max_retries=0)
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "hi"}])
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(model="scripted", messages=[])
        await client.close()


async def test_all_turns_of_a_conversation_have_one_session_id() -> None:
    async with scripted_backend(answer) as backend, serving(backend.url) as proxy:
        opening = {"role": "user", "content": "How do I make tea?"}
        for messages in (
            [opening],
            [opening, {"role": "assistant", "content": "Boil."}, {"role": "user", "content": "And then?"}],
            [{"role": "user", "content": "How do I make soup?"}],
        ):
            await proxy.chat(messages=messages, headers={"X-Session-ID": "a client's does not pass"})
        first, later, other = [one.headers["X-Session-ID"] for one in backend.generating]
        assert first == later != other
