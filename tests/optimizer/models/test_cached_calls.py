"""Tests that a reply is paid for once and survives a restart, and that the budget is never exceeded."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from optimizer.core.budget import Budget, Cost, Limits, Prices
from optimizer.core.concurrency import gather_or_cancel
from optimizer.core.errors import BudgetSpentError, RefusedRequestError, UnparsableReplyError
from optimizer.core.journal import Journal, read_journal
from optimizer.models.cached_calls import CachedCalls
from optimizer.models.http_client import Client, Endpoint, RetryPolicy
from optimizer.models.paid_replies import PricedClient
from optimizer.models.request import Json, Request, reply_reader
from optimizer.models.token_count import call_tokens
from tests.optimizer.scripted_endpoint import Reply, ScriptedEndpoint, completion, failure

PATIENT = RetryPolicy(attempts=3, first_wait=0.001)


@reply_reader("tests.read_text")
def read_text(reply: Any) -> Json:
    """Read the text; a text that begins with a question mark is unparsable."""
    text = reply["choices"][0]["message"]["content"]
    if text.startswith("?"):
        raise UnparsableReplyError("it asks back")
    return {"text": text}


@asynccontextmanager
async def calls(
    endpoint: ScriptedEndpoint, folder: Path, limits: Limits | None = None
) -> AsyncIterator[tuple[CachedCalls, Budget]]:
    """Yield a CachedCalls for a scripted endpoint, with the journal in `folder`, and its budget."""
    async with endpoint.server() as server:
        where = Endpoint(str(server.make_url("/v1")), "tiny")
        budget = Budget(limits or Limits())
        async with Client(where, 4, PATIENT) as client:
            with Journal(folder) as journal:
                made = CachedCalls({"judge": PricedClient(client, Prices(1.0, 2.0))}, journal, budget)
                yield made, budget
                await made.close(print)


def endpoint_with(*script: Reply) -> ScriptedEndpoint:
    left = list(script)
    return ScriptedEndpoint(lambda _body, _variant: left.pop(0) if len(left) > 1 else left[0])


def request_for(text: str, replicate: int = 0) -> Request:
    return Request(
        "judge", "chat/completions", {"messages": [{"role": "user", "content": text}], "max_tokens": 5}, replicate
    )


async def test_same_request_is_sent_once_concurrently_later_and_after_a_restart(tmp_path: Path) -> None:
    endpoint = endpoint_with(completion("Yes."))
    async with calls(endpoint, tmp_path) as (made, _):
        said = await asyncio.gather(*(made.ask(request_for("one"), read_text) for _ in range(5)))
        assert said == [{"text": "Yes."}] * 5
        await made.ask(request_for("one"), read_text)
        assert len(endpoint.seen) == 1
        await made.ask(request_for("one", replicate=1), read_text)
        await made.ask(request_for("two"), read_text)
        assert len(endpoint.seen) == 3
    again = endpoint_with(failure(400))
    async with calls(again, tmp_path) as (made, budget):
        assert await made.ask(request_for("one"), read_text) == {"text": "Yes."}
        assert again.seen == []
        assert budget.spent == Cost(3, 45, pytest.approx(3 * (12 * 1.0 + 3 * 2.0) / 1e6))


async def test_unparsable_reply_is_paid_and_requested_again(tmp_path: Path) -> None:
    endpoint = endpoint_with(completion("?"), completion("Yes."))
    async with calls(endpoint, tmp_path) as (made, budget):
        assert await made.ask(request_for("one"), read_text) == {"text": "Yes."}
        assert (len(endpoint.seen), budget.spent.calls) == (2, 2)
    async with calls(endpoint_with(completion("?")), tmp_path) as (made, _):
        with pytest.raises(UnparsableReplyError, match="3 replies could not be read: it asks back"):
            await made.ask(request_for("two"), read_text)


async def test_refused_request_costs_a_call_and_no_tokens(tmp_path: Path) -> None:
    async with calls(endpoint_with(failure(400, "prompt too long")), tmp_path) as (made, budget):
        with pytest.raises(RefusedRequestError, match="prompt too long"):
            await made.ask(request_for("one"), read_text)
        assert (budget.spent, budget.reserved) == (Cost(1), Cost())


async def test_attempt_that_may_be_billed_counts_in_full(tmp_path: Path) -> None:
    async with calls(endpoint_with(failure(500), completion("Yes.")), tmp_path) as (made, budget):
        await made.ask(request_for("one"), read_text)
        assert budget.spent.calls == 2
        assert budget.spent.tokens > 15 + 5
        spent = budget.spent
    async with calls(endpoint_with(failure(400)), tmp_path) as (_, budget):
        assert budget.spent == spent, "the journal comes to the same"


@pytest.mark.parametrize(
    ("limits", "what"), [(Limits(calls=7), "calls"), (Limits(tokens=700), "tokens"), (Limits(money=0.001), "money")]
)
async def test_budget_holds_for_concurrent_requests(limits: Limits, what: str, tmp_path: Path) -> None:
    async with calls(endpoint_with(completion("Yes.")), tmp_path, limits) as (made, budget):
        said = await asyncio.gather(
            *(made.ask(request_for(str(n)), read_text) for n in range(200)), return_exceptions=True
        )
    spent_out = [error for error in said if isinstance(error, BudgetSpentError)]
    assert spent_out
    assert {error.what for error in spent_out} == {what}
    assert budget.spent.calls <= (limits.calls or 10_000)
    assert budget.spent.tokens <= (limits.tokens or 10**9)
    assert budget.spent.money <= (limits.money or 1e9)
    assert (budget.reserved.calls, budget.reserved.tokens) == (0, 0)
    assert budget.reserved.money == pytest.approx(0)


async def test_the_end_of_the_budget_prints_no_stack_trace(tmp_path: Path) -> None:
    printed: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: printed.append(context))
    async with calls(endpoint_with(completion("Yes.")), tmp_path, Limits(calls=5)) as (made, _):
        with pytest.raises(BudgetSpentError):
            await gather_or_cancel(made.ask(request_for(str(n)), read_text) for n in range(200))
        await made.finish()
    gc.collect()
    assert printed == []


async def test_unanswered_request_of_a_killed_run_counts_as_spent(tmp_path: Path) -> None:
    async with calls(endpoint_with(completion("Yes.")), tmp_path) as (made, _):
        await made.ask(request_for("one"), read_text)
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'{"call":"sent","key":"k","role":"judge","tokens":500,"money":0.5}\n')
    async with calls(endpoint_with(completion("Yes.")), tmp_path) as (_, budget):
        assert (budget.spent.calls, budget.spent.tokens) == (2, 515)


def test_budget_limits_minutes() -> None:
    budget = Budget(Limits(minutes=10))
    budget.minutes = 9.9
    budget.reserve(Cost(1))
    budget.kept_calls = 10_000
    with pytest.raises(BudgetSpentError, match="minutes"):
        budget.reserve(Cost(1))


async def test_close_waits_for_sent_requests_alone(tmp_path: Path) -> None:
    answer, said = asyncio.Event(), list[str]()
    endpoint = ScriptedEndpoint(lambda _body, _variant: completion("Yes."), before_reply=answer.wait)
    async with calls(endpoint, tmp_path) as (made, budget):
        asked = [asyncio.create_task(made.ask(request_for(str(n)), read_text)) for n in range(9)]
        while not endpoint.seen:
            await asyncio.sleep(0.01)
        for task in asked:
            task.cancel()
        asyncio.get_running_loop().call_later(0.3, answer.set)
        await made.close(said.append)
        assert (len(endpoint.seen), budget.spent.calls) == (1, 1), "the first request of a form is sent alone"
        assert said == ["Waiting for the replies to paid calls: 1. Ctrl-C stops at once."]


async def test_attempt_without_a_connection_costs_no_call_and_ends_with_the_run(tmp_path: Path) -> None:
    patience, budget, errors = RetryPolicy(attempts=50, first_wait=5), Budget(Limits(calls=1)), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(context))
    async with Client(Endpoint("http://127.0.0.1:9/v1", "tiny"), 4, patience) as client:
        with Journal(tmp_path) as journal:
            made = CachedCalls({"judge": PricedClient(client, Prices(1.0, 2.0))}, journal, budget)
            asked = asyncio.create_task(made.ask(request_for("one"), read_text))
            while not any(event.get("call") == "failed" for event in journal.events):
                await asyncio.sleep(0.01)
            asked.cancel()
            await made.close(print)
            assert (budget.spent, budget.reserved) == (Cost(), Cost())
        with Journal(tmp_path) as journal:
            again = Budget(Limits())
            CachedCalls({"judge": PricedClient(client, Prices(1.0, 2.0))}, journal, again)
            assert again.spent == Cost(), "the journal comes to the same"
    assert not errors


async def test_no_request_is_sent_after_close(tmp_path: Path) -> None:
    endpoint = endpoint_with(completion("Yes."))
    async with calls(endpoint, tmp_path) as (made, _):
        await made.ask(request_for("one"), read_text)
        await made.close(print)
        assert await made.ask(request_for("one"), read_text) == {"text": "Yes."}
        with pytest.raises(asyncio.CancelledError):
            await made.ask(request_for("two"), read_text)
    assert len(endpoint.seen) == 1


def _without(usage: Any, text: str = "Yes.") -> Reply:
    message = {"role": "assistant", "content": text}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
    return 200, {}, orjson.dumps(body if usage is not None else {"choices": body["choices"]})


ASKED = "x" * 300
"""A prompt that is estimated as 101 tokens: one for three bytes, and one more."""


@pytest.mark.parametrize(
    ("usage", "tokens", "is_estimate"),
    [
        (None, 101 + 2, True),
        ({}, 101 + 2, True),
        ([], 101 + 2, True),
        ({"total_tokens": 7}, 101 + 2, True),
        ({"prompt_tokens": None, "completion_tokens": None}, 101 + 2, True),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, 101 + 2, True),
        ({"prompt_tokens": 40}, 40 + 2, True),
        ({"completion_tokens": 3}, 101 + 3, True),
        ({"prompt_tokens": 40, "completion_tokens": 3}, 43, False),
    ],
)
async def test_missing_token_counts_are_estimated(usage: Any, tokens: int, is_estimate: bool, tmp_path: Path) -> None:
    async with calls(endpoint_with(_without(usage)), tmp_path) as (made, budget):
        for number in range(2):
            await made.ask(request_for(ASKED, number), read_text)
        assert budget.spent.tokens == 2 * tokens
        assert budget.spent.money > 0
    notes = [event for event in read_journal(tmp_path) if event.get("note") == "estimated"]
    assert [event["role"] for event in notes] == ["judge"] * is_estimate, "it is said once"
    async with calls(endpoint_with(failure(400)), tmp_path) as (_, budget):
        assert budget.spent.tokens == 2 * tokens, "the journal comes to the same"


async def test_budget_of_tokens_ends_a_run_without_token_counts(tmp_path: Path) -> None:
    async with calls(endpoint_with(_without(None)), tmp_path, Limits(tokens=2_000)) as (made, budget):
        asking = (made.ask(request_for(ASKED, number), read_text) for number in range(100))
        errors = [error for error in await asyncio.gather(*asking, return_exceptions=True) if error]
        assert any(isinstance(error, BudgetSpentError) for error in errors)
        assert budget.spent.calls < 100
        assert budget.spent.tokens == 103 * budget.spent.calls


@pytest.mark.parametrize(
    ("body", "reply", "counts"),
    [
        ({"prompt": "x" * 30}, {"choices": [{"text": "y" * 9}]}, (11, 4)),
        ({"prompt": ["x" * 15, "x" * 15]}, {"choices": [{"text": "y" * 3}, {"text": "y" * 6}]}, (11, 4)),
        ({"messages": [{"role": "", "content": [{"text": "ш" * 15}]}]}, {"choices": [{"message": {}}]}, (11, 0)),
        ({"prompt": "x" * 30}, {"choices": [{"text": "yyy", "logprobs": {"tokens": ["y"] * 99}}]}, (11, 2)),
        ({"prompt": "x" * 30}, {"choices": [{"message": {"content": None, "reasoning": "y" * 9}}]}, (11, 4)),
        ({"prompt": "x" * 30}, None, (11, 0)),
        ({"prompt": "x" * 30}, {"choices": [None, 5, "text"]}, (11, 0)),
    ],
)
def test_estimate_counts_what_was_asked_and_what_was_written(body: Any, reply: Any, counts: tuple[int, int]) -> None:
    assert call_tokens(body, reply) == (counts, True)
