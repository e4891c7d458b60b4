"""Guards that a request to a wrong path or with a wrong method is told the right one, and is logged and counted."""

import logging

import pytest

from proxy.core.log import LOGGER
from tests.faults.history import LogHistory
from tests.faults.scripted import Received, Reply, completion, scripted_backend
from tests.proxy.serving import serving

CHAT, COMPLETIONS, EMBEDDINGS, MODELS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models"
MEANT = {
    "/v1/v1/chat/completions": CHAT,
    "/v1/chat/completions/": CHAT,
    "/v1//chat/completions": CHAT,
    "/chat/completions": CHAT,
    "/V1/Chat/Completions": CHAT,
    "/v1/chat/completion": CHAT,
    "/v1/chat": CHAT,
    "/v2/chat/completions": CHAT,
    "/api/v1/chat/completions": CHAT,
    "/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21": CHAT,
    "/openai/deployments/my-gpt/embeddings": EMBEDDINGS,
    "/v1/engines/davinci/completions": COMPLETIONS,
    "/completions": COMPLETIONS,
    "/completion": COMPLETIONS,
    "/generate": COMPLETIONS,
    "/api/generate": COMPLETIONS,
    "/api/chat": CHAT,
    "/api/tags": MODELS,
    "/api/embed": EMBEDDINGS,
    "/v1/messages": CHAT,
    "/anthropic/v1/messages": CHAT,
    "/v1/messages/count_tokens": CHAT,
    "/v1beta/models/gemini-pro:generateContent": CHAT,
    "/v1beta/models/gemini-pro:streamGenerateContent": CHAT,
    "/embeddings": EMBEDDINGS,
    "/v1/embedding": EMBEDDINGS,
    "/responses": "/v1/responses",
    "/v1/response": "/v1/responses",
    "/models": MODELS,
    "/v1/models/": MODELS,
    "/v1": CHAT,
    "/v1/v1/": CHAT,
    "/v1/chat/completions/chatcmpl-1": CHAT,
    "/v1/responses/resp_1": "/v1/responses",
    "/v1/responses/resp_1/cancel": "/v1/responses",
    "/v1/engines": MODELS,
    "/": CHAT,
    "/health": "/health/ready",
    "/docs": "/openapi.json",
}


async def answer(reply: Reply, request: Received) -> None:
    await reply.whole(completion("Yes."))


@pytest.fixture
def history(caplog: pytest.LogCaptureFixture) -> LogHistory:
    caplog.set_level(logging.INFO, LOGGER.name)
    return LogHistory()


@pytest.mark.parametrize("path", MEANT)
async def test_wrong_path_is_404_that_names_the_right_one(path: str, history: LogHistory) -> None:
    LOGGER.addHandler(history)
    async with scripted_backend(answer) as backend, serving(backend.url) as proxy:
        async with proxy.session.post(path, json={"model": "scripted"}, headers={"X-Request-Id": "mine"}) as response:
            reply = await response.json()
            assert (response.status, response.content_type) == (404, "application/json")
            assert response.headers["X-Request-Id"] == "mine"
        page = await (await proxy.session.get("/metrics")).text()
        assert backend.generating == []
    LOGGER.removeHandler(history)
    assert reply["error"]["code"] == "unknown_url"
    assert f" {MEANT[path]}." in reply["error"]["message"]
    assert [(line.id, line.status, line.outcome) for line in history.lines] == [("mine", 404, "unknown_url")]
    assert 'outcome="unknown_url",route="unknown path",status="404",variant="none"} 1.0' in page


@pytest.mark.parametrize("path", ["/v1/images/generations", "/favicon.ico", "/v1/files", "/" + "a" * 5000])
async def test_path_without_a_counterpart_points_to_the_list_of_paths(path: str) -> None:
    async with scripted_backend(answer) as backend, serving(backend.url) as proxy:
        async with proxy.session.get(path) as response:
            assert response.status == 404
            assert "GET /openapi.json" in (await response.json())["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", CHAT, "POST"),
        ("PUT", CHAT, "POST"),
        ("DELETE", COMPLETIONS, "POST"),
        ("POST", MODELS, "GET, HEAD"),
        ("POST", "/v1/models/scripted", "GET, HEAD"),
        ("PROPFIND", "/metrics", "GET, HEAD"),
        ("OPTIONS", CHAT, "POST"),
    ],
)
async def test_wrong_method_is_405_with_allow_and_is_logged(
    method: str, path: str, allowed: str, history: LogHistory
) -> None:
    LOGGER.addHandler(history)
    async with scripted_backend(answer) as backend, serving(backend.url) as proxy:
        async with proxy.session.request(method, path) as response:
            assert (response.status, response.headers["Allow"]) == (405, allowed)
            assert (await response.json())["error"]["code"] == "method_not_allowed"
        page = await (await proxy.session.get("/metrics")).text()
    LOGGER.removeHandler(history)
    assert [(line.status, line.outcome) for line in history.lines] == [(405, "method_not_allowed")]
    route = path.replace("/v1/models/scripted", "/v1/models/{id}")
    assert f'outcome="method_not_allowed",route="{route}",status="405"' in page


async def test_path_of_a_request_is_in_no_error_log_or_metric(capfd: pytest.CaptureFixture[str]) -> None:
    async with scripted_backend(answer) as backend, serving(backend.url) as proxy:
        async with proxy.session.post("/v1/sk-canary/chat/completions?key=sk-canary") as response:
            assert "canary" not in await response.text()
        async with proxy.session.get("/metrics") as response:
            assert "canary" not in await response.text()
    assert "canary" not in capfd.readouterr().err
