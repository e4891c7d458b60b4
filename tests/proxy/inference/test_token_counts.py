"""Tests of token counts that a backend reports: what cannot be a count is not added up anywhere."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.api.auth import new_key
from proxy.inference.reply_progress import MAX_TOKEN_COUNT, token_count
from tests.faults.scripted import Received, Reply, completion, scripted_backend
from tests.proxy.experiments.test_service import RunningExperiment, write
from tests.proxy.serving import serving

ABSURD = (-1, -5.0, 1e300, 2**31, 2**63, 2.5, True, "12", None, [], {"tokens": 3})


@pytest.mark.parametrize(("value", "count"), [(0, 0), (12, 12), (12.0, 12), (MAX_TOKEN_COUNT, MAX_TOKEN_COUNT)])
def test_count_is_a_whole_number_from_zero(value: object, count: int) -> None:
    assert token_count(value) == count


@pytest.mark.parametrize("value", [*ABSURD, float("nan"), float("inf"), 10**400], ids=lambda value: repr(value)[:20])
def test_value_that_cannot_be_a_count_is_none(value: object) -> None:
    assert token_count(value) is None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("value", ABSURD, ids=repr)
async def test_absurd_usage_reaches_no_metric_no_limit_and_no_experiment(
    value: object, stream: bool, tmp_path: Path
) -> None:
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    usage = {**dict.fromkeys(names, value), "prompt_tokens_details": {"cached_tokens": value}}

    async def answer(reply: Reply, request: Received) -> None:
        if not stream:
            return await reply.whole(completion("Because of air.", usage=usage))
        await reply.begin()
        chunk = {"id": "cmpl-1", "choices": [{"index": 0, "text": "Air.", "finish_reason": "stop"}]}
        for event in (chunk, {"id": "cmpl-1", "choices": [], "usage": usage}):
            await reply.chunk(b"data: " + orjson.dumps(event) + b"\n\n")
        await reply.chunk(b"data: [DONE]\n\n")
        return await reply.end()

    key, line = new_key("alice")
    (tmp_path / "keys").write_text(f"{line} tokens_per_minute=100000", encoding="utf-8")
    settings: dict[str, Any] = {"experiment": (write(tmp_path),), "store": f"sqlite:{tmp_path}/s.sqlite3"}
    async with (
        scripted_backend(answer) as backend,
        serving(backend.url, api_keys_file=str(tmp_path / "keys"), **settings) as proxy,
    ):
        body = {"model": "scripted", "messages": [{"role": "user", "content": "Why?"}], "stream": stream}
        for _ in range(2):
            async with proxy.session.post(
                "/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"}
            ) as response:
                assert response.status == 200
                assert b"error" not in await response.read()
        metrics = proxy.gateway.metrics.exposition().decode()
    counts = [line.split()[-1] for line in metrics.splitlines() if line.startswith("drpo_tokens_total{")]
    assert set(counts) <= {"0.0"}
    rows = RunningExperiment(proxy, tmp_path).rows()
    assert [(row["prompt_tokens"], row["completion_tokens"]) for row in rows] == [(None, None)] * 2
