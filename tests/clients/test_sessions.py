"""Tests sessions of the clients: each keeps a conversation of several turns, and sends all of it each time.

The programs print a session as an object: its `turns`, an answer to a request with `tools` and tool_choice none
(`no_tools`), the first texts of streams that were `cancelled`, the same turn `repeated`, the last turn of an `edited`
history, and the answer to an `image` in an earlier turn. Every request has the same large limit of tokens.
"""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from tests.clients.answers import leftovers
from tests.clients.conftest import PROGRAMS, Results
from tests.clients.environments import python_of
from tools.steps import Say

Found = dict[str, Any]
CLIENTS: Final = {
    "openai-python": ("openai_session.py", ""),
    "openai-javascript": ("openai_session.mjs", ""),
    "vercel-compatible": ("vercel_session.mjs", "compatible"),
    "vercel-chat": ("vercel_session.mjs", "chat"),
    "vercel-responses": ("vercel_session.mjs", "responses"),
    "langchain-chat": ("langchain_session.py", "chat"),
    "langchain-responses": ("langchain_session.py", "responses"),
    "llama-index": ("llama_index_session.py", ""),
    "inspect-ai": ("inspect_ai_session.py", ""),
}
"""For each client, its program, and the name of the session in the output of the program."""
_ENVIRONMENTS: Final = {
    "langchain_session.py": "langchain",
    "llama_index_session.py": "llama-index",
    "inspect_ai_session.py": "inspect-ai",
}


@pytest.fixture(scope="module")
def output(results: Results, say: Say, request: pytest.FixtureRequest) -> Callable[[str], Found]:
    """A function that runs a program once, and returns what it printed."""
    printed: dict[str, Found] = {}

    def run(program: str) -> Found:
        if program not in printed:
            printed[program] = results(command(program))
        return printed[program]

    def command(program: str) -> list[str]:
        if program.endswith(".mjs"):
            folder: Path = request.getfixturevalue("node_folder")
            return ["node", str(folder / program)]
        python = python_of(_ENVIRONMENTS[program], say) if program in _ENVIRONMENTS else sys.executable
        return [str(python), str(PROGRAMS / program)]

    return run


@pytest.fixture(params=CLIENTS)
def session(request: pytest.FixtureRequest, output: Callable[[str], Found]) -> Found:
    program, name = CLIENTS[request.param]
    printed = output(program)
    found: Found = printed[name] if name else printed
    return found


def check(answer: Found) -> None:
    assert answer["text"], answer
    assert not leftovers(answer["text"]), answer
    assert answer["ended"] in ("stop", "completed"), answer
    assert "".join(answer.get("pieces", [answer["text"]])) == answer["text"]


def test_each_turn_is_answered_and_contains_the_earlier_ones(session: Found) -> None:
    turns = [*session["turns"], session["repeated"]]
    assert len(turns) > 4
    for turn in turns:
        check(turn)
    lengths = [turn["input"] for turn in turns]
    assert lengths == sorted(set(lengths)), "every turn adds to the prompt"
    assert lengths[0] > 100, "examples were injected"


def test_tools_that_may_not_be_called_do_not_prevent_an_answer(session: Found) -> None:
    check(session["no_tools"])


def test_cancelled_turn_is_answered_when_it_is_repeated(session: Found) -> None:
    check(session["repeated"])
    assert session["repeated"]["text"].startswith(session["cancelled"][0].lstrip())


def test_edited_history_is_answered(session: Found) -> None:
    check(session["edited"])


def test_image_in_the_history_is_named_as_what_a_base_model_cannot_read(session: Found) -> None:
    assert session["image"]["status"] == 400
    assert "a base model reads text" in session["image"]["message"]
    assert "image" in session["image"]["message"]


@pytest.mark.parametrize("program", ["vercel_session.mjs", "langchain_session.py"])
def test_reference_to_an_earlier_answer_is_refused_with_the_setting_to_change(
    output: Callable[[str], Found], program: str
) -> None:
    error = output(program)["referring"]
    assert error["status"] == 400
    setting = {"vercel_session.mjs": "store: false", "langchain_session.py": "whole conversation"}[program]
    assert setting in error["message"]


async def test_cancelled_streams_are_no_longer_in_flight(base_url: str, output: Callable[[str], Found]) -> None:
    assert len(output("openai_session.py")["cancelled"]) == 3
    async with aiohttp.ClientSession() as client, asyncio.timeout(60):
        lines = await metrics(client, base_url)
        while "drpo_requests_in_flight 0.0" not in lines:
            await asyncio.sleep(0.1)
            lines = await metrics(client, base_url)
    gone = [line for line in lines if line.startswith("drpo_requests_total{") and 'outcome="client_gone"' in line]
    assert sum(float(line.rpartition(" ")[2]) for line in gone) >= 3


async def metrics(client: aiohttp.ClientSession, base_url: str) -> list[str]:
    async with client.get(base_url.removesuffix("/v1") + "/metrics") as reply:
        return (await reply.text()).splitlines()
