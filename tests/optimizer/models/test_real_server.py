"""Tests a real llama.cpp server with three slots, which refuses n = 4, and a real small model as judge."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from optimizer.core.budget import Budget, Limits, Prices
from optimizer.core.errors import UnparsableReplyError
from optimizer.core.journal import Journal
from optimizer.core.model_tables import JudgeTable
from optimizer.core.request_form import RequestForm
from optimizer.models.cached_calls import CachedCalls
from optimizer.models.http_client import Client, Endpoint, RetryPolicy
from optimizer.models.paid_replies import PricedClient
from optimizer.models.request import Request
from optimizer.rewards.criteria import template_criteria
from optimizer.rewards.judge_model import Judge
from proxy.backends.embedded import child_main
from tests.model_files import SMALL_CHAT, model_file
from tests.optimizer.models.test_negotiation import read_texts

pytestmark = [pytest.mark.slow, pytest.mark.network]

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour."}]
CRITERIA = [template_criteria()["clarity"], template_criteria()["safety"]]


@contextmanager
def llama_cpp(weights: Path) -> Iterator[str]:
    """Serve a model with three slots; yields the base URL."""
    settings = {"weights": str(weights), "name": "m", "api_key": "k", "context": 2048, "slots": 3}
    command = [sys.executable, str(child_main.__file__)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(settings).encode() + b"\n")
        process.stdin.flush()
        yield json.loads(process.stdout.readline())["address"] + "/v1"
        process.stdin.close()


@asynccontextmanager
async def calls(url: str, folder: Path, form: RequestForm | None = None) -> AsyncIterator[tuple[CachedCalls, Budget]]:
    budget = Budget(Limits())
    policy = RetryPolicy(attempts=2, first_wait=0.01)
    async with Client(Endpoint(url, "m", "k"), 3, policy) as client:
        with Journal(folder) as journal:
            yield CachedCalls({"judge": PricedClient(client, Prices(), form or RequestForm())}, journal, budget), budget


@pytest.fixture(scope="module")
def small_chat() -> Iterator[str]:
    with llama_cpp(model_file(SMALL_CHAT, print)) as url:
        yield url


async def test_more_choices_than_slots_are_requested_in_parts(small_chat: str, tmp_path: Path) -> None:
    body = {"messages": MESSAGES, "n": 4, "temperature": 0.7, "max_tokens": 8}
    request = Request("judge", "chat/completions", body)
    async with calls(small_chat, tmp_path) as (made, budget):
        assert len((await made.ask(request, read_texts))["texts"]) == 4
        assert made.form("judge") == RequestForm(max_choices=2)
        assert budget.spent.calls == 3, "one refused request and two of two choices"
    async with calls(small_chat, tmp_path) as (made, budget):
        assert len((await made.ask(request, read_texts))["texts"]) == 4
        assert budget.spent.calls == 3


@pytest.mark.parametrize("reply_format", ["json_schema", "letter"])
async def test_small_model_judges_with_log_probabilities(reply_format: str, small_chat: str, tmp_path: Path) -> None:
    async with calls(small_chat, tmp_path, RequestForm(reply_format=reply_format)) as (made, _):
        try:
            rating = await Judge(made, JudgeTable()).rate_by("What is 2 + 2?", "It is 4.", CRITERIA)
        except UnparsableReplyError:
            assert reply_format == "letter", "the grammar of the schema enforces a verdict"
            return
        assert all(1 <= score <= 5 for score in rating.scores.values())
        assert not all(score.is_integer() for score in rating.scores.values()), "expectations over log-probabilities"
