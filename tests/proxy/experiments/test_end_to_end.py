"""Tests an experiment end to end: real model, two workers, PostgreSQL, feedback, and a worker that is killed."""

import asyncio
import os
import re
import secrets
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest

from proxy.experiments.store.dsn import dsn_of
from proxy.experiments.store.export import export
from proxy.experiments.store.stored_outcomes import StoredOutcomes
from tests.faults.process import Command, command
from tests.proxy.experiments.postgresql import PostgresqlServer

REQUESTS, AT_ONCE, TOKENS = 300, 4, 6
MODEL = "google/gemma-3-270m"
FILE = """
name = "end-to-end"
metrics = ["thumbs_up", "ended_by_itself"]
[[arms]]
name = "raw"
variant = "raw-matched"
weight = 50
[[arms]]
name = "aligned"
variant = "aligned"
weight = 50
"""


class Users:
    """Clients that send requests, and repeat their feedback until it is acknowledged.

    Attributes:
        server: The server.
        asked: Ids of all requests.
        answered: By request id, the reply header x-drpo-experiment of each request with a complete reply.
        acknowledged: By request id, each rating whose feedback request was answered with success.
    """

    def __init__(self, server: Command) -> None:
        self.server = server
        self.asked: list[str] = []
        self.answered: dict[str, str] = {}
        self.acknowledged: dict[str, float] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def ask(self, number: int) -> None:
        request_id = f"request-{number}-{secrets.token_hex(4)}"
        body = {"model": MODEL, "max_tokens": TOKENS, "messages": [{"role": "user", "content": f"Say {number % 7}"}]}
        headers = {"x-drpo-unit": f"user-{number % 60}", "x-request-id": request_id}
        async with self._turns:
            self.asked.append(request_id)
            status, reply_headers, _ = await self._post("/chat/completions", body, headers)
            if status == 200:
                self.answered[request_id] = reply_headers["x-drpo-experiment"]
            vote = {"request_id": request_id, "metric": "thumbs_up", "value": number % 3 == 0}
            for _ in range(50):
                if (await self._post("/feedback", vote, {}))[0] == 200:
                    self.acknowledged[request_id] = float(number % 3 == 0)
                    await self._post("/feedback", vote, {})  # a client that got no reply sends the feedback again
                    return
                await asyncio.sleep(0.1)

    async def _post(self, path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any, Any]:
        try:
            async with aiohttp.ClientSession() as session:
                async with session.post(self.server.url + path, json=body, headers=headers) as response:
                    return response.status, response.headers, await response.json(content_type=None)
        except (aiohttp.ClientError, OSError):
            return 0, {}, None


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_acknowledged_feedback_is_stored_once_although_a_worker_is_killed(
    postgresql: PostgresqlServer, tmp_path: Path
) -> None:
    file = tmp_path / "e.toml"
    file.write_text(FILE, encoding="utf-8")
    url = postgresql.database("endtoend")
    flags = ("--workers", "2", "--experiment", str(file), "--store", url)
    async with command("--backend", "embedded", "--bundle", "default", *flags) as server:
        users = Users(server)
        asking = [asyncio.create_task(users.ask(number)) for number in range(REQUESTS)]
        while len(users.acknowledged) < REQUESTS // 2:
            await asyncio.sleep(0.05)
        (victim, *_) = [pid for pid in server.workers() if b"proxy.server.worker" in _command_line(pid)]
        os.kill(victim, signal.SIGKILL)
        killed_with = len(users.answered)
        await asyncio.gather(*asking)
        await server.logged("worker restarted")
        counted = await _settled_counters(server)
        server.process.send_signal(signal.SIGTERM)
        await server.ended(60)

    rows = list(export(dsn_of(url), "end-to-end"))
    votes = Counter((row["subject"], row["value"]) for row in rows if row["type"] == "feedback")
    acknowledged = users.acknowledged
    exposed = [row["request_id"] for row in rows if row["type"] == "exposure"]
    missing = set(users.answered) - set(exposed)
    print(
        f"{len(users.asked)} asked, {len(users.answered)} answered ({killed_with} before the kill), "
        f"{len(acknowledged)} votes acknowledged, {len(exposed)} exposures kept, {len(missing)} lost with the worker"
    )
    assert len(acknowledged) == REQUESTS
    assert all(votes[request_id, value] == 1 for request_id, value in acknowledged.items() if request_id in exposed)
    assert _ratings_by_request(url) == Counter([*acknowledged]), "exactly once, whether or not the exposure is there"
    assert len(exposed) == len(set(exposed))
    assert len(missing) <= AT_ONCE, "at most what a worker served in the quarter of a second before it died"
    assert counted["dropped"] == 0
    assert counted["kept"] == len(exposed)
    assert 0 <= counted["enrolled"] - counted["kept"] <= 2 * AT_ONCE, "what was open, or not yet written, at the kill"
    assert all(
        users.answered[row["request_id"]] == f"end-to-end={row['arm']}" for row in rows if _is_answer(row, users)
    )
    units = list(StoredOutcomes(dsn_of(url)).units("end-to-end"))
    assert sum(unit.metrics["thumbs_up"][1] for unit in units) == len(set(exposed) & set(acknowledged))
    assert sum(unit.metrics["thumbs_up"][0] for unit in units) == sum(acknowledged[one] for one in set(exposed))


def _is_answer(row: dict[str, Any], users: Users) -> bool:
    return row["type"] == "exposure" and row["request_id"] in users.answered


def _ratings_by_request(url: str) -> Counter[str]:
    """Return the number of ratings of each request, from the table of feedback."""
    with psycopg.connect(url) as connection:
        return Counter(subject for (subject,) in connection.execute("SELECT subject FROM feedback"))


def _command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


async def _settled_counters(server: Command) -> dict[str, float]:
    """Return the counters when they have not changed for 3 seconds. A worker writes exposures four times a second."""
    unchanged, counted = 0, await _counters(server)
    while unchanged < 30:
        await asyncio.sleep(0.1)
        before, counted = counted, await _counters(server)
        unchanged = unchanged + 1 if counted == before else 0
    return counted


async def _counters(server: Command) -> dict[str, float]:
    _, text = await server.get("/metrics")

    def total(name: str) -> float:
        return sum(float(value) for value in re.findall(rf"^{name} ([0-9.e+]+)$", text, re.MULTILINE))

    return {
        "enrolled": total(r"drpo_experiment_requests_total\{[^}]*\}"),
        "kept": total(r'drpo_exposures_total\{result="kept"\}'),
        "dropped": total(r'drpo_exposures_total\{result="dropped"\}'),
    }
