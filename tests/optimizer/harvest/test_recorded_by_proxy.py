"""Tests a harvest of records that the proxy itself wrote: chat, streams, the Responses API, feedback and verdicts."""

import asyncio
from pathlib import Path
from typing import Any

from optimizer.data.preferences import JUDGED, REGENERATED
from optimizer.harvest.run import HarvestSettings, harvest_store
from optimizer.harvest.store.session import store_address
from tests.faults.scripted import Received, Reply, completion_events
from tests.proxy.experiments.test_shadow_judge import judging, until


class Silent:
    """Shows no progress."""

    def begin(self, what: str, total: int) -> None: ...

    def advance(self, count: int = 1) -> None: ...


async def numbered(reply: Reply, request: Received) -> None:
    """Answer with the length of the prompt, which differs between the arms, and never twice in the same way."""
    injected = request.json["prompt"].startswith("Answer well.")
    numbered.count += 1  # type: ignore[attr-defined]
    words = ["Air", " scatters", " light,", f" {numbered.count}"]  # type: ignore[attr-defined]
    text = "".join(words) + (" Blue light is scattered the most." if injected else "")
    if request.json.get("stream"):
        await reply.begin()
        for event in completion_events([text[:5], text[5:]]):
            await reply.chunk(event)
        await reply.end()
    else:
        await reply.whole({"id": f"c{len(text)}", "choices": [{"index": 0, "text": text, "finish_reason": "stop"}]})


numbered.count = 0  # type: ignore[attr-defined]


async def test_texts_votes_and_verdicts_that_the_proxy_recorded_are_harvested(tmp_path: Path) -> None:
    async with judging(tmp_path, script=numbered, store_content=True) as (one, _):

        async def chat(user: str, text: str, **fields: Any) -> str:
            status, headers, _ = await one.proxy.chat(text, headers={"x-drpo-unit": user}, **fields)
            assert status == 200, text
            return str(headers["x-request-id"])

        async def vote(request_id: str, metric: str, value: object) -> None:
            body = {"request_id": request_id, "metric": metric, "value": value}
            assert (await one.proxy.post("/v1/feedback", body))[0] == 200

        await vote(await chat("a", "Why is the sky blue?"), "thumbs_up", True)
        bad = await chat("b", "What is a rainbow?")
        await vote(bad, "thumbs_up", False)
        await vote(bad, "comment", "Too short.")
        await chat("c", "What is fog?")
        await asyncio.sleep(0.01)
        await one.proxy.stream(messages=[{"role": "user", "content": "What is fog?"}], user="c")
        await one.proxy.post("/v1/responses", {"model": "scripted", "input": "What is snow?"})
        await until(one, "judged", 4)
    result = await asyncio.to_thread(
        harvest_store, store_address(f"sqlite:{tmp_path}/s.sqlite3"), HarvestSettings(), Silent()
    )
    assert (result.read["requests"], result.read["with_text"]) == (5, 5)
    assert [one.example.query for one in result.harvest.examples][:1] == ["Why is the sky blue?"]
    (row,) = result.harvest.rows
    assert (row.row.query, row.comments) == ("What is a rainbow?", ("Too short.",))
    sources = [pair.source for pair in result.harvest.pairs]
    assert sources.count(JUDGED) >= 4
    assert sources.count(REGENERATED) == 1
